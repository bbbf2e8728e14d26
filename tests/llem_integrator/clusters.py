"""A small cluster's series as a store would hold them, and a store that hands them out in pieces."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llem_integrator.series.samples import Series, Times, Values, make_series
from llem_integrator.stores import Piece, Selector, whole
from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.stores.spool import Spool

T0 = 1_795_507_500_000
"""Unix ms at which the series begin."""

Columns = dict[str, list[Series]]


@dataclass
class PieceStore:
    """Answers from memory; every answer is cut at the times given, and what was handed over is counted."""

    held: LoadedSource
    cuts_ms: Sequence[int] = ()
    samples: int = 0
    pieces_read: int = 0
    address: str = "memory"
    warnings: tuple[str, ...] = ()

    def pieces(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        inner = [cut for cut in self.cuts_ms if start_ms < cut <= end_ms]
        edges = [start_ms, *inner, end_ms + 1]
        for first, stop in pairwise(edges):
            found = tuple(whole(self.held.pieces(metric, selector, first, stop - 1)))
            self.samples += sum(map(len, found))
            self.pieces_read += 1
            yield Piece(first, stop - 1, found)

    def may_have(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> bool:
        return self.held.may_have(metric, selector, start_ms, end_ms)

    def timeless(self, selectors: Sequence[Selector]) -> Iterator[Series]:
        return self.held.timeless(selectors)


def store(*columns: Columns, cuts_ms: Sequence[int] = ()) -> PieceStore:
    """A store of all the series."""
    every: Columns = {}
    for one in columns:
        for name, series in one.items():
            every.setdefault(name, []).extend(series)
    return PieceStore(load("memory", every), cuts_ms)


def labels(gpu: int, **more: str) -> dict[str, str]:
    return {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "instance": "n1:9955", **more}


def trace(
    gpu: int, seconds: int, rng: np.random.Generator, *, grid: float = 8.0, holes: int = 0, **more: str
) -> Columns:
    """A 10 Hz power trace of multiples of 1/8 W (or of 1 / `grid`), with holes of random lengths."""
    unix_ms = T0 + np.arange(0, seconds * 1000, 100)
    watts = np.rint(rng.uniform(0, 700, len(unix_ms)) * grid) / grid
    keep = np.ones(len(unix_ms), np.bool_)
    for _ in range(holes):
        first = int(rng.integers(0, len(unix_ms)))
        keep[first : first + int(rng.integers(2, 600))] = False
    return {"llem_gpu_power_trace_watts": [make_series(labels(gpu, **more), unix_ms[keep], watts[keep])]}


def intervals(seconds: int, instance: str = "n1:9955") -> Columns:
    unix_ms = T0 + np.arange(0, seconds * 1000, 15_000)
    return {
        "llem_sampler_interval_seconds": [
            make_series({"instance": instance}, unix_ms, np.full(len(unix_ms), 0.1))
        ]
    }


def scraped(
    gpu: int,
    first_s: int,
    last_s: int,
    rng: np.random.Generator,
    *,
    resets_s: Sequence[int] = (),
    started_s: int = 0,
    scrape_s: int = 15,
    late_ms: int = 40,
    more: Mapping[str, str] | None = None,
) -> Columns:
    """One GPU's plain series from one second to another; its hardware counter restarts at `resets_s`.

    Power is constant over each minute, the same whichever label set shows it.
    """
    scrapes = np.arange(first_s, last_s, scrape_s) * 1000 + int(rng.integers(0, 1000))
    read_ms = scrapes - late_ms
    minutes = np.random.default_rng(gpu).integers(400, 5600, last_s // 60 + 2) / 8

    def joules(ms: Times) -> Values:
        whole = np.concatenate([[0.0], np.cumsum(minutes * 60)])
        minute = ms // 60_000
        return whole[minute] + minutes[minute] * (ms - minute * 60_000) / 1000

    zeus = np.full(len(scrapes), 1e6) + joules(read_ms)
    for reset_s in resets_s:
        after = read_ms >= reset_s * 1000
        since = joules(read_ms[after]) - joules(np.array([reset_s * 1000]))
        zeus[after] = since
    started = np.maximum(read_ms, started_s * 1000)
    nvml = joules(started) - joules(np.array([started_s * 1000]))
    unix_ms, own = T0 + scrapes, labels(gpu, **(more or {}))
    columns = {
        "llem_gpu_info": np.ones(len(scrapes)),
        "llem_gpu_power_watts": minutes[read_ms // 60_000],
        "llem_gpu_power_limit_watts": np.full(len(scrapes), 700.0),
        "llem_gpu_sample_timestamp_seconds": (T0 + read_ms) / 1000,
        "llem_gpu_zeus_energy_joules_total": np.rint(zeus * 8) / 8,
        "llem_gpu_nvml_energy_joules_total": np.rint(nvml * 16000) / 16000,
        "llem_gpu_integrated_seconds_total": (started - started_s * 1000) / 1000,
    }
    return {name: [make_series(own, unix_ms, values)] for name, values in columns.items()}


def load(address: str, series_by_metric: Mapping[str, Iterable[Series]]) -> LoadedSource:
    """Return a source of these series."""
    spool = Spool(address)
    for metric, every in series_by_metric.items():
        for series in every:
            number = spool.number(metric, series.labels)
            spool.add(np.full(len(series), number), series.unix_ms, series.values)
    spool.close()
    return LoadedSource(address, spool)
