"""What a client cannot do to the exporter, and what the others see of it meanwhile."""

import http.client
import re
import socket
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import urllib3

from tests.bench.bench_exporter import PrefilledExporter, pss_mb
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import history, scrape
from tests.llem_exporter.socket_rig import (
    LimitedExporter,
    closed_after_s,
    connect,
    crowd,
    get,
    is_closed,
    sends,
    status_of,
)
from tests.servers import Exporter, wait_until

SCRAPES = 16


@pytest.fixture
def exporter(start: StartExporter) -> Exporter:
    return start("--replay", "demo")


@pytest.fixture
def full(servers: ExitStack, tmp_path: Path) -> Exporter:
    """An exporter whose /history is 15 min of 8 GPUs: more than any socket's buffers hold."""
    driver = servers.enter_context(FakeDriver(tmp_path, gpus=8))
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    exporter = servers.enter_context(PrefilledExporter(env=driver.env, args=args))
    wait_until(lambda: exporter.fetch("/-/ready").status == 200, "ready")
    return exporter


def descriptors(exporter: Exporter) -> int:
    return len(list(Path(f"/proc/{exporter.pid}/fd").iterdir()))


def test_idle_connections_stop_no_scrape(servers: ExitStack) -> None:
    """With 64 descriptors and 300 clients that say nothing: every scrape is answered, the log has one line,
    and the connection that a scraper of /history keeps is still there afterwards."""
    exporter = servers.enter_context(LimitedExporter(64))
    kept = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=5)
    wait_until(lambda: history(exporter), "samples")
    kept.request("GET", "/history?scraper=a")
    assert kept.getresponse().read()
    own = kept.sock.getsockname()
    for _ in range(3):
        with crowd(exporter, 100):
            for _ in range(20):
                assert exporter.fetch("/metrics", timeout_s=2).status == 200
            assert descriptors(exporter) < 50
    kept.request("GET", "/history?scraper=a")
    assert kept.getresponse().read()
    assert kept.sock.getsockname() == own
    assert scrape(exporter).value("llem_history_confirmed_samples_total") > 0
    warnings = [line for line in exporter.log().splitlines() if "WARNING" in line]
    assert [line.partition("WARNING ")[2] for line in warnings] == [
        "32 connections are open: those that idle are closed for others"
    ]
    kept.close()


def test_a_process_without_descriptors_says_so_once(servers: ExitStack) -> None:
    """Others have taken them: who idles is closed, scrapes are answered, one line in the log."""
    exporter = servers.enter_context(LimitedExporter(24, held=9))
    with crowd(exporter, 12):
        for _ in range(4):
            assert exporter.fetch("/metrics", timeout_s=5).status == 200
    said = [line for line in exporter.log().splitlines() if "WARNING" in line or "ERROR" in line]
    assert [line.partition("WARNING ")[2] for line in said] == [
        "cannot accept connections: Too many open files; those that idle are closed"
    ]


def test_who_answered_requests_outlives_who_says_nothing(servers: ExitStack) -> None:
    """Of a full house, those go first that never asked anything, and of the others the longest idle."""
    exporter = servers.enter_context(LimitedExporter(64))
    with ExitStack() as stack:
        asked = [stack.enter_context(connect(exporter)) for _ in range(4)]
        for client in asked:
            client.sendall(get("/-/healthy"))
            assert status_of(client) == 200
        with crowd(exporter, 28) as silent:
            time.sleep(1.5)
            with crowd(exporter, 28):
                wait_until(lambda: all(is_closed(client) for client in silent), "the silent ones' end")
                assert not any(is_closed(client) for client in asked)


def test_a_burst_of_newcomers_pushes_out_no_scraper(servers: ExitStack) -> None:
    """Who was answered stays while ever more come; where all were answered, a newcomer is let in still."""
    exporter = servers.enter_context(LimitedExporter(64))
    with ExitStack() as stack:
        asked = [stack.enter_context(connect(exporter)) for _ in range(15)]
        for client in asked:
            client.sendall(get("/-/healthy"))
            assert status_of(client) == 200
        with crowd(exporter, 300) as silent:
            wait_until(lambda: sum(is_closed(client) for client in silent) >= 280, "the silent ones' end")
            assert not any(is_closed(client) for client in asked)
        for _ in range(60):
            client = stack.enter_context(connect(exporter))
            client.sendall(get("/-/healthy"))
            assert status_of(client) == 200
        wait_until(lambda: all(is_closed(client) for client in asked), "the end of the longest idle")


def test_half_requests_are_closed(exporter: Exporter) -> None:
    """After 10 s: no request, half of one, one that drips, and half a second one on a kept connection."""
    names = ("silent", "half", "drip", "kept", "kept, drip", "kept, half at once", "kept, in parts")
    clients = {name: connect(exporter) for name in names}
    for name in names[3:]:
        clients[name].sendall(get("/-/healthy"))
        assert status_of(clients[name]) == 200
    clients["kept, half at once"].sendall(get("/-/healthy") + b"GET /metrics HTTP/1.1\r\nHost: ")
    assert status_of(clients["kept, half at once"]) == 200
    for byte in get("/-/healthy"):
        clients["kept, in parts"].sendall(bytes([byte]))
    assert status_of(clients["kept, in parts"]) == 200
    for name in ("half", "drip", "kept, drip"):
        clients[name].sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
    closed = closed_after_s(clients, ("drip", "kept, drip"), 14)
    assert set(closed) == set(clients) - {"kept", "kept, in parts"}
    assert all(9 <= seconds <= 12.5 for seconds in closed.values()), closed
    clients["kept"].sendall(get("/-/healthy"))
    assert status_of(clients["kept"]) == 200
    for client in clients.values():
        client.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["X: " + "x" * 9_000], 400),
        ([f"X-{number}: x" for number in range(70)], 431),
        ([f"X-{number}: {'x' * 8_000}" for number in range(10)], 0),
        ([f"X-{number}: x" for number in range(60)], 200),
    ],
    ids=["a long one", "many", "long ones", "some"],
)
def test_headers_have_a_limit(exporter: Exporter, headers: list[str], status: int) -> None:
    """8 KiB for one, 64 of them, 32 KiB for all: beyond, the client is told so or cut."""
    with connect(exporter) as client:
        client.sendall(get("/metrics", *headers))
        assert status_of(client) == status
        if status != 200:
            wait_until(lambda: is_closed(client), "the connection's end", 3)


@pytest.mark.parametrize(
    "framing", ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello"]
)
def test_a_body_is_refused(exporter: Exporter, framing: str) -> None:
    """413, and the connection is closed: what follows is not taken for a request."""
    with connect(exporter) as client:
        client.sendall(f"POST /metrics HTTP/1.1\r\nHost: x\r\n{framing}".encode())
        assert status_of(client) == 413
        wait_until(lambda: is_closed(client), "the connection's end", 3)


def test_a_large_body_is_not_read(exporter: Exporter) -> None:
    """Of 200 MB nothing stays in memory: the connection ends long before."""
    before_mb = pss_mb(exporter.pid)
    with connect(exporter) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n")
        taken = sends(client, b"x" * 1_000_000, times=200)
    assert taken < 20
    assert pss_mb(exporter.pid) - before_mb < 5


def slow_readers(stack: ExitStack, exporter: Exporter, count: int, timeout_s: int) -> list[socket.socket]:
    """Clients that ask for all of the history, take its first bytes, and no more."""
    clients = [stack.enter_context(connect(exporter, 4096)) for _ in range(count)]
    for client in clients:
        client.sendall(get("/history?since=0", f"X-Prometheus-Scrape-Timeout-Seconds: {timeout_s}"))
        assert client.recv(12) == b"HTTP/1.1 200"
    return clients


def test_slow_readers_are_cut_after_their_timeout(full: Exporter) -> None:
    """At their own scrape timeout; the next ones get the memory that was held for them; none was an error."""
    assert len(full.fetch("/history?since=0").data) > 8e6
    before, before_mb, held_mb = descriptors(full), pss_mb(full.pid), list[float]()
    for _ in range(3):
        with ExitStack() as stack:
            clients = slow_readers(stack, full, 12, timeout_s=2)
            started_s = time.monotonic()
            held_mb.append(pss_mb(full.pid) - before_mb)
            wait_until(lambda: descriptors(full) == before, "the end of slow readers", 8)
            assert 1 < time.monotonic() - started_s < 4
            for client in clients:
                wait_until(partial(is_closed, client), "a reset", 5)
    assert held_mb[0] < 12 * 4
    assert max(held_mb[1:]) < held_mb[0] + 6, held_mb
    assert "ERROR" not in full.log()


def test_scrapes_at_once_have_a_limit(full: Exporter) -> None:
    """Beyond 16 slow readers of /history the next gets 503 and when to come again. /metrics and health pages
    are answered, and so is a scraper that is known on its connection."""
    with ExitStack() as stack, urllib3.HTTPConnectionPool("127.0.0.1", full.port, maxsize=1) as known:
        assert known.request("GET", "/history?scraper=a").status == 200
        clients = slow_readers(stack, full, SCRAPES, timeout_s=20)
        refused = full.fetch("/history?since=0")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert refused.data == b"16 scrapes of /history are being answered; come again\n"
        assert [full.fetch(path).status for path in ("/metrics", "/-/healthy", "/-/ready")] == [200] * 3
        assert known.request("GET", "/history?scraper=a").status == 200
        clients[0].close()
        wait_until(lambda: full.fetch("/history?since=0").status == 200, "a free place", 5)


def test_an_answer_that_nobody_takes_is_cut(exporter: Exporter) -> None:
    """Also one that fits into the buffers in between: requests without end, whose answers are not read."""
    with connect(exporter, 4096) as client:
        client.settimeout(3)
        request = get("/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 2")
        assert sends(client, request * 20, times=5_000) < 5_000
        wait_until(lambda: descriptors(exporter) < 14, "its end", 8)
    assert exporter.fetch("/metrics").status == 200


def test_scraper_ids_have_a_limit(exporter: Exporter) -> None:
    """The 33rd is refused, as are IDs that are none; those that are known go on where they were."""
    with urllib3.HTTPConnectionPool("127.0.0.1", exporter.port, maxsize=1) as known:
        known.request("GET", "/history?scraper=good")
        statuses = [exporter.fetch(f"/history?scraper=id-{number}").status for number in range(100)]
        assert statuses == [200] * 31 + [429] * 69
        for name in ("", "x" * 129, "%00", "%0a", "a%1b[31m"):
            assert exporter.fetch(f"/history?scraper={name}").status == 400
        time.sleep(0.5)
        page = known.request("GET", "/history?scraper=good").data.decode()
        newest_ms = [
            int(ms) for ms in re.findall(r"^llem_gpu_power_trace_watts.* (\d+)$", page, re.MULTILINE)
        ]
        assert 4 <= len(newest_ms) <= 40, "not what is new, but the whole history"
    assert scrape(exporter).value("llem_history_scrapers") == 32
    assert "id-99" not in exporter.log()


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/metrics/../../etc/passwd",
        "/metrics%00.txt",
        "/./-/../secret",
        "/\\..\\..\\etc\\passwd",
        "http://elsewhere/etc/passwd",
    ],
)
def test_no_path_leads_out(exporter: Exporter, path: str) -> None:
    """404 or 400 for whatever is not one of the pages."""
    with connect(exporter) as client:
        client.sendall(get(path))
        answer = client.recv(65_536)
    assert int(answer.split()[1]) in (400, 404)
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "method",
    ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "GETT", "get"],
)
def test_other_methods_are_refused(exporter: Exporter, method: str) -> None:
    """405, 400 for what is none, 413 for CONNECT, which is all body; others are answered afterwards."""
    with connect(exporter) as client:
        client.sendall(f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert status_of(client) in (400, 405, 413)
    assert exporter.fetch("/-/healthy").status == 200
    assert "Traceback" not in exporter.log()


def test_an_upgrade_is_declined(exporter: Exporter) -> None:
    """The page comes as if none had been asked for."""
    with connect(exporter) as client:
        client.sendall(get("/-/healthy", "Connection: Upgrade", "Upgrade: websocket"))
        assert status_of(client) == 200


def test_floods_of_queries_cost_little(exporter: Exporter) -> None:
    """Thousands of parameters in one request, a line that is too long, pipelined requests: each is answered
    or refused at once, and a scrape beside them waits for less than a second."""
    query = "&".join(f"a{number}=" for number in range(1_000))
    assert exporter.fetch(f"/history?since=0&{query}").status == 200
    assert exporter.fetch(f"/history?since=0&{'a' * 9_000}").status == 400
    with connect(exporter) as client:
        client.sendall(get("/-/healthy") * 500)
        started_s = time.monotonic()
        assert exporter.fetch("/metrics").status == 200
        assert time.monotonic() - started_s < 1
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 500:
            answers += client.recv(65_536)
    assert "Traceback" not in exporter.log()


def test_answers_that_break_off_leave_nothing(full: Exporter) -> None:
    """1500 clients ask for the whole history, read nothing and go: what was held for each goes with it."""
    full.fetch("/history?since=0")
    before_mb = pss_mb(full.pid)
    for _ in range(5):
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(full, 4096)).sendall(get("/history?since=0"))
                time.sleep(0.004)
    assert pss_mb(full.pid) - before_mb < 60
