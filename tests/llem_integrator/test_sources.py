"""Every source on the real thing: a Prometheus on blocks by promtool, OpenMetrics texts, bad answers."""

import http.server
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import ConfigError, SourceError
from llem_integrator.series import Series
from llem_integrator.sources import Source, Summary, open_source, parse_selector, prometheus, whole
from llem_integrator.sources import http as http_client
from llem_integrator.sources.exporter import ExporterSource
from llem_integrator.sources.openmetrics import parse
from llem_integrator.sources.prometheus import PrometheusSource
from tests.servers import Prometheus, PrometheusRelease

T0 = 1_795_507_546_000
POWER = "llem_gpu_power_trace_watts"


def trace_text(samples: int, step_ms: int = 100, gpus: int = 2) -> str:
    """An OpenMetrics page of a 10 Hz trace: GPU g has (i % 97 + g) W at sample i."""
    lines = [f"# TYPE {POWER} gauge"]
    for gpu in range(gpus):
        for i in range(samples):
            ms = T0 + i * step_ms
            stamp = f"{ms // 1000}.{ms % 1000:03d}"
            lines.append(f'{POWER}{{gpu="{gpu}",instance="n1",uuid="GPU-{gpu}"}} {i % 97 + gpu} {stamp}')
    return "\n".join([*lines, "# EOF", ""])


def fetch(source: Source, start_ms: int, end_ms: int, selector: str = "") -> list[Series]:
    matchers = parse_selector(selector) if selector else ()
    found = whole(source.pieces(POWER, matchers, start_ms, end_ms, lambda _: None))
    return sorted(found, key=lambda one: one.labels["gpu"])


def test_prometheus_gives_every_sample_once_over_many_pages(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """Two hours at 10 Hz come back whole, in order, over pages; edges are closed on both sides."""
    samples = 72_000
    with Prometheus.on_blocks(tmp_path, trace_text(samples), release=prometheus_release) as server:
        source = open_source(server.url)
        shares: list[float] = []
        found = list(whole(source.pieces(POWER, (), T0 - 60_000, T0 + 8_000_000, shares.append)))
        assert [len(one) for one in found] == [samples, samples]
        assert found[0].unix_ms.tolist() == [T0 + 100 * i for i in range(samples)]
        assert shares == sorted(shares)
        assert len(shares) >= 3
        assert shares[-1] == 1
        inner = fetch(source, T0 + 1000, T0 + 2000)
        assert inner[1].unix_ms.tolist() == [T0 + 1000 + 100 * i for i in range(11)]
        assert fetch(source, T0 - 5000, T0 - 1) == []
        highest = source.summary(POWER, (), T0, T0 + 1000, Summary.MAX)
        assert sorted(float(one.values[0]) for one in highest) == [10, 11]


def test_prometheus_matches_labels(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """A selector reaches the server as it was written, quotes and all."""
    with Prometheus.on_blocks(tmp_path, trace_text(10), release=prometheus_release) as server:
        source = open_source(server.url + "/")
        assert [one.labels["gpu"] for one in fetch(source, T0, T0 + 900, '{gpu=~"1|7",uuid!="x\\"y"}')] == [
            "1"
        ]


def test_prometheus_sample_limit_halves_the_page(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """A server that hands out few samples at once is asked for shorter pages, and nothing is lost."""
    args = ["--query.max-samples=4000"]
    with Prometheus.on_blocks(tmp_path, trace_text(20_000), args=args, release=prometheus_release) as server:
        assert [len(one) for one in fetch(open_source(server.url), T0, T0 + 2_000_000)] == [20_000, 20_000]


def test_a_page_is_never_much_more_than_was_meant(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that grew over an empty hour shrink before the samples come, not after."""
    monkeypatch.setattr(prometheus, "_SAMPLES_A_PAGE", 2000)
    sizes: list[int] = []

    def counted(method: str, url: str, fields: Mapping[str, str]) -> tuple[int, bytes]:
        status, body = request(method, url, fields)
        found = json.loads(body)["data"]["result"]
        sizes.append(sum(len(one.get("values", ())) for one in found))
        return status, body

    request = http_client.request
    with Prometheus.on_blocks(tmp_path, trace_text(10_000), release=prometheus_release) as server:
        source = open_source(server.url)
        monkeypatch.setattr(http_client, "request", counted)
        found = fetch(source, T0 - 3_600_000, T0 + 10_000_000)
    assert [len(one) for one in found] == [10_000, 10_000]
    assert max(sizes) <= 4100
    assert len(sizes) < 100


def test_a_summary_of_more_than_a_server_evaluates_is_put_together(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """Where the whole range is too much at once, its parts give the same last and highest values."""
    args = ["--query.max-samples=3000"]
    with Prometheus.on_blocks(tmp_path, trace_text(9_700), args=args, release=prometheus_release) as server:
        source = open_source(server.url)
        for kind, expected in ((Summary.MAX, [96, 97]), (Summary.LAST, [96, 97])):
            found = list(source.summary(POWER, (), T0, T0 + 2_000_000, kind))
            assert sorted(float(one.values[0]) for one in found) == expected


def test_prometheus_that_is_not_there_is_one_line() -> None:
    """An unreachable server is an error that names it, at once."""
    with pytest.raises(SourceError, match=r"no answer from http://127\.0\.0\.1:9/\S+: .*refused"):
        open_source("http://127.0.0.1:9")


def test_passwords_are_not_shown() -> None:
    """The URL's user and password are in no message."""
    with pytest.raises(SourceError) as caught:
        open_source("http://ann:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


@contextmanager
def answering(
    status: int,
    body: bytes,
    length: int | None = None,
    headers: Mapping[str, str] | None = None,
    asked: list[str] | None = None,
) -> Iterator[str]:
    """A server on loopback that answers everything so; `asked` gets the paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(self.path)
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


SUCCESS = {"status": "success", "data": {"resultType": "matrix"}}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>hello", "not JSON"),
        (200, b"[]", "not a Prometheus result"),
        (200, b'{"status": "success"}', "not a Prometheus result"),
        (422, b'{"status": "error", "error": "boom"}', "answered 422: boom"),
        (401, b"", "answered 401"),
        (500, b"", "answered 500"),
        (501, b"<html>", "answered 501: '<html>'"),
        (200, b"[" * 100_000, "not JSON"),
        (
            200,
            json.dumps(SUCCESS | {"data": {"result": [{"metric": {}, "value": [[1], "1"]}]}}).encode(),
            "not samples",
        ),
        (
            200,
            json.dumps(SUCCESS | {"data": {"result": [{"metric": {}, "value": [10**400, "1"]}]}}).encode(),
            "not samples",
        ),
        (200, json.dumps(SUCCESS | {"data": {"result": [{"metric": {}}]}}).encode(), "not samples"),
        (
            200,
            json.dumps(SUCCESS | {"data": {"result": [{"metric": {}, "values": [[1, "x"]]}]}}).encode(),
            "not samples",
        ),
        (200, json.dumps(SUCCESS | {"data": {"result": [7]}}).encode(), "not samples"),
        (
            200,
            json.dumps(
                SUCCESS | {"data": {"result": [{"metric": {}, "values": [[float("nan"), "1"]]}]}}
            ).encode(),
            "not samples",
        ),
    ],
)
def test_answers_that_are_not_samples(status: int, body: bytes, message: str) -> None:
    """Whatever a server answers instead of samples is one line that says so."""
    with answering(status, body) as url:
        source = PrometheusSource(url)
        with pytest.raises(SourceError, match=message):
            fetch(source, T0, T0 + 1000)
        with pytest.raises(SourceError, match=message):
            list(source.summary(POWER, (), T0, T0 + 1000, Summary.MAX))


def test_half_a_response_is_an_error() -> None:
    """A body shorter than announced is never taken for a short result."""
    body = json.dumps(SUCCESS | {"data": {"result": []}}).encode()
    with (
        answering(200, body, length=len(body) + 10) as url,
        pytest.raises(SourceError, match="no answer from"),
    ):
        fetch(PrometheusSource(url), T0, T0 + 1000)


def test_a_servers_warnings_are_kept() -> None:
    """What a store says of a partial answer reaches the caller."""
    body = json.dumps(SUCCESS | {"data": {"result": []}, "warnings": ["half of me is down"]}).encode()
    with answering(200, body) as url:
        source = PrometheusSource(url)
        fetch(source, T0, T0 + 1000)
    assert source.warnings == ("half of me is down",)


def test_an_exporters_history_is_fetched_once() -> None:
    """The margins that a window is read with are in the first answer."""
    asked: list[str] = []
    with answering(200, b"m 1 1795507546\n# EOF\n", asked=asked) as url:
        source = ExporterSource(url)
        for margin_ms in (30_000, 300_000, 30_000, 300_000):
            assert len(list(whole(source.pieces("m", (), T0 - margin_ms, T0, lambda _: None)))) == 1
            assert len(list(source.summary("m", (), T0 - margin_ms, T0, Summary.LAST))) == 1
        assert len(asked) == 1
        assert list(whole(source.pieces("m", (), 0, 5, lambda _: None))) == []
        assert len(asked) == 2


def test_an_exporter_without_samples_has_no_data() -> None:
    """A page of plain facts, as of an exporter just started, is an answer and not an error."""
    with answering(200, b"llem_gpu_info 1\n# EOF\n") as url:
        source = ExporterSource(url)
        assert list(whole(source.pieces("m", (), T0, T0 + 5, lambda _: None))) == []
        assert len(list(source.summary("llem_gpu_info", (), T0, T0 + 5, Summary.LAST))) == 1


def test_a_summary_without_a_number_is_none() -> None:
    """A limit of NaN, a peak of +Inf and a value beyond any GPU's are no facts; null warnings are none."""
    found = [{"metric": {"gpu": value}, "value": [1, value]} for value in ("NaN", "+Inf", "-1", "1e300", "7")]
    body = json.dumps(SUCCESS | {"data": {"result": found}, "warnings": None}).encode()
    with answering(200, body) as url:
        source = PrometheusSource(url)
        assert [one.labels["gpu"] for one in source.summary(POWER, (), T0, T0 + 1000, Summary.MAX)] == ["7"]


@pytest.mark.parametrize(
    "where",
    [
        *("http://[::1", "http://[", "//[x", "http://localhost:99999", "http://h:abc", "http://a b"),
        *("http://", "http://:80", "http://[::1]x", "HTTPS://ann:secret@h:abc", "http://h:0"),
    ],
)
def test_what_is_no_url_is_one_line(where: str) -> None:
    """A URL that no request can go to is refused before one does, with no password in the line."""
    with pytest.raises(ConfigError, match="not a URL") as caught:
        open_source(where)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("location", ["http://[::1", "http://localhost:99999", "http://h:abc"])
def test_a_redirect_to_what_is_no_url(location: str) -> None:
    """A server that sends elsewhere, where nothing can be, did not answer."""
    with (
        answering(302, b"", headers={"Location": location}) as url,
        pytest.raises(SourceError, match="no answer from"),
    ):
        open_source(url)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_in_trouble_is_not_something_else(status: int) -> None:
    """An HTTP status is said, soon, whatever the server would have one wait."""
    began = time.monotonic()
    with (
        answering(status, b"<html>", headers={"Retry-After": "60"}) as url,
        pytest.raises(SourceError, match=f"answered {status}"),
    ):
        open_source(url)
    assert time.monotonic() - began < 10


def test_a_deeply_nested_answer_is_none() -> None:
    """JSON deeper than Python goes is not a Prometheus's."""
    with answering(200, b"[" * 100_000) as url, pytest.raises(SourceError, match="neither a Prometheus"):
        open_source(url)


def test_something_else_than_a_store_is_refused() -> None:
    """A web server that is neither a Prometheus nor an exporter is told apart."""
    with answering(200, b"<html>") as url, pytest.raises(SourceError, match="neither a Prometheus"):
        open_source(url)
    with pytest.raises(ConfigError, match="ftp"):
        open_source("ftp://x/y")


def test_an_openmetrics_file_gives_what_prometheus_gives(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """The same page read from a file and through a server are the same series."""
    text = trace_text(500)
    file = tmp_path / "page.om"
    file.write_text(text)
    with Prometheus.on_blocks(tmp_path / "server", text, release=prometheus_release) as server:
        pairs = zip(
            *(fetch(open_source(where), T0, T0 + 60_000) for where in (server.url, str(file))), strict=True
        )
        for stored, read in pairs:
            assert stored.labels == read.labels
            assert stored.unix_ms.tolist() == read.unix_ms.tolist()
            assert stored.values.tolist() == read.values.tolist()


def test_openmetrics_details() -> None:
    """Escapes, exemplars, spaces in values, samples without a time and without labels are read."""
    source = parse(
        '# HELP a b\nm{x="a \\"b\\" } c\\n\\\\",y=""} 1.5 12.345\n'
        'm{x="q"} +Inf 12\nm{x="q"} 2 13 # {trace="t"} 1 9\ni{v="1"} 1\nn 4 14\n# EOF\n',
        "page",
    )
    found = {one.labels["x"]: one for one in whole(source.pieces("m", (), 0, 20_000, lambda _: None))}
    assert found['a "b" } c\n\\'].unix_ms.tolist() == [12_345]
    assert (found["q"].values.tolist(), found["q"].bad) == ([2.0], 1)
    assert [one.labels for one in source.summary("i", (), 5, 6, Summary.LAST)] == [{"v": "1"}]
    assert [len(one) for one in whole(source.pieces("n", (), 0, 20_000, lambda _: None))] == [1]


@pytest.mark.parametrize("label", ["a\u2028b", "a # {b", "a\x85\x0b\x1cb", "} 1 2 # {", "{}", "\\\\"])
def test_a_label_is_not_what_a_line_ends_at(label: str) -> None:
    """Only newlines end lines, and only what follows a sample is an exemplar."""
    text = f'm{{x="{label}"}} 1 12 # {{t="x"}} 3 4\r\nm{{x="{label}"}} 2 13\n\r\n# EOF\n'
    (one,) = whole(parse(text, "page").pieces("m", (), 0, 20_000, lambda _: None))
    assert (one.labels["x"], one.values.tolist()) == (label.replace("\\\\", "\\"), [1, 2])


def test_values_that_are_no_samples_of_ours() -> None:
    """Values beyond any GPU's are bad readings, and a fact that is no number is none."""
    source = parse(f"m 1e305 12\nm 2 13\nn NaN 12\n{POWER}_limit NaN\nfact -1\nfact2 3\n# EOF", "page")
    (one,) = whole(source.pieces("m", (), 0, 20_000, lambda _: None))
    assert (one.values.tolist(), one.bad) == ([2], 1)
    for name, count in (("n", 0), (f"{POWER}_limit", 0), ("fact", 0), ("fact2", 1)):
        assert len(list(source.summary(name, (), 0, 20_000, Summary.MAX))) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "EOF"),
        ("m 1 2\n", "EOF"),
        ("m one 2\n# EOF", "line 1"),
        ("m 1 2 3\n# EOF", "line 1"),
        ("m{x=1} 1 2\n# EOF", "not a series"),
        ("m 1\n# EOF", "no sample has a timestamp"),
        ("m 1 1e300\n# EOF", "not in unix seconds"),
        ("m 1 nan\n# EOF", "not in unix seconds"),
        ("m 1 1795507546000000\n# EOF", "not in unix seconds"),
    ],
)
def test_openmetrics_that_is_not(text: str, message: str) -> None:
    """A page cut short, of another format or without times is refused with its place."""
    with pytest.raises(SourceError, match=message):
        parse(text, "page")


@given(st.text(alphabet='m{}x="\\, 1.e-N#EOF\n', max_size=60))
def test_any_text_is_a_page_or_a_source_error(text: str) -> None:
    """No text makes the parser raise anything else."""
    with suppress(SourceError):
        parse(text + "\n# EOF", "page")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are one line each."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, message in (("none", "cannot read"), (".", "cannot read"), ("bytes", "not text")):
        with pytest.raises(SourceError, match=message):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "{}", "x", "x=y", 'x="y" z="w"', '{x="y"', '="y"', 'x="y",,'),
        *(r'x="\d"', r'x="\x1"', r'x="\ud800"', r'x="\U00110000"', r'x="\400"', r'x="\xff"', 'x="\udcff"'),
    ],
)
def test_bad_matchers(text: str) -> None:
    """What is no matcher, or no string of PromQL, is refused, and so is no matcher at all."""
    with pytest.raises(ConfigError):
        parse_selector(text)


def test_matchers_apply_as_in_promql() -> None:
    """Absent labels are empty, and regular expressions are anchored and dots match newlines."""
    labels = {"a": "xy", "n": "1\n2"}
    texts = {
        'a="xy"': True,
        'a!="xy"': False,
        'a=~"x"': False,
        'a=~"x."': True,
        'a!~"x"': True,
        'b=""': True,
        'n=~"1.2"': True,
        r'n=~"\\d\n\\d"': True,
    }
    for text, expected in texts.items():
        assert all(matcher(labels) for matcher in parse_selector(text)) is expected, text


def test_escapes_are_promqls(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """Every escape means what it means to the server, which gets it as it was meant."""
    text = r"""x="\a\b\f\n\r\t\v\\\"\x41\101\u00e9\U0001f50b\xc3\xa9 é", y='it\'s \\d'"""
    first, second = parse_selector(text)
    assert first.value == '\a\b\f\n\r\t\v\\"AA\u00e9\U0001f50b\u00e9 \u00e9'
    assert second.value == "it's \\d"
    with Prometheus.on_blocks(tmp_path, trace_text(10), release=prometheus_release) as server:
        sent = ",".join(map(str, (first, second)))
        (absent,) = server.query(f"absent(none{{{sent}}})")
        assert absent["metric"] == {"x": first.value, "y": second.value}


@pytest.mark.parametrize("pattern", ["(", "x{99999999999}", "(" * 5000 + ")" * 5000])
def test_a_regular_expression_is_read_where_it_is_applied(pattern: str) -> None:
    """A server's regular expressions are its own; one that fails here fails when labels are matched."""
    (matcher,) = parse_selector(f'x=~"{pattern}"')
    assert str(matcher) == f'x=~"{pattern}"'
    with pytest.raises(ConfigError, match="not a regular expression"):
        matcher({})
