"""What each path answers, on a replayed trace."""

import gzip
import socket
import time
from itertools import pairwise

import pytest
import urllib3
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llem_core.metrics import GPU_POWER_TRACE, GPU_ZEUS_TRACE, HISTORY_PAGE
from llem_exporter.history_page import parse_since
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.servers import Exporter, wait_until

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture
def exporter(start: StartExporter) -> Exporter:
    return start("--replay", "demo")


def test_every_path_has_its_answer(exporter: Exporter) -> None:
    """Landing page, health, readiness; 404 for the rest; other methods are refused."""
    landing = exporter.fetch("/")
    assert (landing.status, landing.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for part in ("llem-exporter", "/metrics", "/history", "scrape_configs:", exporter.address):
        assert part in landing.data.decode()
    assert exporter.fetch_text("/-/healthy") == "healthy\n"
    assert exporter.fetch_text("/-/ready") == "ready\n"
    assert [exporter.fetch(path).status for path in ("/none", "/metrics/", "/history/x")] == [404] * 3
    assert exporter.fetch("/metrics", method="POST").status == 405


@pytest.mark.parametrize("path", ["/", "/metrics", "/history?since=0", "/nothing"])
def test_answers_tell_no_versions(exporter: Exporter, path: str) -> None:
    """Whoever may not ask learns of no library by its number."""
    assert exporter.fetch(path).headers["Server"] == "llem-exporter"


@pytest.mark.parametrize("path", [b"/", b"/history"])
def test_without_a_host_header_the_target_is_where_it_was_reached(exporter: Exporter, path: bytes) -> None:
    """With the port, and no name is looked up: a name server that is down would hold up every scrape."""
    with socket.create_connection(("127.0.0.1", exporter.port), 5) as client:
        client.sendall(b"GET " + path + b" HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert f'targets: ["127.0.0.1:{exporter.port}"]' in answer.decode()


def test_the_landing_page_escapes_the_host(exporter: Exporter) -> None:
    """A Host header cannot put markup into the page."""
    page = exporter.fetch("/", headers={"Host": "<script>alert(1)</script>"}).data.decode()
    assert "<script>" not in page


@pytest.mark.parametrize("path", ["/", "/metrics", "/history?since=0", "/-/healthy", "/-/ready"])
def test_head_is_get_without_the_body(exporter: Exporter, path: str) -> None:
    """HEAD answers with the status and headers of GET."""
    head, get = exporter.fetch(path, method="HEAD"), exporter.fetch(path)
    assert (head.status, head.data) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


def test_metrics_come_as_asked_for(exporter: Exporter) -> None:
    """Text 0.0.4 or OpenMetrics, gzipped where accepted; never a timestamp, nor a `_created` series."""
    plain = exporter.fetch("/metrics")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in plain.data.decode().splitlines() if not line.startswith("#")]
    assert all(len(line.rsplit("} ", 1)[-1].split()) <= 2 for line in lines)
    assert "_created" not in plain.data.decode()
    zipped = exporter.fetch("/metrics", headers={"Accept": OPENMETRICS, "Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert zipped.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    text = zipped.data.decode()
    assert text.endswith("# EOF\n")
    assert "_created" not in text
    assert len(list(text_string_to_metric_families(text))) > 20  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=x", "text/plain;version=abc.def"])
@pytest.mark.parametrize("path", ["/metrics", "/history?since=0"])
def test_an_accept_header_that_makes_no_sense_gets_plain_text(
    exporter: Exporter, path: str, accept: str
) -> None:
    """Not an error of ours."""
    answer = exporter.fetch(path, headers={"Accept": accept})
    assert (answer.status, answer.headers["Content-Type"][:26]) == (200, "text/plain; version=0.0.4;")


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0.5", True),
        ("br, GZIP", True),
        ("x-gzip", False),
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/history?since=0"])
def test_gzip_is_sent_to_who_wants_it(exporter: Exporter, path: str, accepted: str, zipped: bool) -> None:
    """A weight of 0 says no."""
    answer = exporter.fetch(path, headers={"Accept-Encoding": accepted})
    assert (answer.headers.get("Content-Encoding") == "gzip") == zipped


def raw(exporter: Exporter, request: bytes) -> bytes:
    """The start of what the exporter answers to these bytes."""
    with socket.create_connection(("127.0.0.1", exporter.port), 5) as client:
        client.sendall(request)
        return client.recv(4096)


def test_whatever_comes_is_no_traceback(exporter: Exporter) -> None:
    """Hosts that are no text, headers that are too long, other protocols: the client's fault, told to it."""
    for path, status in ((b"/", b"200"), (b"/history", b"400")):
        answer = raw(exporter, b"GET " + path + b" HTTP/1.1\r\nHost: \xff\r\n\r\n")
        assert answer.split()[1] == status
    for request in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ):
        assert raw(exporter, request).split()[1] == b"400"
    assert "Traceback" not in exporter.log()
    assert "ERROR" not in exporter.log()


def test_head_of_history_is_answered_as_get_and_moves_no_cursor(exporter: Exporter) -> None:
    """400 without an ID; nobody is known by a HEAD."""
    for query, status in (("", 400), ("?since=x", 400), ("?scraper=a&limit=0", 400), ("?scraper=a", 200)):
        assert exporter.fetch(f"/history{query}", method="HEAD").status == status
    assert scrape(exporter).value("llem_history_scrapers") == 0


def test_history_needs_since(exporter: Exporter) -> None:
    """400, and the body says what to write; one line for what cannot be a time."""
    missing = exporter.fetch("/history")
    assert (missing.status, "?since=UNIX_SECONDS" in missing.data.decode()) == (400, True)
    for bad in ("yesterday", "nan", "inf", "-1", "1e999999999", "", "9" * 500):
        answer = exporter.fetch(f"/history?since={bad}")
        assert (answer.status, answer.data.count(b"\n")) == (400, 1)
        assert answer.data.startswith(b"since must be unix seconds")


def test_history_is_every_sample_once_in_order(exporter: Exporter) -> None:
    """Pulls that each begin where the last ended give every tick of every GPU, once, ascending."""
    pulled: dict[tuple[str, str], list[int]] = {}
    since_ms = 0
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        since_text = f"{since_ms / 1000:.3f}"
        for key, points in history(exporter, since_text).items():
            pulled.setdefault(key, []).extend(ms for ms, _ in points)
        since_ms = max((times[-1] for times in pulled.values()), default=0)
        time.sleep(0.03)
    assert len(pulled) == 4
    ticks = [[ms // 100 for ms in times] for times in pulled.values()]
    assert len(ticks[0]) >= 18
    assert {after - before for before, after in pairwise(ticks[0])} == {1}
    assert all(others == ticks[0] for others in ticks), "half a tick was handed out"


def test_history_comes_as_openmetrics_and_gzipped(exporter: Exporter) -> None:
    """Seconds with three digits, counter families without _total, # EOF, and all families of the page."""
    wait_until(lambda: len(history(exporter)) == 4, "samples")
    headers = {"Accept": OPENMETRICS, "Accept-Encoding": "gzip"}
    answer = exporter.fetch("/history?since=0", headers=headers)
    assert answer.headers["Content-Encoding"] == "gzip"
    text = answer.data.decode()
    assert text.endswith("# EOF\n")
    families = {
        family.name: family
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }
    limitless = [spec.name for spec in HISTORY_PAGE if "limit" not in spec.name]  # a trace has none
    assert set(families) == {name.removesuffix("_total") for name in limitless}
    for spec in (GPU_POWER_TRACE, GPU_ZEUS_TRACE):
        family = families[spec.name.removesuffix("_total")]
        assert (family.type, family.unit) == (spec.kind, spec.unit)
        stamps = [float(str(sample.timestamp)) for sample in family.samples if sample.labels["gpu"] == "0"]
        assert stamps == sorted(set(stamps))
    assert all(sample.timestamp is None for sample in families["llem_gpu_info"].samples)


def test_gzip_is_one_stream(exporter: Exporter) -> None:
    """The chunks of a gzipped history are one gzip file, equal to the plain page over the same samples."""
    wait_until(lambda: len(history(exporter)) == 4, "samples")
    pool = urllib3.HTTPConnectionPool("127.0.0.1", exporter.port)
    raw = pool.request(
        "GET", "/history?since=0", headers={"Accept-Encoding": "gzip"}, decode_content=False
    ).data
    assert MetricsPage(gzip.decompress(raw).decode()).value("llem_sampler_interval_seconds") == 0.1
    pool.close()


def test_history_joules_are_the_counters_to_the_bit(exporter: Exporter) -> None:
    """Between two scrapes' sample times, the history's trapezoid is exactly the counter's difference."""
    before = scrape(exporter)
    time.sleep(1.5)
    after = scrape(exporter)
    time.sleep(0.5)
    points = history(exporter)
    for gpu in ("0", "1"):
        first_ms, last_ms = (
            round(1000 * page.value("llem_gpu_sample_timestamp_seconds", gpu=gpu)) for page in (before, after)
        )
        inside = [
            (ms, watts)
            for ms, watts in points["llem_gpu_power_trace_watts", gpu]
            if first_ms <= ms <= last_ms
        ]
        sixteen_thousandths = sum((p0 + p1) * (t1 - t0) * 8 for (t0, p0), (t1, p1) in pairwise(inside))
        counted = [
            round(16_000 * page.value("llem_gpu_nvml_energy_joules_total", gpu=gpu))
            for page in (before, after)
        ]
        assert sixteen_thousandths == counted[1] - counted[0] > 0


def test_a_connection_is_kept(exporter: Exporter) -> None:
    """Two requests go over one connection."""
    with urllib3.HTTPConnectionPool("127.0.0.1", exporter.port, maxsize=1) as pool:
        for path in ("/metrics", "/history?since=0", "/metrics"):
            assert pool.request("GET", path).status == 200
        assert pool.num_connections == 1


def test_an_oversize_header_is_refused(exporter: Exporter) -> None:
    """More than 8 KiB in one header is not read."""
    assert exporter.fetch("/metrics", headers={"X-Long": "x" * 9000}).status == 400


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), ("1795507546.1", 1_795_507_546_100), ("1795507546.1009", 1_795_507_546_100), ("1e9", 10**12)],
)
def test_since_is_read_exactly(text: str, milliseconds: int) -> None:
    """Milliseconds are rounded down, without a float's error."""
    assert parse_since(text) == milliseconds
