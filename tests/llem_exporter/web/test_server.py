"""What each path answers, on a replayed trace."""

import gzip
import re
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
import urllib3
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llem_core.metrics import GPU_POWER_TRACE, GPU_ZEUS_TRACE, HISTORY_PAGE
from llem_exporter.web.history import parse_since
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.servers import Exporter, wait_until

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    """An exporter that has samples; at the end it has logged no error."""
    with Exporter(args=["--replay", "demo"]) as exporter:
        wait_until(lambda: len(history(exporter)) == 4, "samples")
        yield exporter
        assert not re.search("ERROR|Traceback", exporter.log())


def test_every_path_has_its_answer(exporter: Exporter) -> None:
    """Landing page, health and readiness are served. Other paths return 404, other methods are rejected."""
    landing = exporter.fetch("/")
    assert (landing.status, landing.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for part in ("llem-exporter", "/metrics", "/history", "/-/ready"):
        assert part in landing.data.decode()
    assert exporter.fetch_text("/-/healthy") == "healthy\n"
    assert exporter.fetch_text("/-/ready") == "ready\n"
    assert [exporter.fetch(path).status for path in ("/none", "/metrics/", "/history/x")] == [404] * 3
    assert exporter.fetch("/metrics", method="POST").status == 405


def test_answers_tell_no_versions(exporter: Exporter) -> None:
    """The Server header contains no library and no version."""
    servers = {
        exporter.fetch(path).headers["Server"] for path in ("/", "/metrics", "/history?since=0", "/none")
    }
    assert servers == {"llem-exporter"}


def test_head_is_get_without_the_body(exporter: Exporter) -> None:
    """HEAD returns the status and headers of GET."""
    for path in ("/", "/metrics", "/history?since=0", "/-/healthy", "/-/ready"):
        head, get = exporter.fetch(path, method="HEAD"), exporter.fetch(path)
        assert (head.status, head.data) == (200, b""), path
        assert head.headers["Content-Type"] == get.headers["Content-Type"], path


def test_metrics_come_as_asked_for(exporter: Exporter) -> None:
    """The format is text 0.0.4 or OpenMetrics, with gzip if accepted, without timestamps and `_created`."""
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


@pytest.mark.parametrize("path", ["/metrics", "/history?since=0"])
def test_a_malformed_accept_header_gets_plain_text(exporter: Exporter, path: str) -> None:
    """A malformed Accept header is not a server error."""
    for accept in ("application/openmetrics-text;version=x", "text/plain;version=abc.def"):
        answer = exporter.fetch(path, headers={"Accept": accept})
        assert (answer.status, answer.headers["Content-Type"][:26]) == (200, "text/plain; version=0.0.4;")


@pytest.mark.parametrize("path", ["/metrics", "/history?since=0"])
def test_gzip_is_sent_where_it_is_accepted(exporter: Exporter, path: str) -> None:
    """The name of the encoding counts, in any case and with any weight."""
    wanted = {
        "gzip;q=0.5": True,
        "br, GZIP": True,
        "x-gzip": False,
    }
    encodings = {
        accepted: exporter.fetch(path, headers={"Accept-Encoding": accepted}).headers.get("Content-Encoding")
        for accepted in wanted
    }
    assert encodings == {accepted: "gzip" if zipped else None for accepted, zipped in wanted.items()}


@pytest.mark.parametrize(("path", "status"), [(b"/", b"200"), (b"/history", b"400")])
def test_a_host_header_may_hold_any_bytes(exporter: Exporter, path: bytes, status: bytes) -> None:
    """Arbitrary bytes are not a server error."""
    with socket.create_connection(("127.0.0.1", exporter.port), 30) as client:
        client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: \xff\r\n\r\n")
        assert client.recv(4096).split()[1] == status


def test_head_of_history_is_answered_as_get_and_moves_no_cursor(exporter: Exporter) -> None:
    """HEAD without an ID returns 400. HEAD stores no scraper."""
    before = scrape(exporter).value("llem_history_scrapers")
    for query, status in (("", 400), ("?since=x", 400), ("?scraper=a&limit=0", 400), ("?scraper=a", 200)):
        assert exporter.fetch(f"/history{query}", method="HEAD").status == status
    assert scrape(exporter).value("llem_history_scrapers") == before


def test_history_needs_since(exporter: Exporter) -> None:
    """A missing `since` returns 400 with instructions. An invalid time gives one line."""
    missing = exporter.fetch("/history")
    assert (missing.status, "?since=UNIX_SECONDS" in missing.data.decode()) == (400, True)
    for bad in ("yesterday", "nan", "inf", "-1", "1e999999999", "", "9" * 500):
        answer = exporter.fetch(f"/history?since={bad}")
        assert (answer.status, answer.data.count(b"\n")) == (400, 1)
        assert answer.data.startswith(b"invalid parameter 'since'")


def test_history_is_every_sample_once_in_order(exporter: Exporter) -> None:
    """Consecutive pulls give the same samples as one pull does.

    A pull may end within a tick. So each pull starts at the newest sample of the GPU that is behind.
    """
    pulled: dict[tuple[str, str], list[int]] = {}

    def pull() -> bool:
        since_ms = min((times[-1] for times in pulled.values()), default=0)
        for key, points in history(exporter, f"{since_ms / 1000:.3f}").items():
            times = pulled.setdefault(key, [])
            times += [ms for ms, _ in points if not times or ms > times[-1]]
        return len(min(pulled.values(), key=len)) >= 18

    wait_until(pull, "18 samples")
    assert len(pulled) == 4
    one_pull = history(exporter)
    for key, times in pulled.items():
        assert times == [ms for ms, _ in one_pull[key] if ms <= times[-1]]
        assert all(before < after for before, after in pairwise(times))


def test_history_comes_as_openmetrics_and_gzipped(exporter: Exporter) -> None:
    """OpenMetrics has seconds with three digits, counter families without _total, # EOF, and all families."""
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
    """The chunks of a gzipped history are one gzip stream with the same samples as the plain page."""
    pool = urllib3.HTTPConnectionPool("127.0.0.1", exporter.port)
    raw = pool.request(
        "GET", "/history?since=0", headers={"Accept-Encoding": "gzip"}, decode_content=False
    ).data
    assert MetricsPage(gzip.decompress(raw).decode()).value("llem_sampler_interval_seconds") == 0.1
    pool.close()


def sampled_ms(page: MetricsPage, gpu: str) -> int:
    """When the sample was taken that a page's counters end with."""
    return round(1000 * page.value("llem_gpu_sample_timestamp_seconds", gpu=gpu))


def test_history_joules_are_the_counters_to_the_bit(exporter: Exporter) -> None:
    """Between two scrapes' sample times, the history's trapezoid equals the rise of the counter."""
    before = scrape(exporter)

    def later_page() -> MetricsPage | None:
        page = scrape(exporter)
        return page if sampled_ms(page, "1") >= sampled_ms(before, "1") + 1000 else None

    after = wait_until(later_page, "a second of samples")
    assert after is not None
    for gpu in ("0", "1"):
        first_ms, last_ms = sampled_ms(before, gpu), sampled_ms(after, gpu)

        def trace(gpu: str = gpu, last_ms: int = last_ms) -> list[tuple[int, float]] | None:
            points = history(exporter)["llem_gpu_power_trace_watts", gpu]
            return points if points[-1][0] >= last_ms else None

        points = wait_until(trace, "the last sample in the history")
        assert points is not None
        inside = [(ms, watts) for ms, watts in points if first_ms <= ms <= last_ms]
        sixteen_thousandths = sum((p0 + p1) * (t1 - t0) * 8 for (t0, p0), (t1, p1) in pairwise(inside))
        counted = [
            round(16_000 * page.value("llem_gpu_nvml_energy_joules_total", gpu=gpu))
            for page in (before, after)
        ]
        assert sixteen_thousandths == counted[1] - counted[0] > 0


def test_a_connection_is_kept(exporter: Exporter) -> None:
    """Two requests use one connection."""
    with urllib3.HTTPConnectionPool("127.0.0.1", exporter.port, maxsize=1) as pool:
        for path in ("/metrics", "/history?since=0", "/metrics"):
            assert pool.request("GET", path).status == 200
        assert pool.num_connections == 1


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), ("1795507546.1", 1_795_507_546_100), ("1795507546.1009", 1_795_507_546_100), ("1e9", 10**12)],
)
def test_since_is_read_exactly(text: str, milliseconds: int) -> None:
    """`since` is rounded down to milliseconds, without float errors."""
    assert parse_since(text) == milliseconds
