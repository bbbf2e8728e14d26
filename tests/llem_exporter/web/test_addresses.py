"""Where the exporter listens: several addresses, IPv6, and sockets that systemd hands over."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from llem_core.errors import ConfigError
from llem_exporter import systemd
from llem_exporter.web.addresses import Address, listen
from tests.llem_exporter.page import MetricsPage
from tests.llem_exporter.test_cli import has_ipv6_loopback, run
from tests.llem_exporter.web.web_rig import WebExporter, WebFolder, client_context
from tests.servers import Exporter, program, wait_until

WIDE = re.compile(r"WARNING anyone who can connect to (.*) can read the pages")


class AddressedExporter(Exporter):
    """An exporter on these addresses; `urls` are what it says."""

    def __init__(self, *addresses: str, args: Sequence[str] = ("--replay", "demo")) -> None:
        super().__init__(args=args)
        self._addresses = addresses

    @property
    def urls(self) -> list[str]:
        return re.findall(r"listening on (\S+)", self.log())

    def _command(self) -> Sequence[str]:
        options = [part for address in self._addresses for part in ("--web.listen-address", address)]
        return [*list(super()._command())[:3], *options, *self._args]

    def _ready(self) -> bool:
        return len(self.urls) >= len(self._addresses)


def healthy(url: str) -> bool:
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        return pool.request("GET", f"{url}/-/healthy").data == b"healthy\n"


def test_it_listens_on_each_address(servers: ExitStack) -> None:
    """The option may be repeated. Loopback addresses give no warning."""
    exporter = servers.enter_context(AddressedExporter("127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"))
    hosts = [url.rpartition(":")[0] for url in exporter.urls]
    assert hosts == ["http://127.0.0.1", "http://127.0.0.2", "http://127.0.0.3"]
    assert all(healthy(url) for url in exporter.urls)
    assert "WARNING" not in exporter.log()


def test_everywhere_is_warned_about_once(servers: ExitStack) -> None:
    """Without TLS or a password, one line warns about all addresses that are not loopback."""
    exporter = servers.enter_context(AddressedExporter("127.0.0.1:0", ":0"))
    wait_until(lambda: WIDE.search(exporter.log()), "a warning")
    (wide,) = WIDE.findall(exporter.log())
    assert wide.startswith("[::]:" if socket.has_dualstack_ipv6() else "0.0.0.0:")
    assert "127.0.0.1" not in wide
    assert healthy(f"http://127.0.0.1:{wide.rpartition(':')[2]}")


def test_a_guarded_one_is_not_warned_about(servers: ExitStack, tmp_path: Path) -> None:
    """With TLS, there is no warning about non-loopback addresses."""
    web = WebFolder(tmp_path)
    config = web.write(tls_server_config=web.tls())
    context = client_context(web.authority)
    args = ("--replay", "demo", "--web.listen-address", "0.0.0.0:0")
    exporter = servers.enter_context(WebExporter(config, *args, context=context))
    assert "listening on https://0.0.0.0:" in exporter.log()
    assert exporter.ask("/-/healthy").status == 200
    assert "WARNING" not in exporter.log()


def test_ipv6_everywhere_is_ipv4_too(servers: ExitStack) -> None:
    """[::]:PORT listens on IPv4 and IPv6, as in Go. A machine without IPv6 gives an error."""
    if not has_ipv6_loopback():
        done = run("--replay", "demo", "--web.listen-address", "[::1]:0")
        assert done.stderr.startswith("Error: cannot listen on [::1]:0: ")
        return
    exporter = servers.enter_context(AddressedExporter("[::]:0"))
    (url,) = exporter.urls
    port = url.rpartition(":")[2]
    assert healthy(f"http://127.0.0.1:{port}")
    assert healthy(f"http://[::1]:{port}")


def test_of_several_addresses_one_in_use_ends_it(servers: ExitStack) -> None:
    """The error names the address in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^cannot listen on 127.0.0.1:{port}: Address already in use$"):
            listen(Address("127.0.0.1", port))
    listen(Address("127.0.0.1", port)).close()
    exporter = servers.enter_context(AddressedExporter("127.0.0.1:0"))
    address = exporter.urls[0].removeprefix("http://")
    done = run("--replay", "demo", "--web.listen-address", ":0", "--web.listen-address", address)
    assert done.stderr == f"Error: cannot listen on {address}: Address already in use\n"


class ActivatedExporter(Exporter):
    """An exporter that systemd-socket-activate starts for the first connection."""

    def _command(self) -> Sequence[str]:
        activate = program("systemd-socket-activate", "systemd")
        command = [*list(super()._command())[:3], "--web.systemd-socket", *self._args]
        return [activate, "--listen", self.address, "--listen", f"127.0.0.2:{self.port}", *command]

    def _ready(self) -> bool:
        return self._answers("/-/ready")


def test_it_serves_on_sockets_that_systemd_opened(servers: ExitStack) -> None:
    """A connection made before the start is served. The log names both sockets."""
    exporter = servers.enter_context(ActivatedExporter(args=("--replay", "demo")))
    assert f"listening on {exporter.url}\n" in exporter.log()
    assert healthy(f"http://127.0.0.2:{exporter.port}")
    assert MetricsPage(exporter.metrics()).value("llem_sampler_interval_seconds") == 0.1


def test_without_sockets_from_systemd_it_says_so() -> None:
    """Sockets meant for another process are an error as well. The variables are removed."""
    pid = str(os.getpid())
    for environ in (
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": pid},
        {"LISTEN_PID": pid, "LISTEN_FDS": "9" * 5_000},
    ):
        with pytest.raises(ConfigError, match="systemd passed no socket; use a"):
            systemd.take_sockets(environ, os.getpid())
        assert environ == {}


def test_what_is_no_listening_socket_is_named(tmp_path: Path) -> None:
    """A pipe or a datagram socket gives an error of one line."""
    script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" --web.systemd-socket 3<&0'
    command = ["sh", "-c", script, "-", sys.executable, "-m", "llem_exporter", "--replay", "demo"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=30, check=False)
    error = "Error: --web.systemd-socket: file descriptor 3 is not a listening stream socket; "
    assert done.stderr == f"{error}use ListenStream=\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(tmp_path / "datagrams"))
        done = subprocess.run(
            command, stdin=datagrams.fileno(), capture_output=True, text=True, timeout=30, check=False
        )
    assert done.stderr == f"{error}use ListenStream=\n"


@pytest.mark.parametrize("form", ["{}/notify", "@llem-test-{}"])
def test_the_service_manager_is_notified_when_it_serves(
    servers: ExitStack, tmp_path: Path, form: str
) -> None:
    """READY=1 is sent once, when the exporter listens, to a path or to an abstract socket."""
    address = form.format(tmp_path if form.startswith("{") else os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        manager.settimeout(30)
        exporter = servers.enter_context(Exporter(args=("--replay", "demo"), env={"NOTIFY_SOCKET": address}))
        assert manager.recv(100) == b"READY=1"
        assert exporter.fetch("/-/healthy").status == 200
        exporter.terminate()
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_the_hand_over_knows_connections_under_tls(servers: ExitStack, tmp_path: Path) -> None:
    """A second request on the same connection confirms the first response.

    On another connection it does not.
    """
    web = WebFolder(tmp_path)
    config = web.write(tls_server_config=web.tls())
    exporter = servers.enter_context(WebExporter(config, context=client_context(web.authority)))

    def confirmed() -> float:
        page = MetricsPage(exporter.ask("/metrics").data.decode())
        return page.value("llem_history_confirmed_samples_total")

    wait_until(lambda: b"_trace_watts{" in exporter.ask("/history?since=0").data, "samples")
    exporter.ask("/history?scraper=a")
    exporter.ask("/history?scraper=a")
    assert confirmed() == 0
    with exporter.pool() as pool:
        pool.request("GET", "/history?scraper=b")
        pool.request("GET", "/history?scraper=b")
        assert pool.num_connections == 1
    assert confirmed() > 0
