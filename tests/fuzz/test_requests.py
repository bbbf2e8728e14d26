"""Requests to a real exporter, byte by byte: each is answered or closed, and the log shows none of them."""

import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.inputs import near
from tests.servers import Exporter, wait_until

EXAMPLES = 250
ANSWER_SECONDS = 10.0
STATUSES = {
    b"200",
    b"400",
    b"404",
    b"405",
    b"408",
    b"409",
    b"413",
    b"414",
    b"426",
    b"429",
    b"431",
    b"501",
    b"503",
}

QUERIES = (
    b"since=1795507546.3",
    b"since=0&limit=10",
    b"scraper=prom-a&limit=100",
    b"scraper=%E2%82%AC&force=1",
)
HEADERS = (
    b"Accept: application/openmetrics-text;version=1.0.0;q=0.5\r\nAccept-Encoding: gzip;q=1.0\r\n",
    b"X-Prometheus-Scrape-Timeout-Seconds: 10\r\nUser-Agent: Prometheus/3.1.0\r\n",
    b"Authorization: Basic YTpi\r\nContent-Length: 3\r\n\r\nabc",
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n",
)
REQUESTS = tuple(
    b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (method, target)
    for method in (b"GET", b"HEAD", b"POST", b"PRI", b"CONNECT")
    for target in (b"/metrics", b"/history?since=1e9", b"/", b"http://y/-/ready", b"*", b"/%2e%2e/etc/passwd")
)


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    """One for all examples; at the end it still answers, and said nothing of them."""
    with Exporter(args=["--replay", "demo", "--history.retention", "10s"]) as server:
        wait_until(lambda: server.fetch("/-/ready").status == 200, "ready")
        yield server
        assert server.fetch("/metrics").status == 200
        assert "Traceback" not in server.log()
        assert "ERROR" not in server.log()


def answers(exporter: Exporter, request: bytes) -> None:
    """It closes the connection in time, after nothing or an answer of HTTP's."""
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", exporter.port), ANSWER_SECONDS) as client:
        answer = b""
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65_536):
                answer += piece if len(answer) < 1000 else b""
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert time.monotonic() - began_s < ANSWER_SECONDS
    if answer:
        version, status, *_ = answer.split(b" ", 2)
        assert version.startswith(b"HTTP/"), answer
        assert status in STATUSES, answer


def take(exporter: Exporter, requests: st.SearchStrategy[bytes]) -> None:
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(requests)
    def every(request: bytes) -> None:
        answers(exporter, request)

    every()


def test_any_query_of_history_is_answered(exporter: Exporter) -> None:
    """Whatever stands after the question mark, as long as it is one word."""
    queries = near(QUERIES).map(lambda query: b"".join(query.split())[:4000])
    take(exporter, queries.map(lambda query: b"GET /history?%b HTTP/1.1\r\nHost: x\r\n\r\n" % query))


def test_any_headers_are_answered(exporter: Exporter) -> None:
    """Bodies that nobody asked for among them."""
    request = b"GET /history?scraper=h&limit=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n"
    take(exporter, near(HEADERS).map(lambda headers: request % headers))


def test_any_bytes_are_answered_or_closed(exporter: Exporter) -> None:
    """Methods, targets and protocols that are none."""
    take(exporter, near(REQUESTS))


def test_a_client_that_has_gone_is_nobodys_fault(exporter: Exporter) -> None:
    """Found here: HEAD, and a connection that its client has closed, were an ERROR with a traceback."""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", exporter.port), ANSWER_SECONDS) as client:
            client.sendall(b"HEAD /history?since=0 HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(0.2)
    assert exporter.fetch("/-/healthy").status == 200
    assert "ClientConnectionResetError" not in exporter.log()
