"""The web config of a running exporter: headers, limits, and what a changed file does."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from llem_exporter.web_config import WebConfig
from tests.llem_exporter.web_rig import (
    WebExporter,
    WebFolder,
    authorization,
    client_context,
    hashed,
    write_whole,
)
from tests.servers import wait_until

RELOAD_SECONDS = 10.0
HEADERS = {
    "X-Frame-Options": "deny",
    "X-Content-Type-Options": "nosniff",
    "X-XSS-Protection": "1; mode=block",
    "Strict-Transport-Security": "max-age=60",
    "Content-Security-Policy": "default-src 'self'",
}
ANN = authorization("ann", "word")

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


def wait_for_line(exporter: WebExporter, word: str) -> None:
    wait_until(lambda: exporter.lines(word), f"a line with {word!r}", RELOAD_SECONDS)


def test_an_empty_file_is_plain_http_for_everyone(web: WebFolder, servers: ExitStack) -> None:
    """As in the toolkit."""
    web.file.write_text("# nothing\n")
    assert servers.enter_context(WebExporter(web.file)).ask().status == 200


def test_headers_come_with_every_answer(serve: Serve) -> None:
    """With pages, streams, refusals and errors."""
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


def test_headers_change_with_the_file(web: WebFolder, serve: Serve) -> None:
    """No restart."""
    exporter = serve(http_server_config={"headers": {"X-Frame-Options": "deny"}})
    web.write(http_server_config={"headers": {"X-Frame-Options": "sameorigin"}})
    wait_until(
        lambda: exporter.ask().headers.get("X-Frame-Options") == "sameorigin",
        "the new header",
        RELOAD_SECONDS,
    )


def test_requests_can_be_limited(serve: Serve) -> None:
    """So many at once, then 429 until the interval has passed; a wrong password is counted, too."""
    exporter = serve(rate_limit={"interval": "2s", "burst": "3"}, basic_auth_users={"ann": hashed("word")})
    statuses = [exporter.ask(headers=headers).status for headers in (ANN, ANN, None, ANN)]
    assert statuses == [200, 200, 401, 429]
    limited = exporter.ask(headers=ANN)
    assert (limited.status, limited.headers["Retry-After"]) == (429, "1")
    time.sleep(2.1)
    assert exporter.ask(headers=ANN).status == 200


def test_users_change_with_the_file(web: WebFolder, serve: Serve) -> None:
    """Who is gone is out, with the password that was right a moment ago; who is new is in."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    bob = authorization("bob", "other")
    assert [exporter.ask(headers=who).status for who in (ANN, bob)] == [200, 401]
    web.write(basic_auth_users={"bob": hashed("other")})
    wait_for_line(exporter, "read again")
    assert [exporter.ask(headers=who).status for who in (ANN, bob)] == [401, 200]


def test_a_wrong_file_changes_nothing_and_is_said_once(web: WebFolder, serve: Serve) -> None:
    """One line when it goes wrong, one when it is right again; those in between see no difference."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    web.write(basic_auth_users={"ann": "word"})
    wait_for_line(exporter, "ERROR")
    time.sleep(2.5)
    assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]
    (line,) = exporter.lines("ERROR")
    assert f"--web.config.file {web.file}: basic_auth_users.ann is no bcrypt hash" in line
    web.write(colour="red")
    wait_for_line(exporter, "'colour' is no key")
    web.write(basic_auth_users={"ann": hashed("word")})
    wait_for_line(exporter, "good again")
    time.sleep(2.5)
    assert len(exporter.lines("ERROR")) == 2
    assert len(exporter.lines("read again")) == 1
    assert exporter.ask(headers=ANN).status == 200


def test_a_file_that_is_gone_changes_nothing(web: WebFolder, serve: Serve) -> None:
    """Said once; back, it counts again."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    web.file.unlink()
    wait_for_line(exporter, "cannot be read: No such file or directory")
    assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]
    web.write(basic_auth_users={"bob": hashed("other")})
    wait_for_line(exporter, "good again")
    assert exporter.ask(headers=authorization("bob", "other")).status == 200


@pytest.mark.parametrize("text", ["", "# half a fi", "http_server_config: {http2: true}\n"])
def test_a_running_exporter_does_not_become_more_open(web: WebFolder, serve: Serve, text: str) -> None:
    """A file that was emptied, or is half written, leaves the guard in place and is said."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    web.file.write_text(text)
    wait_for_line(exporter, "basic_auth_users is gone; to serve without it, restart")
    assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]


def test_tls_and_its_clients_stay_guarded(web: WebFolder, servers: ExitStack) -> None:
    """Neither TLS, nor certificates of clients, nor the list of their names can be dropped at run time."""
    strict = web.client_tls(client_allowed_sans=["prom.example"])
    context = client_context(web.authority, web.client("prom.example"))
    exporter = servers.enter_context(WebExporter(web.write(tls_server_config=strict), context=context))
    for looser, gone in (
        ({}, "tls_server_config is gone"),
        ({"tls_server_config": web.tls()}, "client_auth_type RequireAndVerifyClientCert is gone"),
        ({"tls_server_config": web.client_tls()}, "client_allowed_sans is gone"),
    ):
        web.write(**looser)
        wait_for_line(exporter, gone)
        assert exporter.ask().status == 200
        assert exporter.ask(context=client_context(web.authority, web.client("other.example"))).status == 403


def test_sighup_reads_at_once(web: WebFolder, serve: Serve) -> None:
    """Also a file that has not changed, and one that the watch would look at twice."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    os.kill(exporter.pid, signal.SIGHUP)
    wait_until(lambda: exporter.lines("read again"), "a line", 1)
    web.write(basic_auth_users={"bob": hashed("other")})
    os.kill(exporter.pid, signal.SIGHUP)
    wait_until(lambda: len(exporter.lines("read again")) == 2, "a second line", 1)
    assert exporter.ask(headers=authorization("bob", "other")).status == 200


def test_a_symlink_that_moves_is_a_change(web: WebFolder, servers: ExitStack) -> None:
    """As a mounted secret is renewed: the folder's link points to another folder."""
    for name, password in (("one", "first"), ("two", "second")):
        (web.folder / name).mkdir()
        inside = WebFolder(web.folder / name)
        inside.write(basic_auth_users={"ann": hashed(password)})
    link = web.folder / "now"
    link.symlink_to("one")
    exporter = servers.enter_context(WebExporter(link / "web.yml"))
    assert exporter.ask(headers=authorization("ann", "first")).status == 200
    (web.folder / "next").symlink_to("two")
    (web.folder / "next").replace(link)
    wait_for_line(exporter, "read again")
    assert exporter.ask(headers=authorization("ann", "second")).status == 200


def test_a_file_that_is_being_written_is_not_taken(web: WebFolder) -> None:
    """A change counts at the second look at which nothing has moved since the first."""
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
    """And nothing is ever read again."""
    config = WebConfig.load(None)
    assert (config.ssl_context, config.is_guarded) == (None, False)
    assert config.reload_if_changed(force=True) is False
