"""The web config of a running exporter: what a changed file does."""

import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from llem_exporter.web.reload import LiveWebConfig
from tests.llem_exporter.web.web_rig import (
    WebExporter,
    WebFolder,
    authorization,
    client_context,
    hashed,
    write_whole,
)
from tests.servers import wait_until
from tests.servers.process import STOP_SECONDS

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


def test_users_change_with_the_file(web: WebFolder, serve: Serve) -> None:
    """No restart or signal is needed. A removed user is rejected, a new one is accepted."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    assert [exporter.ask(headers=who).status for who in (ANN, BOB)] == [200, 401]
    web.write(basic_auth_users={"bob": hashed("other")})
    wait_until(lambda: exporter.lines("reloaded"), "the new file")
    assert [exporter.ask(headers=who).status for who in (ANN, BOB)] == [401, 200]


def test_an_invalid_file_changes_nothing(web: WebFolder, serve: Serve) -> None:
    """With an invalid or missing file, the previous configuration stays in effect. A valid one is applied."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    for text in ("basic_auth_users: {ann: word}", "basic_auth_users: {an"):
        exporter.read_again(
            partial(write_whole, web.file, text), "the previous configuration stays in effect"
        )
        assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]
    exporter.read_again(web.file.unlink, "cannot be read: No such file or directory")
    assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]
    users = {"bob": hashed("other")}
    exporter.read_again(lambda: web.write(basic_auth_users=users), "now valid")
    assert exporter.ask(headers=BOB).status == 200


@pytest.mark.parametrize("text", ["basic_auth_users: {}", "http_server_config: {http2: true}", "# half a fi"])
def test_without_users_nobody_gets_in(web: WebFolder, serve: Serve, text: str) -> None:
    """When the last user is removed, each request gets 401, also on open connections.

    The log says so. A new user is accepted without a restart.
    """
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    with exporter.pool() as pool:
        assert pool.request("GET", "/metrics", headers=ANN).status == 200
        exporter.read_again(partial(write_whole, web.file, text), "all requests are rejected with 401")
        assert pool.request("GET", "/metrics", headers=ANN).status == 401
    assert [exporter.ask(headers=who).status for who in (ANN, BOB, None)] == [401] * 3
    exporter.read_again(lambda: web.write(basic_auth_users={"bob": hashed("other")}), "now valid")
    assert [exporter.ask(headers=who).status for who in (ANN, BOB, None)] == [401, 200, 401]


def test_an_empty_file_changes_nothing(web: WebFolder, caplog: pytest.LogCaptureFixture) -> None:
    """An empty file is about to be written: the previous users stay."""
    config = LiveWebConfig(web.write(basic_auth_users={"ann": hashed("word")}))
    users = config.config.users
    web.file.write_text("")
    assert config.reload_if_changed(force=True) is False
    assert config.config.users == users
    assert "the file is empty" in caplog.messages[0]


@contextmanager
def leased(path: Path) -> Iterator[None]:
    """Make each open() of the file hang, as on a dead network file system. Source: fcntl(2), leases."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with path.open("r+") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            yield
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)


def hangs_in_open(exporter: WebExporter) -> bool:
    """Whether a thread of the exporter waits for a lease. Source: proc(5), task/TID/wchan."""
    return any("lease" in file.read_text() for file in Path(f"/proc/{exporter.pid}/task").glob("*/wchan"))


def test_a_hung_file_system_delays_no_request(web: WebFolder, serve: Serve) -> None:
    """While reading the file hangs, requests are served, and SIGTERM ends the process."""
    exporter = serve(basic_auth_users={"ann": hashed("word")})
    with leased(web.file):
        os.kill(exporter.pid, signal.SIGHUP)
        wait_until(lambda: hangs_in_open(exporter), "a thread that hangs")
        assert [exporter.ask(headers=who).status for who in (ANN, None)] == [200, 401]
        exporter.process.terminate()
        assert exporter.process.wait(STOP_SECONDS) == 0


def test_a_wrong_file_is_logged_once(web: WebFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Each error is logged once. One line is logged when the file is valid again."""
    caplog.set_level(logging.INFO)
    good = {"basic_auth_users": {"ann": hashed("word")}}
    config = LiveWebConfig(web.write(**good))
    for sections in ({"basic_auth_users": {"ann": "word"}}, {"colour": "red"}, good):
        web.write(**sections)
        for _ in range(25):
            assert config.reload_if_changed() is False
    no_hash, no_key, good_again = caplog.messages
    assert no_hash.startswith(f"--web.config.file {web.file}: basic_auth_users.ann is not a bcrypt hash")
    assert "'colour' is not supported" in no_key
    assert good_again.endswith("reloaded, now valid")


def test_tls_stays_without_its_section(web: WebFolder, servers: ExitStack) -> None:
    """When tls_server_config is missing, HTTPS and client certificates stay. The log says so.

    The other sections are applied: removed users are rejected.
    """
    strict = web.client_tls(client_allowed_sans=["prom.example"])
    context = client_context(web.authority, web.client("prom.example"))
    stranger = client_context(web.authority, web.client("other.example"))
    config = web.write(tls_server_config=strict, basic_auth_users={"ann": hashed("word")})
    exporter = servers.enter_context(WebExporter(config, context=context))
    assert exporter.ask(headers=ANN).status == 200
    exporter.read_again(
        partial(web.write, basic_auth_users={"bob": hashed("other")}), "tls_server_config is missing"
    )
    assert [exporter.ask(headers=who).status for who in (ANN, BOB)] == [401, 200]
    assert exporter.ask(headers=BOB, context=stranger).status == 403


def test_sighup_reads_a_file_that_has_not_changed(serve: Serve) -> None:
    """The log has a line that the file was reloaded."""
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
    config = LiveWebConfig(web.file)
    (web.folder / "next").symlink_to("two")
    (web.folder / "next").replace(web.folder / "now")
    config.reload_if_changed()
    assert caplog.messages == [], "it may be half-written"
    config.reload_if_changed()
    assert caplog.messages == [f"--web.config.file {web.file}: reloaded"]


def test_a_file_is_read_only_after_a_change(web: WebFolder) -> None:
    """An unchanged file is not read, also if it has been written again."""
    config = LiveWebConfig(web.write(basic_auth_users={"ann": hashed("word")}))
    assert (config.needs_password, config.ssl_context) == (True, None)
    users = {"ann": hashed("word")}
    web.write(basic_auth_users=users, tls_server_config=web.tls())
    assert [config.reload_if_changed(), config.reload_if_changed()] == [False, True]
    context = config.ssl_context
    assert context is not None
    web.write(basic_auth_users=users, tls_server_config=web.tls())
    assert [config.reload_if_changed(), config.reload_if_changed()] == [False, False]
    assert config.ssl_context is context


def test_without_a_file_nothing_is_guarded() -> None:
    """Without a config file there is no authentication, and nothing is reloaded."""
    config = LiveWebConfig(None)
    assert (config.ssl_context, config.needs_password) == (None, False)
    assert config.reload_if_changed(force=True) is False
