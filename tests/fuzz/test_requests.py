"""Requests to a real exporter, byte by byte: each is answered or closed, and the log shows none of them."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.inputs import near
from tests.servers import Exporter, wait_until

CLIENT_TIMEOUT_S = 60.0
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
    """One exporter for all examples; at the end it still answers, and its log has no error."""
    with Exporter(args=["--replay", "demo", "--history.retention", "10s"]) as server:
        wait_until(lambda: server.fetch("/-/ready").status == 200, "ready")
        yield server
        assert server.fetch("/metrics").status == 200
        server.terminate()  # so that the log is complete
        assert "Traceback" not in server.log()
        assert "ERROR" not in server.log()


def answers(exporter: Exporter, request: bytes) -> None:
    """The exporter closes the connection within the client's timeout, after an HTTP answer or none."""
    with socket.create_connection(("127.0.0.1", exporter.port), CLIENT_TIMEOUT_S) as client:
        answer = b""
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65_536):
                answer += piece if len(answer) < 1000 else b""
        except (ConnectionResetError, BrokenPipeError):
            pass
    if answer:
        version, status, *_ = answer.split(b" ", 2)
        assert version.startswith(b"HTTP/"), answer
        assert status in STATUSES, answer


def take(exporter: Exporter, requests: st.SearchStrategy[bytes]) -> None:
    @settings(suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(requests)
    def every(request: bytes) -> None:
        answers(exporter, request)

    every()


def test_any_query_of_history_is_answered(exporter: Exporter) -> None:
    """Any query string without white space gets a response."""
    queries = near(QUERIES).map(lambda query: b"".join(query.split())[:4000])
    take(exporter, queries.map(lambda query: b"GET /history?%b HTTP/1.1\r\nHost: x\r\n\r\n" % query))


def test_any_headers_are_answered(exporter: Exporter) -> None:
    """Requests with arbitrary headers, and GET requests with a body, get a response."""
    request = b"GET /history?scraper=h&limit=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n"
    take(exporter, near(HEADERS).map(lambda headers: request % headers))


def test_any_bytes_are_answered_or_closed(exporter: Exporter) -> None:
    """Unknown methods, targets and protocols get a response, or the connection is closed."""
    take(exporter, near(REQUESTS))


def test_a_client_that_has_gone_is_nobodys_fault(exporter: Exporter) -> None:
    """HEAD on a connection that the client has closed logs no error. The fixture checks the log."""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", exporter.port), CLIENT_TIMEOUT_S) as client:
            client.sendall(b"HEAD /history?since=0 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert exporter.fetch("/-/healthy").status == 200
