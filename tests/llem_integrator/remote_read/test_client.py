"""Remote read from a real Prometheus: the same samples as its JSON, in bounded pieces."""

import math
import random
import threading
from collections.abc import Iterator, Sequence
from itertools import islice

import cramjam
import pytest

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from llem_integrator.remote_read import wire
from llem_integrator.series.matchers import parse_selector
from llem_integrator.stores import Source, whole
from llem_integrator.stores.fetch import shown
from llem_integrator.stores.prometheus import PrometheusSource
from llem_integrator.stores.queries.slabs import TARGET_SAMPLES
from tests.llem_integrator.stand_ins import Asked, Reply, between
from tests.llem_integrator.traces import POWER, T0, fetch, same, trace_text
from tests.servers import Prometheus, PrometheusRelease, wait_until

READ = "/api/v1/read"
END = T0 + 2_000_000
"""Ms at which the trace of `traced` ends: a source fetches it in two slabs."""


def by_remote_read(url: str, slab_samples: int = TARGET_SAMPLES) -> PrometheusSource:
    return PrometheusSource(Http(url), slab_samples=slab_samples)


def by_json(url: str) -> PrometheusSource:
    return PrometheusSource(Http(url), remote_read=False)


def requested_ms(asked: Asked) -> int:
    """The length of the time range of a remote read request."""
    message = bytes(cramjam.snappy.decompress_raw(asked.body))
    _, _, begin, end = next(wire.fields(message, 0, len(message)))
    times = islice(wire.fields(message, begin, end), 2)
    start_ms, end_ms = (wire.read_varint(message, at, stop)[0] for _, _, at, stop in times)
    return end_ms - start_ms + 1


def page(begin_ms: int, *columns: Sequence[tuple[int, float]]) -> str:
    """An OpenMetrics page: one series a column, of (ms after `begin_ms`, value)."""
    lines = [f"# TYPE {POWER} gauge"]
    for gpu, samples in enumerate(columns):
        for ms, value in samples:
            stamp = f"{(begin_ms + ms) // 1000}.{(begin_ms + ms) % 1000:03d}"
            lines.append(f'{POWER}{{gpu="{gpu}",instance="n1",uuid="GPU-{gpu}"}} {value!r} {stamp}')
    return "\n".join([*lines, "# EOF", ""])


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


KINDS_MS = T0 + 86_400_000
OVERLAPS_MS = T0 + 2 * 86_400_000
FIRST = [(100 * i, float(i)) for i in range(1000)]
SECOND = [(100 * i + 50 * (i % 2), float(i)) for i in range(500, 1500)]


@pytest.fixture(scope="module")
def odd(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Prometheus]:
    """A Prometheus with small frames and external labels.

    It holds a trace from T0 on, every kind of samples from KINDS_MS on, and blocks that overlap from
    OVERLAPS_MS on.
    """
    folder = tmp_path_factory.mktemp("odd")
    args = ["--storage.remote.read-max-bytes-in-frame=1000"]
    texts = (
        trace_text(20_000),
        page(KINDS_MS, *kinds()),
        page(OVERLAPS_MS, FIRST),
        page(OVERLAPS_MS, SECOND),
    )
    server, *others = (
        Prometheus.on_blocks(folder / str(number), text, args=args, release=prometheus_release)
        for number, text in enumerate(texts)
    )
    for other in others:
        for block in other.data.glob("01*"):
            block.rename(server.data / block.name)
    server.configure(config={"global": {"external_labels": {"replica": "a", "instance": "other"}}})
    with server:
        yield server


def test_remote_read_gives_what_json_gives(odd: Prometheus) -> None:
    """Chunks give the same samples as the server's JSON, for all kinds of values and any window."""
    cuts = random.Random(5)
    windows = [(-10_000, 20_000_000), (0, 0), (1, 99), (-9, -1)]
    windows += [(cuts.randrange(100_000), cuts.randrange(100_000, 300_000)) for _ in range(20)]
    found, expected = by_remote_read(odd.url), by_json(odd.url)
    for start, end in windows:
        assert same(*(fetch(one, KINDS_MS + start, KINDS_MS + end) for one in (found, expected)))
    selected = fetch(found, KINDS_MS, KINDS_MS + 900, '{gpu=~"1|7",uuid!="x\\"y"}')
    assert [one.labels["gpu"] for one in selected] == ["1", "7"]


def test_overlapping_blocks_are_merged(odd: Prometheus) -> None:
    """Overlapping chunks give each time once.

    For different values at one time, the server's value is used.
    """
    found = fetch(by_remote_read(odd.url), OVERLAPS_MS, OVERLAPS_MS + 200_000)
    assert same(found, fetch(by_json(odd.url), OVERLAPS_MS, OVERLAPS_MS + 200_000))
    assert found[0].unix_ms.tolist() == [OVERLAPS_MS + ms for ms in sorted({ms for ms, _ in FIRST + SECOND})]


def test_a_series_may_come_in_many_frames(odd: Prometheus) -> None:
    """Frames of a few chunks each are joined."""
    found = fetch(by_remote_read(odd.url), T0 + 50, END)
    assert [len(one) for one in found] == [19_999, 19_999]
    assert same(found, fetch(by_json(odd.url), T0 + 50, END))


def test_a_limit_of_samples_makes_slabs_shorter(odd: Prometheus) -> None:
    """If a server limits the samples per query, slabs are shorter, and no sample is lost."""

    def limited(asked: Asked) -> Reply | None:
        """The answer of a Mimir that hands out 10 min at most."""
        if asked.path != READ or requested_ms(asked) <= 600_000:
            return None
        return Reply(422, b"err-mimir-max-query-length: the query time range exceeds the limit")

    with between(odd.url, before=limited) as proxy:
        found = fetch(by_remote_read(proxy.url), T0, END)
    assert [len(one) for one in found] == [20_000, 20_000]


def test_external_labels_are_not_the_series_own(odd: Prometheus) -> None:
    """Remote read adds external labels, which the JSON does not have. They are removed."""
    found = fetch(by_remote_read(odd.url), T0, T0 + 100_000)
    assert found[0].labels == {"gpu": "0", "instance": "n1", "uuid": "GPU-0"}
    assert same(found, fetch(by_json(odd.url), T0, T0 + 100_000))


def test_pieces_are_bounded_and_follow_each_other(traced: Prometheus) -> None:
    """An empty hour is one piece, a dense one is many. Together they have each sample once."""
    shares: list[float] = []
    start_ms, end_ms = T0 - 3_600_000, END + 4_000_000
    read = by_remote_read(traced.url, 1000).pieces(POWER, (), start_ms, end_ms)
    pieces = list(shown(read, start_ms, end_ms, shares.append))
    assert same(list(whole(pieces)), fetch(by_json(traced.url), start_ms, end_ms))
    edges = [(piece.start_ms, piece.end_ms) for piece in pieces]
    assert [start for start, _ in edges] == [start_ms, *(end + 1 for _, end in edges[:-1])]
    assert edges[-1][1] == end_ms
    sizes = [sum(map(len, piece.series)) for piece in pieces]
    assert sum(sizes) == 40_000
    assert max(sizes) <= 3000
    assert len(pieces) < 80
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_an_answer_that_is_left_leaves_nothing_running(traced: Prometheus) -> None:
    """A reader that stops before or after the first piece leaves no thread and can read again."""
    before = set(threading.enumerate())
    for after in (0, 1):
        source = by_remote_read(traced.url)
        pieces = iter(source.pieces(POWER, (), T0, END))
        for _ in range(after):
            next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        wait_until(lambda: set(threading.enumerate()) <= before, "the end of the threads")
        assert [len(one) for one in fetch(source, T0, END)] == [20_000, 20_000]


def test_two_answers_side_by_side(traced: Prometheus) -> None:
    """Two concurrent reads of one source are independent, even if one ends early."""
    source = by_remote_read(traced.url)
    expected = fetch(source, T0, END)
    first, second = (iter(source.pieces(POWER, (), T0, END)) for _ in range(2))
    kept = [next(first)]
    next(second)
    second.close()  # type: ignore[attr-defined]
    kept += first
    assert len(kept) == 2
    assert same(list(whole(kept)), expected)


def test_a_piece_that_is_kept_stays_as_it_is(traced: Prometheus) -> None:
    """Pieces stay unchanged while later ones are read."""
    source = by_remote_read(traced.url, 1000)
    kept = list(source.pieces(POWER, (), T0, END))[::2]
    before = [(one.unix_ms.copy(), one.values.copy()) for piece in kept for one in piece.series]
    fetch(source, T0, END)
    after = [(one.unix_ms, one.values) for piece in kept for one in piece.series]
    assert len(kept) > 5
    assert all((a == b).all() for pair in zip(before, after, strict=True) for a, b in zip(*pair, strict=True))


def test_where_remote_read_is_off_json_answers(traced: Prometheus, subtests: pytest.Subtests) -> None:
    """If remote read is not available, JSON gives the same samples. Remote read is tried once."""
    for status in (400, 403, 404, 405, 501):

        def off(asked: Asked, status: int = status) -> Reply | None:
            return Reply(status, b"no") if asked.path == READ else None

        with subtests.test(status=status), between(traced.url, before=off) as proxy:
            source: Source = by_remote_read(proxy.url)
            assert same(fetch(source, T0, T0 + 50_000), fetch(by_json(traced.url), T0, T0 + 50_000))
            fetch(source, T0, T0 + 50_000)
            assert [one.path for one in proxy.asked].count(READ) == 1


def test_a_server_that_answers_with_samples_is_asked_for_json(traced: Prometheus) -> None:
    """A server may know remote read, but no chunks. JSON gives the same samples."""

    def samples(asked: Asked) -> Reply | None:
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        return Reply(body=b"\0", headers=headers) if asked.path == READ else None

    with between(traced.url, before=samples) as proxy:
        source = by_remote_read(proxy.url)
        assert same(fetch(source, T0, T0 + 50_000), fetch(by_json(traced.url), T0, T0 + 50_000))
        fetch(source, T0, T0 + 50_000)
        assert [one.path for one in proxy.asked].count(READ) == 1


def test_remote_read_that_stops_in_the_middle_is_an_error(traced: Prometheus) -> None:
    """If remote read fails after the first piece, it is an error. JSON is not tried."""
    seen: list[str] = []

    def off(asked: Asked) -> Reply | None:
        seen.append(asked.path)
        return Reply(404, b"gone") if seen.count(READ) > 1 else None

    with (
        between(traced.url, before=off) as proxy,
        pytest.raises(SourceError, match="/api/v1/read answered 404: gone"),
    ):
        fetch(by_remote_read(proxy.url), T0, END)


def test_matchers_of_every_kind_reach_the_server(odd: Prometheus) -> None:
    """All four kinds of matchers select the same series as in PromQL."""
    source = by_remote_read(odd.url)
    for text in ('gpu="2"', 'gpu!="2"', 'gpu=~"[12]"', 'gpu!~"[12]"', 'none=""', 'none="x"'):
        expected = odd.query(f"{POWER}{{{text}}}", KINDS_MS / 1000 + 1)
        found = source.pieces(POWER, parse_selector(text), KINDS_MS, KINDS_MS + 900)
        assert {one.labels["gpu"] for piece in found for one in piece.series} == {
            one["metric"]["gpu"] for one in expected if one["metric"]["gpu"] != "8"
        }, text
