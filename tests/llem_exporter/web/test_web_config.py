"""The web config of a running exporter: headers, limits, and what a changed file does."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from llem_exporter.web.config import WebConfig
from llem_exporter.web.rate_limit import TokenBucket
from tests.llem_exporter.web.web_rig import (
    WebExporter,
    WebFolder,
    authorization,
    client_context,
    hashed,
    write_whole,
)
from tests.servers import wait_until

HEADERS = {
    "X-Frame-Options": "deny",
    "X-Content-Type-Options": "nosniff",
    "X-XSS-Protection": "1; mode=block",
    "Strict-Transport-Security": "max-age=60",
    "Content-Security-Policy": "default-src 'self'",
}
ANN, BOB = authorization("ann", "word"), authorization("bob", "other")

Serve = Callable[..., WebExporter]


@pytest.fixture
def web(tmp_path: Path) -> WebFolder:
    return WebFolder(tmp_path)


@pytest.fixture
def serve(web: WebFolder, servers: ExitStack) -> Serve:
    """Start an exporter with these sections in its web config file, over plain HTTP."""

    def start(**sections: object) -> WebExporter:
        return servers.enter_context(WebExporter(web.write(**sections)))

    return start


def test_an_empty_file_is_plain_http_for_everyone(web: WebFolder, servers: ExitStack) -> None:
    """As in exporter-toolkit, an empty file means plain HTTP without authentication."""
    web.file.write_text("# nothing\n")
    assert servers.enter_context(WebExporter(web.file)).ask().status == 200


def test_headers_come_with_every_answer(serve: Serve) -> None:
    """Headers are sent with pages, streams, rejections and errors."""
    exporter = serve(http_server_config={"headers": HEADERS}, basic_auth_users={"ann": hashed("word")})
    answers = {
        200: exporter.ask("/metrics", ANN),
        401: exporter.ask(),
        404: exporter.ask("/none", ANN),
        405: exporter.ask("/metrics", ANN, method="POST"),
    }
    streamed = exporter.ask("/history?since=0", ANN)
    for status, answer in [*answers.items(), (200, streamed), (200, exporter.ask("/", ANN, method="HEAD"))]:
        assert answer.status == status
        assert dict(answer.headers) | HEADERS == dict(answer.headers)


def test_requests_can_be_limited(serve: Serve) -> None:
    """After a burst of 3, requests get 429 with a Retry-After header. Wrong passwords count."""
    exporter = serve(rate_limit={"interval": "1h", "burst": "3"}, basic_auth_users={"ann": hashed("word")})
    statuses = [exporter.ask(headers=headers).status for headers in (ANN, ANN, None, ANN)]
    assert statuses == [200, 200, 401, 429]
    assert exporter.ask(headers=ANN).headers["Retry-After"] == "1"


def test_one_more_request_is_allowed_each_interval() -> None:
    """The bucket gains one request per interval, up to the burst."""
    now_s = 0.0
    bucket = TokenBucket(2.0, 3, lambda: now_s)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now_s += 1.9
    assert not bucket.take()
    now_s += 0.1
    assert [bucket.take() for _ in range(2)] == [True, False]
    now_s += 100
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_users_and_headers_change_with_the_file(web: WebFolder, serve: Serve) -> None:
    """No restart or signal is needed. A removed user is rejected, a new one is accepted."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    assert [exporter.ask(headers=who).status for who in (ANN, BOB)] == [200, 401]
    headers = {"headers": {"X-Frame-Options": "sameorigin"}}
    web.write(basic_auth_users={"bob": hashed("other")}, http_server_config=headers)
    wait_until(lambda: exporter.lines("read again"), "the new file")
    assert [exporter.ask(headers=who).status for who in (ANN, BOB)] == [401, 200]
    assert exporter.ask(headers=BOB).headers["X-Frame-Options"] == "sameorigin"


def test_a_running_exporter_does_not_become_more_open(web: WebFolder, serve: Serve) -> None:
    """An invalid, missing, emptied or incomplete file changes nothing. A valid one is applied."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    gone = "basic_auth_users is gone; to serve without it, restart"
    wrong = "basic_auth_users: {ann: word}"
    for text, error in (
        ("", gone),
        (wrong, "basic_auth_users.ann is no bcrypt hash"),
        ("# half a fi", gone),
        (wrong, "basic_auth_users.ann is no bcrypt hash"),
        ("http_server_config: {http2: true}\n", gone),
    ):
        exporter.read_again(partial(write_whole, web.file, text), error)
        assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]
    exporter.read_again(web.file.unlink, "cannot be read: No such file or directory")
    assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]
    users = {"bob": hashed("other")}
    exporter.read_again(lambda: web.write(basic_auth_users=users), "good again")
    assert exporter.ask(headers=BOB).status == 200


def test_a_wrong_file_is_logged_once(web: WebFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Each error is logged once. One line is logged when the file is valid again."""
    caplog.set_level(logging.INFO)
    good = {"basic_auth_users": {"ann": hashed("word")}}
    config = WebConfig.load(web.write(**good))
    for sections in ({"basic_auth_users": {"ann": "word"}}, {"colour": "red"}, good):
        web.write(**sections)
        for _ in range(25):
            assert config.reload_if_changed() is False
    no_hash, no_key, good_again = caplog.messages
    assert no_hash.startswith(f"--web.config.file {web.file}: basic_auth_users.ann is no bcrypt hash")
    assert "'colour' is no key" in no_key
    assert good_again.endswith("read again, and good again")


def test_tls_and_its_clients_stay_guarded(web: WebFolder, servers: ExitStack) -> None:
    """TLS, client certificates and the list of allowed names cannot be removed at run time."""
    strict = web.client_tls(client_allowed_sans=["prom.example"])
    context = client_context(web.authority, web.client("prom.example"))
    stranger = client_context(web.authority, web.client("other.example"))
    exporter = servers.enter_context(WebExporter(web.write(tls_server_config=strict), context=context))
    for looser, gone in (
        ({}, "tls_server_config is gone"),
        ({"tls_server_config": web.tls()}, "client_auth_type RequireAndVerifyClientCert is gone"),
        ({"tls_server_config": web.client_tls()}, "client_allowed_sans is gone"),
    ):
        exporter.read_again(partial(web.write, **looser), gone)
        assert exporter.ask().status == 200
        assert exporter.ask(context=stranger).status == 403


def test_sighup_reads_a_file_that_has_not_changed(serve: Serve) -> None:
    """The log has a line that the file was read again."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    exporter.read_again(lambda: None)


def test_a_symlink_that_moves_is_a_change(web: WebFolder, caplog: pytest.LogCaptureFixture) -> None:
    """A mounted secret is renewed through a symbolic link to a folder."""
    caplog.set_level(logging.INFO)
    for name in ("one", "two"):
        (web.folder / name).mkdir()
        WebFolder(web.folder / name).write(basic_auth_users={name: hashed("word")})
    (web.folder / "now").symlink_to("one")
    web.file.symlink_to("now/web.yml")
    config = WebConfig.load(web.file)
    (web.folder / "next").symlink_to("two")
    (web.folder / "next").replace(web.folder / "now")
    for _ in range(2):
        config.reload_if_changed()
    assert caplog.messages == [f"--web.config.file {web.file}: read again"]


def test_a_file_that_is_being_written_is_not_taken(web: WebFolder) -> None:
    """A change is applied only if the files are the same at two checks."""
    config = WebConfig.load(web.write(basic_auth_users={"ann": hashed("word")}))
    assert config.is_guarded
    context = None
    for number in range(3):
        write_whole(web.file, f"tls_server_config: # {'x' * number}\n  cert_file: cert.pem\n")
        assert config.reload_if_changed() is False
    web.write(basic_auth_users={"ann": hashed("word")}, tls_server_config=web.tls())
    assert (config.reload_if_changed(), config.ssl_context) == (False, context)
    assert config.reload_if_changed() is True
    context = config.ssl_context
    assert context is not None
    assert (config.reload_if_changed(), config.reload_if_changed(force=True)) == (False, False)
    assert config.ssl_context is context, "equal files make no new context"


def test_without_a_file_nothing_is_guarded() -> None:
    """Without a config file there is no authentication, and nothing is read again."""
    config = WebConfig.load(None)
    assert (config.ssl_context, config.is_guarded) == (None, False)
    assert config.reload_if_changed(force=True) is False
