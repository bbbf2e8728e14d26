"""Samples as JSON and summaries, from a real Prometheus, and from servers that answer badly."""

import json
import zlib
from pathlib import Path

import pytest

from llem_core.errors import SourceError
from llem_integrator.sources import Summary, parse_selector, promql, whole
from llem_integrator.sources.http import Http
from llem_integrator.sources.prometheus import PrometheusSource
from tests.llem_integrator.stand_ins import Asked, Reply, answering, between
from tests.llem_integrator.traces import POWER, T0, fetch, trace_text
from tests.servers import Prometheus, PrometheusRelease

SUCCESS = {"status": "success", "data": {"resultType": "matrix"}}


def by_json(url: str) -> PrometheusSource:
    return PrometheusSource(Http(url, sleep=lambda _: None), remote_read=False)


def test_prometheus_gives_every_sample_once_over_many_pages(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """Two hours at 10 Hz come back whole, in order, over pages; edges are closed on both sides."""
    samples = 72_000
    with Prometheus.on_blocks(tmp_path, trace_text(samples), release=prometheus_release) as server:
        source = by_json(server.url)
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
        source = by_json(server.url + "/")
        assert [one.labels["gpu"] for one in fetch(source, T0, T0 + 900, '{gpu=~"1|7",uuid!="x\\"y"}')] == [
            "1"
        ]


def test_prometheus_sample_limit_halves_the_page(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """A server that hands out few samples at once is asked for shorter pages, and nothing is lost."""
    args = ["--query.max-samples=4000"]
    with Prometheus.on_blocks(tmp_path, trace_text(20_000), args=args, release=prometheus_release) as server:
        assert [len(one) for one in fetch(by_json(server.url), T0, T0 + 2_000_000)] == [20_000, 20_000]


def test_a_page_is_never_much_more_than_was_meant(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that grew over an empty hour shrink before the samples come, not after."""
    monkeypatch.setattr(promql, "_SAMPLES_A_PAGE", 2000)
    sizes: list[int] = []

    def counted(asked: Asked, reply: Reply) -> Reply:
        body = zlib.decompress(reply.body, 31) if "Content-Encoding" in reply.headers else reply.body
        if asked.path == "/api/v1/query":
            found = json.loads(body)["data"]["result"]
            sizes.append(sum(len(one.get("values", ())) for one in found))
        return reply

    with (
        Prometheus.on_blocks(tmp_path, trace_text(10_000), release=prometheus_release) as server,
        between(server.url, counted) as proxy,
    ):
        found = fetch(by_json(proxy.url), T0 - 3_600_000, T0 + 10_000_000)
    assert [len(one) for one in found] == [10_000, 10_000]
    assert max(sizes) <= 4100
    assert len(sizes) < 100


def test_a_summary_of_more_than_a_server_evaluates_is_put_together(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """Where the whole range is too much at once, its parts give the same last and highest values."""
    args = ["--query.max-samples=3000"]
    with Prometheus.on_blocks(tmp_path, trace_text(9_700), args=args, release=prometheus_release) as server:
        source = by_json(server.url)
        for kind, expected in ((Summary.MAX, [96, 97]), (Summary.LAST, [96, 97])):
            found = list(source.summary(POWER, (), T0, T0 + 2_000_000, kind))
            assert sorted(float(one.values[0]) for one in found) == expected


def test_a_fall_between_two_parts_of_a_range_is_counted_once(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """Resets of a range that is asked for in parts are all its falls, at the seams and elsewhere."""
    args = ["--query.max-samples=3000"]
    with Prometheus.on_blocks(tmp_path, trace_text(9_700), args=args, release=prometheus_release) as server:
        source = by_json(server.url)
        middle = 40 * 97 * 100  # a sample that is lower than the one before: the first of a part
        for end in (2 * middle - 1, 2 * middle - 3, 2 * middle - 101, 2 * middle + 1, 969_900):
            found = list(source.summary(POWER, (), T0, T0 + end, Summary.RESETS))
            assert [float(one.values[0]) for one in found] == [end // 100 // 97] * 2, end


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
        source = by_json(url)
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
        fetch(by_json(url), T0, T0 + 1000)


def test_a_servers_warnings_are_kept() -> None:
    """What a store says of a partial answer reaches the caller."""
    body = json.dumps(SUCCESS | {"data": {"result": []}, "warnings": ["half of me is down"]}).encode()
    with answering(200, body) as url:
        source = by_json(url)
        fetch(source, T0, T0 + 1000)
    assert source.warnings == ("half of me is down",)


def test_a_summary_without_a_number_is_none() -> None:
    """A limit of NaN, a peak of +Inf and a value beyond any GPU's are no facts; null warnings are none."""
    found = [{"metric": {"gpu": value}, "value": [1, value]} for value in ("NaN", "+Inf", "-1", "1e300", "7")]
    body = json.dumps(SUCCESS | {"data": {"result": found}, "warnings": None}).encode()
    with answering(200, body) as url:
        source = by_json(url)
        assert [one.labels["gpu"] for one in source.summary(POWER, (), T0, T0 + 1000, Summary.MAX)] == ["7"]


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
