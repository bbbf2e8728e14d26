"""A real VictoriaMetrics: recognised, and its samples those that were put in."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import pytest
import urllib3

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from llem_integrator.stores import open_source, whole
from llem_integrator.stores.victoriametrics import VictoriaMetricsSource
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, always, answering, between, cut_at
from tests.llem_integrator.traces import POWER, T0, fetch
from tests.servers import VictoriaMetrics

STEP_MS = 100
SAMPLES = 40_000
END = T0 + SAMPLES * STEP_MS


def watts(gpu: int) -> list[float]:
    """Of which some are large, some small, and all have at most 12 digits."""
    noise = random.Random(gpu)
    return [round(noise.gauss(300, 40) * 8) / 8 for _ in range(SAMPLES)]


def put(
    server: VictoriaMetrics, metric: Mapping[str, str], unix_ms: Sequence[int], values: Sequence[float]
) -> None:
    """Store one series."""
    line = {"metric": dict(metric), "values": list(values), "timestamps": list(unix_ms)}
    put_text(server, json.dumps(line), "/api/v1/import")


def put_text(server: VictoriaMetrics, text: str, path: str = "/api/v1/import/prometheus") -> None:
    """Store samples as lines of text."""
    answer = urllib3.request("POST", server.url + path, body=text.encode(), retries=False, timeout=120)
    assert answer.status == 204
    server.flush()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    with VictoriaMetrics(tmp_path_factory.mktemp("vm")) as running:
        for gpu in range(2):
            labels = {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "note": 'a "b" ],"values":[1 \\n'}
            put(running, {"__name__": POWER, **labels}, range(T0, END, STEP_MS), watts(gpu))
        yield running


def source(url: str) -> VictoriaMetricsSource:
    return VictoriaMetricsSource(Http(url))


@pytest.mark.full
def test_it_is_recognised(server: VictoriaMetrics) -> None:
    """It is recognised by the URL of a single server and by the URL of a cluster with a tenant."""
    assert isinstance(open_source(server.url), VictoriaMetricsSource)
    assert isinstance(open_source(f"{server.url}/prometheus/"), VictoriaMetricsSource)


@pytest.mark.full
def test_a_newer_one_is_recognised(server: VictoriaMetrics) -> None:
    """Since version 1.94 it reports only that it is Prometheus 2.24.0."""

    def newer(asked: Asked) -> Reply | None:
        said = b'{"status":"success","data":{"version":"2.24.0"}}'
        return Reply(body=said) if asked.path.endswith("buildinfo") else None

    with between(server.url, before=newer) as proxy:
        assert isinstance(open_source(proxy.url), VictoriaMetricsSource)


@pytest.mark.full
def test_every_sample_comes_back(server: VictoriaMetrics) -> None:
    """The pieces are contiguous and have the stored labels and edges."""
    found = fetch(source(server.url), T0 - 5_000_000, END + 5_000_000)
    for gpu, one in enumerate(found):
        assert one.labels == {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "note": 'a "b" ],"values":[1 \\n'}
        assert one.unix_ms.tolist() == list(range(T0, END, STEP_MS))
        assert one.values.tolist() == watts(gpu)
    pieces = list(source(server.url).pieces(POWER, (), T0, END))
    assert len(pieces) > 1
    assert all(a.end_ms + 1 == b.start_ms for a, b in pairwise(pieces))
    assert (pieces[0].start_ms, pieces[-1].end_ms) == (T0, END)
    cuts = random.Random(3)
    for _ in range(30):
        start_ms, end_ms = sorted(cuts.sample(range(T0 - 500, T0 + 5000), 2))
        expected = [ms for ms in range(T0, END, STEP_MS) if start_ms <= ms <= end_ms]
        found = fetch(source(server.url), start_ms, end_ms, 'gpu="0"')
        assert [ms for one in found for ms in one.unix_ms.tolist()] == expected


def test_stale_markers_and_infinity_are_no_samples() -> None:
    """A stale marker (null) is skipped. Infinity, in old and new spellings, is a bad reading."""
    lines = {
        b'"values":[1,null,+Inf,2],"timestamps":[1000,2000,3000,4000]': 1,
        b'"values":[1,-Inf,Infinity,2],"timestamps":[1000,2000,3000,4000]': 2,
        b'"values":[1,"Infinity","-Infinity",2],"timestamps":[1000,2000,3000,4000]': 2,
        b'"values":[null,1,2],"timestamps":[500,1000,4000]': 0,
    }
    for body, bad in lines.items():
        line = b'{"metric":{"__name__":"m","a":"+Inf,x"},' + body + b"}\n"
        with answering(200, line) as url:
            (one,) = whole(source(url).pieces("m", (), 0, 5000))
        assert (one.unix_ms.tolist(), one.values.tolist(), one.bad) == ([1000, 4000], [1, 2], bad)
        assert one.labels == {"a": "+Inf,x"}


@pytest.mark.full
def test_infinity_of_a_real_one_is_no_sample(server: VictoriaMetrics) -> None:
    """An exported infinite value is a bad reading."""
    values = {T0: "1", T0 + 2000: "2", T0 + 3000: "+Inf"}
    put_text(server, "".join(f'infinite{{gpu="0"}} {value} {ms}\n' for ms, value in values.items()))
    (one,) = whole(source(server.url).pieces("infinite", (), T0, T0 + 5000))
    assert (one.values.tolist(), one.bad) == ([1.0, 2.0], 1)


@pytest.mark.full
def test_a_cut_export_is_an_error(server: VictoriaMetrics, subtests: pytest.Subtests) -> None:
    """An export that ends before its last chunk is an error."""
    for size in (0, 1, 100, 1000):
        with (
            subtests.test(size=size),
            between(server.url, cut_at(size)) as proxy,
            pytest.raises(SourceError, match="cannot read the answer from"),
        ):
            fetch(source(proxy.url), T0, T0 + 60_000)


NO_EXPORTS = [
    (200, b"<html>\n", "something other than samples"),
    (200, b'{"metric":{},"values":[1],"timestamps":[]}\n', "something other than samples"),
    (200, b'{"metric":{},"values":["x"],"timestamps":[1]}\n', "something other than samples"),
    (200, b'{"metric":{},"values":[1],"timestamps":[1', "in the middle of a line"),
    (200, b"[]\n", "something other than samples"),
    (422, b"cannot parse", "/api/v1/export answered 422: cannot parse"),
    (400, b"the number of series exceeds maximum", "even in parts of 1 s: 400: the number of series"),
    (401, b"", "answered 401"),
]


def test_an_export_that_is_none(subtests: pytest.Subtests) -> None:
    """A response without samples is an error of one line."""
    for status, body, message in NO_EXPORTS:
        with (
            subtests.test(status=status, body=body),
            answering(status, body) as url,
            pytest.raises(SourceError, match=message),
        ):
            fetch(source(url), T0, T0 + 60_000)


def test_all_of_a_cluster_is_asked_for() -> None:
    """Partial responses are denied."""
    with StandIn(always(Reply())) as server:
        fetch(source(f"{server.url}/select/7/prometheus"), T0, T0 + 1000)
        (asked,) = server.asked
    assert asked.path == "/select/7/prometheus/api/v1/export"
    assert b"deny_partial_response=1" in asked.body
