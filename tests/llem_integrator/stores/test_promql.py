"""Samples as JSON, from a real Prometheus, and from servers that answer badly."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from llem_integrator.stores import parse_selector, whole
from llem_integrator.stores.fetch import shown
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, answering
from tests.llem_integrator.traces import POWER, T0, fetch, trace_text
from tests.servers import Prometheus, PrometheusRelease

SUCCESS = {"status": "success", "data": {"resultType": "matrix"}}


def by_json(url: str) -> PrometheusSource:
    return PrometheusSource(Http(url), remote_read=False)


def test_prometheus_gives_every_sample_once_over_many_pages(traced: Prometheus) -> None:
    """Half an hour at 10 Hz is read completely and in order. Both edges are inclusive."""
    source = by_json(traced.url)
    shares: list[float] = []
    start_ms, end_ms = T0 - 11_000_000, T0 + 2_100_000
    pieces = source.pieces(POWER, (), start_ms, end_ms)
    found = list(whole(shown(pieces, start_ms, end_ms, shares.append)))
    assert [one.unix_ms.tolist() for one in found] == [[T0 + 100 * i for i in range(20_000)]] * 2
    assert shares == sorted(shares)
    assert len(shares) >= 3
    assert shares[-1] == 1
    inner = fetch(source, T0 + 1000, T0 + 2000)
    assert inner[1].unix_ms.tolist() == [T0 + 1000 + 100 * i for i in range(11)]
    assert fetch(source, T0 - 5000, T0 - 1) == []


def test_prometheus_matches_labels(traced: Prometheus) -> None:
    """A selector reaches the server unchanged, including quotes."""
    found = fetch(by_json(traced.url + "/"), T0, T0 + 900, '{gpu=~"1|7",uuid!="x\\"y"}')
    assert [one.labels["gpu"] for one in found] == ["1"]


def test_several_metrics_are_read_together(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """Long pages of several metrics are counted and read, though their series differ in names only."""
    other = POWER.replace("power", "other")
    lines = trace_text(3000).splitlines()
    text = "\n".join([*lines[:-1], *(line.replace(POWER, other) for line in lines), ""])
    with Prometheus.on_blocks(tmp_path, text, release=prometheus_release) as server:
        for store in (by_json(server.url), PrometheusSource(Http(server.url))):
            pieces = store.pieces(f"{POWER}|{other}|none", (), T0, T0 + 400_000)
            found = {(one.metric, one.labels["gpu"]): len(one) for one in whole(pieces)}
            assert found == {(name, gpu): 3000 for name in (POWER, other) for gpu in "01"}


def test_a_page_is_never_much_more_than_was_meant() -> None:
    """Pages that grew over an empty hour shrink before the first samples."""
    begin_ms, end_ms, samples_per_ms = T0 + 3_600_000, T0 + 4_200_000, 10
    sizes: list[int] = []

    def dense(asked: Asked) -> Reply:
        """A store of 1000 GPUs at 10 Hz, which begins after an hour and hands out no sample here."""
        form = parse_qs(asked.body.decode())
        (range_ms,) = re.findall(r"\[(\d+)ms\]", form["query"][0])
        last_ms = round(float(form["time"][0]) * 1000)
        inside_ms = max(0, min(last_ms, end_ms) - max(last_ms - int(range_ms), begin_ms))
        found: list[dict[str, object]] = []
        if "count_over_time" in form["query"][0]:
            found = [{"metric": {}, "value": [last_ms / 1000, str(inside_ms * samples_per_ms)]}]
        else:
            sizes.append(inside_ms * samples_per_ms)
        return Reply(body=json.dumps({"status": "success", "data": {"result": found}}).encode())

    with StandIn(dense) as server:
        assert fetch(by_json(server.url), T0, end_ms) == []
    assert sum(sizes) == pytest.approx((end_ms - begin_ms) * samples_per_ms, rel=0.01)
    assert max(sizes) <= 400_000
    assert len(sizes) < 100


@pytest.fixture(scope="module")
def limited(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Prometheus]:
    """A Prometheus that evaluates only 3000 samples at once."""
    args, folder = ["--query.max-samples=3000"], tmp_path_factory.mktemp("limited")
    with Prometheus.on_blocks(folder, trace_text(9_700), args=args, release=prometheus_release) as server:
        yield server


def test_prometheus_sample_limit_halves_the_page(limited: Prometheus) -> None:
    """If a server limits the samples per query, pages are shorter, and no sample is lost."""
    assert [len(one) for one in fetch(by_json(limited.url), T0, T0 + 2_000_000)] == [9_700, 9_700]


def result_of(one: object) -> bytes:
    """A successful answer with one series."""
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": [one]}}).encode()


NO_SAMPLES = [
    (200, b"<html>hello", "/api/v1/query answered with something that is not JSON: '<html>hello'"),
    (200, b"[]", "not a Prometheus result"),
    (200, b'{"status": "success"}', "not a Prometheus result"),
    (422, b'{"status": "error", "error": "boom"}', "answered 422: boom"),
    (401, b"", "answered 401"),
    (500, b"", "answered 500"),
    (501, b"<html><h1>not here</h1>", "answered 501: not here"),
    (200, b"[" * 100_000, "not JSON"),
    (200, result_of({"metric": {}, "value": [[1], "1"]}), "other than samples"),
    (200, result_of({"metric": {}, "value": [10**400, "1"]}), "other than samples"),
    (200, result_of({"metric": {}}), "other than samples"),
    (200, result_of({"metric": {}, "values": [[1, "x"]]}), "other than samples"),
    (200, result_of(7), "other than samples"),
    (200, result_of({"metric": {}, "values": [[float("nan"), "1"]]}), "other than samples"),
]
"""Status and body of answers, and what is said of them."""


def test_answers_that_are_not_samples(subtests: pytest.Subtests) -> None:
    """A response without samples is an error of one line."""
    for status, body, message in NO_SAMPLES:
        with subtests.test(status=status, body=body[:80]), answering(status, body) as url:
            source = by_json(url)
            with pytest.raises(SourceError, match=message):
                fetch(source, T0, T0 + 1000)


def test_half_a_response_is_an_error() -> None:
    """A body shorter than its Content-Length is an error."""
    body = json.dumps(SUCCESS | {"data": {"result": []}}).encode()
    with (
        answering(200, body, length=len(body) + 10) as url,
        pytest.raises(SourceError, match="cannot read the answer from"),
    ):
        fetch(by_json(url), T0, T0 + 1000)


def test_a_servers_warnings_are_kept() -> None:
    """Warnings of the server are warnings of the source. So is that a vmselect's answer is partial."""
    for noted, warning in (({"warnings": ["half of me is down"]}, "half"), ({"isPartial": True}, "partial")):
        body = json.dumps(SUCCESS | {"data": {"result": []}, "infos": None, **noted}).encode()
        with answering(200, body) as url:
            source = by_json(url)
            fetch(source, T0, T0 + 1000)
        (text,) = source.warnings
        assert warning in text


def test_escapes_are_promqls(traced: Prometheus) -> None:
    """Escapes have the same meaning here and on the server, which gets the value unchanged."""
    text = r"""x="\a\b\f\n\r\t\v\\\"\x41\101\u00e9\U0001f50b\xc3\xa9 é", y='it\'s \\d'"""
    first, second = parse_selector(text)
    assert first.value == '\a\b\f\n\r\t\v\\"AA\u00e9\U0001f50b\u00e9 \u00e9'
    assert second.value == "it's \\d"
    sent = ",".join(map(str, (first, second)))
    (absent,) = traced.query(f"absent(none{{{sent}}})")
    assert absent["metric"] == {"x": first.value, "y": second.value}
