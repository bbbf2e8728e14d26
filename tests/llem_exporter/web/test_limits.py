"""What a client cannot do to the exporter, and what the others see of it meanwhile."""

import asyncio
import errno
import gc
import http.client
import os
import socket
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme
import urllib3
from aiohttp import web

from llem_exporter.web.limits import Connections
from tests.bench.bench_exporter import PrefilledExporter
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import history, scrape
from tests.llem_exporter.web.socket_rig import (
    LimitedExporter,
    bad_clients,
    connect,
    crowd,
    descriptors,
    get,
    is_closed,
    memory_mb,
    sends,
    status_of,
)
from tests.llem_exporter.web.web_rig import LimitedWebExporter, WebExporter, WebFolder, client_context
from tests.servers import Exporter, wait_until

SCRAPES = 16


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    """An exporter that logs no error."""
    with Exporter(args=["--replay", "demo", "--no-collector.codecarbon"]) as exporter:
        yield exporter
        assert "Traceback" not in exporter.log()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter whose /history is 15 min of 8 GPUs: more than any socket's buffers hold."""
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    with (
        FakeDriver(tmp_path_factory.mktemp("driver"), gpus=8) as driver,
        PrefilledExporter(env=driver.env, args=args) as exporter,
    ):
        wait_until(lambda: exporter.fetch("/-/ready").status == 200, "ready")
        yield exporter
        assert "ERROR" not in exporter.log()


def test_idle_connections_stop_no_scrape(servers: ExitStack) -> None:
    """With 64 descriptors and 100 idle clients, every scrape is served and one line is logged.

    The persistent connection of a /history scraper stays open.
    """
    exporter = servers.enter_context(LimitedExporter(64))
    kept = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=30)
    wait_until(lambda: history(exporter), "samples")
    kept.request("GET", "/history?scraper=a")
    assert kept.getresponse().read()
    own = kept.sock.getsockname()
    with crowd(exporter, 100):
        for _ in range(20):
            assert exporter.fetch("/metrics").status == 200
        assert descriptors(exporter) < 50
    kept.request("GET", "/history?scraper=a")
    assert kept.getresponse().read()
    assert kept.sock.getsockname() == own
    assert scrape(exporter).value("llem_history_confirmed_samples_total") > 0
    warnings = [line for line in exporter.log().splitlines() if "WARNING" in line]
    assert [line.partition("WARNING ")[2] for line in warnings] == [
        "the limit of 32 connections is reached; the longest idle connection is closed for each new one"
    ]
    kept.close()


@pytest.mark.parametrize("is_tls", [False, True])
def test_200_bad_clients_stop_no_scrape(servers: ExitStack, tmp_path: Path, is_tls: bool) -> None:
    """With 64 descriptors and 200 idle, half-open and garbage clients that reconnect, scrapes are served."""
    folder = WebFolder(tmp_path)
    config = folder.write(**({"tls_server_config": folder.tls()} if is_tls else {}))
    context = client_context(folder.authority) if is_tls else None
    exporter = servers.enter_context(LimitedWebExporter(config, context=context))
    with bad_clients(exporter, 200), exporter.pool() as pool:
        for _ in range(10):
            assert pool.request("GET", "/metrics").status == 200
            assert exporter.ask().status == 200
    assert not exporter.lines("ERROR") + exporter.lines("Traceback")


def test_a_process_without_descriptors_says_so_once(servers: ExitStack) -> None:
    """Without free descriptors, idle connections are closed, scrapes are served, and one line is logged."""
    exporter = servers.enter_context(LimitedExporter(24, held=9))
    with crowd(exporter, 12):
        for _ in range(4):
            assert exporter.fetch("/metrics").status == 200
    logged = [line for line in exporter.log().splitlines() if "WARNING" in line or "ERROR" in line]
    assert [line.partition("WARNING ")[2] for line in logged] == [
        "cannot accept connections: Too many open files; the longest idle connection is closed; "
        "raise the open file limit (LimitNOFILE=)"
    ]


class ExhaustedListener(socket.socket):
    """A listening socket that accepts one client. After it, the process has no free descriptors."""

    accepted = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.accepted += 1
        if self.accepted > 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_a_connection_accepted_just_before_the_last_descriptor_makes_room() -> None:
    """If the next accept() fails at once, the connection before it is closed, although it is not open yet."""

    async def run() -> None:
        async def answer(_: web.BaseRequest) -> web.Response:
            return web.Response()

        listener = ExhaustedListener()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        connections, server = Connections(256, tuple, lambda _: None), web.Server(answer)
        with socket.create_connection(listener.getsockname()) as client, listener:
            client.setblocking(False)
            accepting = asyncio.create_task(connections.accept(listener, server, lambda: None))
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 30) == b""
            accepting.cancel()
        assert len(connections) == 0

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"not a handshake" * 4])
def test_a_failed_handshake_frees_its_buffers_at_once(sent: bytes) -> None:
    """Each has 256 KiB. Without this they would stay until the garbage collector runs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    async def run() -> int:
        async def answer(_: web.BaseRequest) -> web.Response:
            return web.Response()

        connections, server = Connections(256, tuple, lambda _: None), web.Server(answer)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = asyncio.create_task(connections.accept(listener, server, lambda: context))
            for _ in range(5):
                with socket.create_connection(listener.getsockname()) as client:
                    client.sendall(sent)
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            accepting.cancel()
        assert len(connections) == 0
        return sum(type(thing) is SSLProtocol for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(run()) == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "framing", ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello"]
)
def test_a_body_is_refused(exporter: Exporter, framing: str) -> None:
    """A body returns 413 and closes the connection. The body is not read as a request."""
    with connect(exporter) as client:
        client.sendall(f"POST /metrics HTTP/1.1\r\nHost: x\r\n{framing}".encode())
        assert status_of(client) == 413
        wait_until(lambda: is_closed(client), "the connection's end")


def test_a_large_body_is_not_read(exporter: Exporter) -> None:
    """The connection is closed long before 200 MB are sent."""
    with connect(exporter) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n")
        assert sends(client, b"x" * 1_000_000, times=200) < 20


def slow_readers(stack: ExitStack, exporter: Exporter, count: int, timeout_s: int) -> list[socket.socket]:
    """Clients that ask for all of the history, take its first bytes, and no more."""
    clients = [stack.enter_context(connect(exporter, 4096)) for _ in range(count)]
    for client in clients:
        client.sendall(get("/history?since=0", f"X-Prometheus-Scrape-Timeout-Seconds: {timeout_s}"))
        assert client.recv(12) == b"HTTP/1.1 200"
    return clients


def test_scrapes_at_once_have_a_limit(full: Exporter) -> None:
    """With 16 slow readers of /history, the next one gets 503 and a Retry-After header.

    /metrics, the health pages and a known scraper on its own connection are served.
    """
    with ExitStack() as stack, urllib3.HTTPConnectionPool("127.0.0.1", full.port, maxsize=1) as known:
        assert known.request("GET", "/history?scraper=a").status == 200
        clients = slow_readers(stack, full, SCRAPES, timeout_s=120)
        refused = full.fetch("/history?since=0")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert refused.data == b"16 scrapes of /history are in progress; try again later\n"
        assert [full.fetch(path).status for path in ("/metrics", "/-/healthy", "/-/ready")] == [200] * 3
        assert known.request("GET", "/history?scraper=a").status == 200
        clients[0].close()
        wait_until(lambda: full.fetch("/history?since=0").status == 200, "a free place")


def test_an_answer_that_nobody_takes_is_cut(exporter: Exporter) -> None:
    """A client that does not read is cut, after one small response or during endless requests."""
    before = descriptors(exporter)
    request = get("/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 2")
    with connect(exporter, 4096) as client, connect(exporter, 4096) as single:
        single.sendall(request)
        client.settimeout(3)
        assert sends(client, request * 20, times=5_000) < 5_000
        wait_until(lambda: descriptors(exporter) <= before, "its end")
    assert exporter.fetch("/metrics").status == 200


def test_other_methods_are_refused(exporter: Exporter) -> None:
    """Other methods return 405, malformed ones 400, and CONNECT 413. Later requests are served."""
    methods = ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "GETT", "get")
    statuses = {}
    for method in methods:
        with connect(exporter) as client:
            client.sendall(f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            statuses[method] = status_of(client)
    assert set(statuses.values()) <= {400, 405, 413}, statuses
    assert exporter.fetch("/-/healthy").status == 200


def test_an_upgrade_is_declined(exporter: Exporter) -> None:
    """The Upgrade header is ignored."""
    with connect(exporter) as client:
        client.sendall(get("/-/healthy", "Connection: Upgrade", "Upgrade: websocket"))
        assert status_of(client) == 200


def test_floods_of_queries_are_answered(exporter: Exporter) -> None:
    """Thousands of parameters, long lines and pipelined requests are served or rejected.

    A scrape at the same time is served.
    """
    query = "&".join(f"a{number}=" for number in range(1_000))
    assert exporter.fetch(f"/history?since=0&{query}").status == 200
    assert exporter.fetch(f"/history?since=0&{'a' * 9_000}").status == 400
    with connect(exporter) as client:
        client.sendall(get("/-/healthy") * 500)
        assert exporter.fetch("/metrics").status == 200
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 500:
            answers += client.recv(65_536)


@pytest.mark.full
def test_clients_that_do_not_read_leave_no_memory(full: Exporter) -> None:
    """Slow readers that are cut, and 1500 clients that disconnect during /history, leak no memory."""
    full.fetch("/history?since=0")
    before, before_mb = descriptors(full), memory_mb(full, "RssAnon")
    for _ in range(3):
        with ExitStack() as stack:
            slow_readers(stack, full, 12, timeout_s=3)
            assert memory_mb(full, "RssAnon") - before_mb < 12 * 5
            wait_until(lambda: descriptors(full) <= before, "the end of slow readers")
    for _ in range(5):
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(full, 4096)).sendall(get("/history?since=0"))
                time.sleep(0.004)
    assert memory_mb(full, "RssAnon") - before_mb < 60


@pytest.mark.full
def test_tls_handshakes_that_never_end_leave_no_memory(servers: ExitStack, tmp_path: Path) -> None:
    """Three times 500 unfinished TLS handshakes take less than 60 MB."""
    web = WebFolder(tmp_path)
    config = web.write(tls_server_config=web.tls())
    args = ("--replay", "demo", "--no-collector.codecarbon")
    exporter = servers.enter_context(WebExporter(config, *args, context=client_context(web.authority)))
    assert exporter.ask().status == 200
    before, before_mb = descriptors(exporter), memory_mb(exporter, "RssAnon")
    for _ in range(3):
        with crowd(exporter, 500) as clients:
            for client in clients[::2]:
                sends(client, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", times=1)
            wait_until(lambda: descriptors(exporter) <= before, "their end")
    assert memory_mb(exporter, "RssAnon") - before_mb < 60
