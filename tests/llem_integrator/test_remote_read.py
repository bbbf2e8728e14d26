"""Remote read from a real Prometheus: the same samples as its JSON, in bounded pieces."""

import math
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from llem_core.errors import SourceError
from llem_integrator.series import Series
from llem_integrator.sources import Source, slabs, whole
from llem_integrator.sources.http import Http
from llem_integrator.sources.matchers import parse_selector
from llem_integrator.sources.prometheus import PrometheusSource
from llem_integrator.sources.read_protocol import Form
from llem_integrator.sources.remote_read import RemoteRead
from tests.llem_integrator.stand_ins import Asked, Reply, between
from tests.llem_integrator.traces import POWER, T0, fetch, trace_text
from tests.servers import Prometheus, PrometheusRelease

READ = "/api/v1/read"


def by_remote_read(url: str, form: Form = Form.CHUNKS) -> PrometheusSource:
    """A source that has nothing else."""
    source = PrometheusSource(Http(url, sleep=lambda _: None))
    remote = source._remote
    assert isinstance(remote, RemoteRead)
    remote._form = form
    return source


def by_json(url: str) -> PrometheusSource:
    return PrometheusSource(Http(url), remote_read=False)


def page(*columns: Sequence[tuple[int, float]]) -> str:
    """An OpenMetrics page: one series a column, of (ms after T0, value)."""
    lines = [f"# TYPE {POWER} gauge"]
    for gpu, samples in enumerate(columns):
        for ms, value in samples:
            stamp = f"{(T0 + ms) // 1000}.{(T0 + ms) % 1000:03d}"
            lines.append(f'{POWER}{{gpu="{gpu}",instance="n1",uuid="GPU-{gpu}"}} {value!r} {stamp}')
    return "\n".join([*lines, "# EOF", ""])


def same(found: Sequence[Series], expected: Sequence[Series]) -> bool:
    """Whether both have the same series, to the bit."""
    return [(one.labels, one.unix_ms.tolist(), one.values.tolist(), one.bad) for one in found] == [
        (one.labels, one.unix_ms.tolist(), one.values.tolist(), one.bad) for one in expected
    ]


def kinds() -> list[list[tuple[int, float]]]:
    """One column a kind of samples: what XOR chunks store in unlike ways, and what is no sample of ours."""
    noise = random.Random(4)
    grid = [100 * i for i in range(2000)]
    jitter = [100 * i + noise.randrange(99) for i in range(2000)]
    return [
        [(ms, float(ms // 100 % 7)) for ms in grid],
        [(ms, noise.gauss(300, 20)) for ms in grid],
        [(ms, 72.125) for ms in grid],
        [(ms, 0.0) for ms in grid],
        [(ms, 0.0 if noise.random() < 0.5 else 400.0) for ms in jitter],
        [(ms, math.nan if ms % 900 == 0 else 5.0) for ms in grid],
        [(ms, 1e9 + ms if ms < 90_000 else float(ms)) for ms in grid],
        [(ms, math.inf if ms == 500 else -1.0 if ms == 600 else 1e300 if ms == 700 else 1.0) for ms in grid],
        [(100_000, 3.0)],
        [(0, 3.0), (3_600_000, 4.0), (10_000_000, 5.0)],
    ]


@pytest.mark.parametrize("form", list(Form))
def test_remote_read_gives_what_json_gives(
    tmp_path: Path, prometheus_release: PrometheusRelease, form: Form
) -> None:
    """Whatever the samples are and wherever a window cuts them, chunks and samples are the server's own."""
    cuts = random.Random(5)
    with Prometheus.on_blocks(tmp_path, page(*kinds()), release=prometheus_release) as server:
        found, expected = by_remote_read(server.url, form), by_json(server.url)
        windows = [(T0 - 10_000, T0 + 20_000_000), (T0, T0), (T0 + 1, T0 + 99), (T0 - 9, T0 - 1)]
        windows += [(T0 + cuts.randrange(100_000), T0 + cuts.randrange(100_000, 300_000)) for _ in range(20)]
        for start_ms, end_ms in windows:
            assert same(*(fetch(source, start_ms, end_ms) for source in (found, expected)))
        selector = '{gpu=~"1|7",uuid!="x\\"y"}'
        assert [one.labels["gpu"] for one in fetch(found, T0, T0 + 900, selector)] == ["1", "7"]


@pytest.mark.parametrize("form", list(Form))
def test_pieces_are_bounded_and_follow_each_other(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    """An empty hour is one piece, a dense one many; together they are everything, once."""
    monkeypatch.setattr(slabs, "_FIRST_MS", 10_000)
    monkeypatch.setattr(Target, "samples", 2000)
    monkeypatch.setattr("llem_integrator.sources.remote_read.Slabs", Target)
    dense = [(ms, ms % 97 + 0.5) for ms in range(3_600_000, 4_600_000, 100)]
    with Prometheus.on_blocks(tmp_path, page(dense, dense), release=prometheus_release) as server:
        shares: list[float] = []
        source = by_remote_read(server.url, form)
        pieces = list(source.pieces(POWER, (), T0, T0 + 9_000_000, shares.append))
        assert same(fetch(source, T0, T0 + 9_000_000), fetch(by_json(server.url), T0, T0 + 9_000_000))
    edges = [(piece.start_ms, piece.end_ms) for piece in pieces]
    assert [start for start, _ in edges] == [T0, *(end + 1 for _, end in edges[:-1])]
    assert edges[-1][1] == T0 + 9_000_000
    sizes = [sum(map(len, piece.series)) for piece in pieces]
    assert sum(sizes) == 2 * len(dense)
    assert max(sizes) <= 6000
    assert len(pieces) < 40
    assert shares == sorted(shares)
    assert shares[-1] == 1


class Target(slabs.Slabs):
    """Slabs of fewer samples."""

    samples = 1000

    def __init__(self, start_ms: int, end_ms: int) -> None:
        super().__init__(start_ms, end_ms, self.samples)


@pytest.mark.parametrize("frame_bytes", [100, 3000])
def test_a_series_may_come_in_many_frames(
    tmp_path: Path, prometheus_release: PrometheusRelease, frame_bytes: int
) -> None:
    """Frames of one chunk each are put together."""
    args = [f"--storage.remote.read-max-bytes-in-frame={frame_bytes}"]
    with Prometheus.on_blocks(tmp_path, trace_text(3000), args=args, release=prometheus_release) as server:
        found = fetch(by_remote_read(server.url), T0 + 50, T0 + 250_000)
        assert same(found, fetch(by_json(server.url), T0 + 50, T0 + 250_000))


def test_overlapping_blocks_are_merged(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """Chunks that overlap give each time once; of unlike values at one time the server and we keep one."""
    first = [(100 * i, float(i)) for i in range(1000)]
    second = [(100 * i + 50 * (i % 2), float(i)) for i in range(500, 1500)]
    with Prometheus.on_blocks(tmp_path / "a", page(first), release=prometheus_release):
        pass
    server = Prometheus.on_blocks(tmp_path / "b", page(second), release=prometheus_release)
    for block in (tmp_path / "a" / "data").glob("01*"):
        block.rename(server.data / block.name)
    with server:
        found = fetch(by_remote_read(server.url), T0, T0 + 200_000)
        assert same(found, fetch(by_json(server.url), T0, T0 + 200_000))
    assert found[0].unix_ms.tolist() == [T0 + ms for ms in sorted({ms for ms, _ in first + second})]


def test_a_limit_of_samples_makes_slabs_shorter(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """A server that hands out few samples at once is asked for less time, and nothing is lost."""
    args = ["--storage.remote.read-sample-limit=3000"]
    with Prometheus.on_blocks(tmp_path, trace_text(6000), args=args, release=prometheus_release) as server:
        found = fetch(by_remote_read(server.url, Form.SAMPLES), T0, T0 + 1_000_000)
    assert [len(one) for one in found] == [6000, 6000]


def test_external_labels_are_not_the_series_own(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """Remote read adds the server's external labels, which its JSON does not have; both give the same."""
    server = Prometheus.on_blocks(tmp_path, trace_text(100), release=prometheus_release)
    server.configure(config={"global": {"external_labels": {"replica": "a", "instance": "other"}}})
    with server:
        found = fetch(by_remote_read(server.url), T0, T0 + 100_000)
        assert found[0].labels == {"gpu": "0", "instance": "n1", "uuid": "GPU-0"}
        assert same(found, fetch(by_json(server.url), T0, T0 + 100_000))


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("llem")}


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_answer_that_is_left_leaves_nothing_running(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whoever stops in the middle has no thread and no request left, and can ask again."""
    monkeypatch.setattr("llem_integrator.sources.remote_read.Slabs", Target)
    with Prometheus.on_blocks(tmp_path, trace_text(20_000), release=prometheus_release) as server:
        source = by_remote_read(server.url)
        pieces = iter(source.pieces(POWER, (), T0, T0 + 2_000_000, lambda _: None))
        for _ in range(after):
            next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        assert threads() == set()
        assert [len(one) for one in fetch(source, T0, T0 + 2_000_000)] == [20_000, 20_000]


def test_two_answers_side_by_side(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of one source that are read in turn do not disturb each other, nor does the end of one."""
    monkeypatch.setattr("llem_integrator.sources.remote_read.Slabs", Target)
    with Prometheus.on_blocks(tmp_path, trace_text(10_000), release=prometheus_release) as server:
        source = by_remote_read(server.url)
        expected = fetch(source, T0, T0 + 1_000_000)
        first, second = (iter(source.pieces(POWER, (), T0, T0 + 1_000_000, lambda _: None)) for _ in range(2))
        kept = [next(first), next(second), next(first)]
        second.close()  # type: ignore[attr-defined]
        kept = [kept[0], kept[2], *first]
        assert same(list(whole(kept)), expected)


def test_a_piece_that_is_kept_stays_as_it_is(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is used again only where nobody holds the samples in it."""
    monkeypatch.setattr("llem_integrator.sources.remote_read.Slabs", Target)
    monkeypatch.setattr("llem_integrator.sources.remote_read.FEW_SAMPLES", 0)
    with Prometheus.on_blocks(tmp_path, trace_text(20_000), release=prometheus_release) as server:
        source = by_remote_read(server.url)
        kept = list(source.pieces(POWER, (), T0, T0 + 2_000_000, lambda _: None))[::2]
        before = [(one.unix_ms.copy(), one.values.copy()) for piece in kept for one in piece.series]
        fetch(source, T0, T0 + 2_000_000)
        after = [(one.unix_ms, one.values) for piece in kept for one in piece.series]
    assert len(kept) > 5
    assert all((a == b).all() for pair in zip(before, after, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_where_remote_read_is_off_json_answers(
    tmp_path: Path, prometheus_release: PrometheusRelease, status: int
) -> None:
    """A proxy that lets only queries pass costs speed and nothing else."""

    def off(asked: Asked) -> Reply | None:
        return Reply(status, b"no") if asked.path == READ else None

    with (
        Prometheus.on_blocks(tmp_path, trace_text(3000), release=prometheus_release) as server,
        between(server.url, before=off) as proxy,
    ):
        source: Source = by_remote_read(proxy.url)
        assert same(fetch(source, T0, T0 + 300_000), fetch(by_json(server.url), T0, T0 + 300_000))
        fetch(source, T0, T0 + 300_000)
        assert [one.path for one in proxy.asked].count(READ) == 1


def test_remote_read_that_stops_in_the_middle_is_an_error(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once pieces have come, a refusal is told: nobody gets the first half again by another way."""
    monkeypatch.setattr("llem_integrator.sources.remote_read.Slabs", Target)
    seen: list[str] = []

    def off(asked: Asked) -> Reply | None:
        seen.append(asked.path)
        return Reply(404, b"gone") if seen.count(READ) > 3 else None

    with (
        Prometheus.on_blocks(tmp_path, trace_text(20_000), release=prometheus_release) as server,
        between(server.url, before=off) as proxy,
        pytest.raises(SourceError, match="answered 404 to /api/v1/read: gone"),
    ):
        fetch(by_remote_read(proxy.url), T0, T0 + 2_000_000)


def test_matchers_of_every_kind_reach_the_server(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """Equal, unequal and both regular expressions select as they do in PromQL."""
    with Prometheus.on_blocks(tmp_path, trace_text(10, gpus=4), release=prometheus_release) as server:
        source = by_remote_read(server.url)
        for text in ('gpu="2"', 'gpu!="2"', 'gpu=~"[12]"', 'gpu!~"[12]"', 'none=""', 'none="x"'):
            expected = server.query(f"{POWER}{{{text}}}", T0 / 1000 + 1)
            found = source.pieces(POWER, parse_selector(text), T0, T0 + 900, lambda _: None)
            assert {one.labels["gpu"] for piece in found for one in piece.series} == {
                one["metric"]["gpu"] for one in expected
            }
