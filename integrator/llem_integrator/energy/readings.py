"""What a source holds of each GPU and node around windows, put together for the rule."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.metrics import MetricSpec
from llem_integrator.energy.chains import chains
from llem_integrator.energy.counter import Counter
from llem_integrator.energy.faults import Fault, within
from llem_integrator.energy.integral import Counts
from llem_integrator.fetch import Key, key_of
from llem_integrator.plain import Plain
from llem_integrator.series.samples import Series, Times, Values
from llem_integrator.traces import CounterTrace, PowerTrace
from llem_integrator.windows.spans import Index, Spans

_SCRAPE_BLUR_MS: Final = 500.0
"""A scrape's own time is up to this far from when its values were read."""

_ANOTHER_S: Final = 1e9
"""More seconds than any step has: as covered seconds they say that nothing is known of the step."""

_PER_GPU: Final = (
    metrics.GPU_ZEUS_ENERGY,
    metrics.GPU_NVML_ENERGY,
    metrics.GPU_INTEGRATED,
    metrics.GPU_SAMPLE_TIMESTAMP,
    metrics.GPU_POWER,
    metrics.GPU_INFO,
    metrics.GPU_MIG_INFO,
    metrics.GPU_POWER_LIMIT,
    metrics.GPU_POWER_PEAK,
)
_PER_NODE: Final = (metrics.CODECARBON_ENERGY, metrics.CODECARBON_EMISSIONS, metrics.CODECARBON_TIMESTAMP)


@dataclass(slots=True)
class GpuReadings:
    """One GPU's plain series by metric name, its traces, and what was wrong with its samples."""

    uuid: str
    series: dict[str, list[Series]] = field(default_factory=dict)
    power: PowerTrace = field(default_factory=PowerTrace)
    zeus: CounterTrace | None = None
    faults: list[Fault] = field(default_factory=list)

    def of(self, spec: MetricSpec) -> list[Series]:
        return self.series.get(spec.name, [])

    def counters(
        self, spec: MetricSpec, spans: Spans, *, integrated: bool, interval_ms: float = 0.0
    ) -> "Iterator[tuple[Index, Counter]]":
        """A plain counter along the label sets that follow each other, each value at the time it was read.

        One for all windows for which the same label sets are the best.
        """
        read_times = _by_key(self.of(metrics.GPU_SAMPLE_TIMESTAMP))
        covers = _by_key(self.of(metrics.GPU_INTEGRATED))
        for windows, chain in chains(self.of(spec), spans):
            rows: list[_Rows] = []
            for one in chain:
                key, found = key_of(one), _Rows.of(one)
                if integrated:
                    if key not in covers:
                        continue  # without it nobody knows what the counter covers
                    found = found.beside(covers[key])
                rows.append(found.at_read_times(read_times.get(key)))
            if sum(len(found.unix_ms) for found in rows):
                every = _together(rows)
                yield (
                    windows,
                    Counter(
                        every.unix_ms,
                        every.columns[0],
                        integrated_s=every.columns[-1] if integrated else None,
                        interval_ms=interval_ms if integrated else 0.0,
                        blur_ms=0.0 if read_times else _SCRAPE_BLUR_MS,
                        unread=every.unread,
                        skipped=every.unread > 0,
                    ),
                )

    def fault_counts(self, spans: Spans) -> tuple[Counts, Counts]:
        """How many bad and how many conflicting samples (w,) lie in each window."""
        every = [*self.faults, *self.power.faults, *(self.zeus.faults if self.zeus else ())]
        return within((one.bad for one in every), spans), within((one.conflicts for one in every), spans)


@dataclass(slots=True)
class NodeReadings:
    """What CodeCarbon says of one node: joules by component, grams, and when they were measured."""

    name: str
    series: dict[str, list[Series]] = field(default_factory=dict)

    def of(self, spec: MetricSpec) -> list[Series]:
        return self.series.get(spec.name, [])

    def joules(self, component: str, spans: Spans) -> "Iterator[tuple[Index, Counter]]":
        """The joules of a component (cpu, gpu, ram)."""
        energy = self.of(metrics.CODECARBON_ENERGY)
        return self._counters([one for one in energy if one.labels.get("component") == component], spans)

    def grams(self, spans: Spans) -> "Iterator[tuple[Index, Counter]]":
        """The grams, counted as joules are."""
        return self._counters(self.of(metrics.CODECARBON_EMISSIONS), spans)

    def _counters(self, series: Sequence[Series], spans: Spans) -> "Iterator[tuple[Index, Counter]]":
        """A counter that restarts with its exporter, and covers no time in which it restarted or moved."""
        read_times = _by_key(self.of(metrics.CODECARBON_TIMESTAMP))
        for windows, chain in chains(series, spans):
            rows, moved, size = list[_Rows](), list[int](), 0
            for number, one in enumerate(chain):
                key = key_of(one, "component")
                rows.append(_Rows.of(one).at_read_times(read_times.get(key)))
                if number and key != key_of(chain[number - 1], "component"):
                    moved.append(size)
                size += len(rows[-1].unix_ms)
            if not size:
                continue
            every = _together(rows)
            counting_s = np.diff(every.unix_ms, prepend=every.unix_ms[:1]) / 1000
            counting_s *= np.diff(every.columns[0], prepend=every.columns[0][:1]) >= 0
            # Between two label sets it may be another worker's count, whatever it shows.
            counting_s[[at for at in moved if 0 < at < size]] = _ANOTHER_S
            yield (
                windows,
                Counter(
                    every.unix_ms,
                    every.columns[0],
                    integrated_s=np.cumsum(counting_s),
                    unread=every.unread,
                    skipped=every.unread > 0,
                ),
            )


@dataclass(frozen=True, slots=True)
class Readings:
    """GPUs by uuid, and the nodes on which CodeCarbon runs by instance."""

    gpus: dict[str, GpuReadings] = field(default_factory=dict)
    nodes: dict[str, NodeReadings] = field(default_factory=dict)


def arranged(plain: Plain, power: dict[str, PowerTrace], zeus: dict[str, CounterTrace]) -> Readings:
    """By GPU and by node: a GPU is its uuid, across instance, job, pod and renumbering."""
    readings = Readings()

    def gpu_of(uuid: str) -> GpuReadings:
        return readings.gpus.setdefault(uuid, GpuReadings(uuid))

    for uuid, trace in power.items():
        gpu_of(uuid).power = trace
    for uuid, counter in zeus.items():
        gpu_of(uuid).zeus = counter
    for spec in _PER_GPU:
        for one in plain.of(spec):
            if name := one.labels.get("uuid"):
                gpu = gpu_of(name)
                gpu.series.setdefault(spec.name, []).append(one)
                gpu.faults += plain.faults.get((spec.name, key_of(one)), [])
    for spec in _PER_NODE:
        for one in plain.of(spec):
            instance = one.labels.get("instance", "")
            node = readings.nodes.setdefault(instance, NodeReadings(instance))
            node.series.setdefault(spec.name, []).append(one)
    return readings


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Readings (n,) of one label set: columns (n,), and how many before each only the store looked at."""

    unix_ms: Times
    columns: tuple[Values, ...]
    unread: Counts

    @classmethod
    def of(cls, one: Series) -> "_Rows":
        unread = np.zeros(len(one), np.int64) if one.unread is None else one.unread
        return cls(one.unix_ms, (one.values,), unread)

    def beside(self, other: Series) -> "_Rows":
        """The scrapes that both have; the other's values are the last column."""
        shared, mine, others = np.intersect1d(
            self.unix_ms, other.unix_ms, assume_unique=True, return_indices=True
        )
        columns = (*(column[mine] for column in self.columns), other.values[others])
        return _Rows(shared, columns, self.unread[mine])

    def at_read_times(self, read_times: Series | None) -> "_Rows":
        """The columns at the times they were read, each once; at the scrapes' own where none is known."""
        if read_times is None:
            return self
        joined = self.beside(read_times)
        own_ms = np.rint(joined.columns[-1] * 1000).astype(np.int64)
        own_ms, first = np.unique(own_ms, return_index=True)
        return _Rows(own_ms, tuple(column[first] for column in joined.columns[:-1]), joined.unread[first])


def _together(rows: Sequence[_Rows]) -> _Rows:
    """Those that follow each other, ascending."""
    unix_ms = np.concatenate([one.unix_ms for one in rows])
    order = np.argsort(unix_ms, kind="stable")
    columns = tuple(
        np.concatenate(column)[order] for column in zip(*(one.columns for one in rows), strict=True)
    )
    return _Rows(unix_ms[order], columns, np.concatenate([one.unread for one in rows])[order])


def _by_key(series: Sequence[Series]) -> dict[Key, Series]:
    return {key_of(one): one for one in series}
