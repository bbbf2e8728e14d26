"""What a source holds of each GPU around a window, put together for the rule."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_core import energy, metrics
from llem_core.metrics import MetricSpec
from llem_integrator.counter import Counter
from llem_integrator.series import Series, Times, Values, follow, merge
from llem_integrator.sources import Progress, Selector, Source, Summary, whole
from llem_integrator.window import Window

_TRACE_MARGIN_MS: Final = 30_000
_PLAIN_MARGIN_MS: Final = 300_000
"""How far outside a window samples are read; for scraped series it is Prometheus's own lookback."""

_SCRAPE_BLUR_MS: Final = 500.0
"""A scrape's own time is up to this far from when its values were read."""

_ANOTHER_S: Final = 1e9
"""More seconds than any step has: as covered seconds they say that nothing is known of the step."""

_PEAK_MS: Final = 60_000
"""How far llem_gpu_power_peak_watts looks back."""

_LONGEST_LAG_MS: Final = energy.SENSOR_LAG_SECONDS * 1000


@dataclass(slots=True)
class GpuReadings:
    """One GPU's series by metric name, its newest labels, its limit and highest gauge in watts."""

    uuid: str
    labels: dict[str, str] = field(default_factory=dict)
    instances: set[str] = field(default_factory=set)
    limit_watts: float | None = None
    peak_watts: float | None = None
    interval_ms: float | None = None
    series: dict[str, list[Series]] = field(default_factory=dict)
    _merged: dict[str, Series | None] = field(default_factory=dict)

    @property
    def node(self) -> str:
        return self.labels.get("instance", "")

    def of(self, spec: MetricSpec) -> list[Series]:
        return self.series.get(spec.name, [])

    def trace(self, spec: MetricSpec) -> Series | None:
        """All samples with times of their own, whichever server or path they came by."""
        if spec.name not in self._merged:
            self._merged[spec.name] = merge(self.of(spec))
        return self._merged[spec.name]

    def counter(self, spec: MetricSpec, window: Window, *, integrated: bool) -> Counter | None:
        """A plain counter along the label sets that follow each other, each value at the time it was read."""
        read_times = _by_labels(self.of(metrics.GPU_SAMPLE_TIMESTAMP))
        covers = _by_labels(self.of(metrics.GPU_INTEGRATED))
        times: list[Times] = [np.zeros(0, np.int64)]
        joules: list[Values] = [np.zeros(0)]
        seconds: list[Values] = [np.zeros(0)]
        for one in follow(self.of(spec), window.start_us // 1000, window.end_us // 1000):
            key = _key(one)
            scrapes, columns = one.unix_ms, [one.values]
            if integrated:
                if key not in covers:
                    continue  # without it nobody knows what the counter covers
                scrapes, columns = _joined(scrapes, columns, covers[key])
            own_ms, columns = _at_read_times(scrapes, columns, read_times.get(key))
            times.append(own_ms)
            joules.append(columns[0])
            seconds.append(columns[-1])
        unix_ms = np.concatenate(times)
        order = np.argsort(unix_ms, kind="stable")
        if not len(order):
            return None
        return Counter(
            unix_ms[order],
            np.concatenate(joules)[order],
            integrated_s=np.concatenate(seconds)[order] if integrated else None,
            interval_ms=(self.interval_ms or 0.0) if integrated else 0.0,
            blur_ms=0.0 if read_times else _SCRAPE_BLUR_MS,
        )


@dataclass(slots=True)
class NodeReadings:
    """What CodeCarbon says of one node: joules by component, grams, and when they were measured."""

    name: str
    series: dict[str, list[Series]] = field(default_factory=dict)

    def of(self, spec: MetricSpec) -> list[Series]:
        return self.series.get(spec.name, [])

    def joules(self, component: str, window: Window) -> Counter | None:
        """The joules of a component (cpu, gpu, ram)."""
        energy = self.of(metrics.CODECARBON_ENERGY)
        return self._counter([one for one in energy if one.labels.get("component") == component], window)

    def grams(self, window: Window) -> Counter | None:
        """The grams, counted as joules are."""
        return self._counter(self.of(metrics.CODECARBON_EMISSIONS), window)

    def _counter(self, series: Sequence[Series], window: Window) -> Counter | None:
        """A counter that restarts with its exporter, and covers no time in which it restarted or moved."""
        read_times = _by_labels(self.of(metrics.CODECARBON_TIMESTAMP))
        times: list[Times] = [np.zeros(0, np.int64)]
        values: list[Values] = [np.zeros(0)]
        for one in follow(series, window.start_us // 1000, window.end_us // 1000):
            own_ms, columns = _at_read_times(
                one.unix_ms, [one.values], read_times.get(_key(one, "component"))
            )
            times.append(own_ms)
            values.append(columns[0])
        unix_ms, counts = np.concatenate(times), np.concatenate(values)
        if not len(unix_ms):
            return None
        counting_s = np.diff(unix_ms) * (np.diff(counts) >= 0) / 1000
        # Between two label sets it may be another worker's count, whatever it shows.
        counting_s[np.cumsum([len(part) for part in times])[1:-1] - 1] = _ANOTHER_S
        return Counter(unix_ms, counts, integrated_s=np.concatenate([[0.0], np.cumsum(counting_s)]))


def lag_ms(trace: Series) -> float:
    """The longest time for which a counter's trace stood still: its update period, as far as seen."""
    changes = np.flatnonzero(np.diff(trace.values)) + 1
    if len(changes) < 2:
        return _LONGEST_LAG_MS
    return min(_LONGEST_LAG_MS, float(np.max(np.diff(trace.unix_ms[changes]))))


_FETCHED: Final = (
    (metrics.GPU_POWER_TRACE, _TRACE_MARGIN_MS),
    (metrics.GPU_ZEUS_TRACE, _TRACE_MARGIN_MS),
    (metrics.GPU_ZEUS_ENERGY, _PLAIN_MARGIN_MS),
    (metrics.GPU_NVML_ENERGY, _PLAIN_MARGIN_MS),
    (metrics.GPU_INTEGRATED, _PLAIN_MARGIN_MS),
    (metrics.GPU_SAMPLE_TIMESTAMP, _PLAIN_MARGIN_MS),
    (metrics.GPU_POWER, _PLAIN_MARGIN_MS),
    (metrics.CODECARBON_ENERGY, _PLAIN_MARGIN_MS),
    (metrics.CODECARBON_EMISSIONS, _PLAIN_MARGIN_MS),
    (metrics.CODECARBON_TIMESTAMP, _PLAIN_MARGIN_MS),
)
_NODE_SERIES: Final = (metrics.CODECARBON_ENERGY, metrics.CODECARBON_EMISSIONS, metrics.CODECARBON_TIMESTAMP)


@dataclass(frozen=True, slots=True)
class Readings:
    """GPUs by uuid, and the nodes on which CodeCarbon runs by instance."""

    gpus: dict[str, GpuReadings] = field(default_factory=dict)
    nodes: dict[str, NodeReadings] = field(default_factory=dict)


def read(source: Source, selectors: Sequence[Selector], window: Window, progress: Progress) -> Readings:
    """Every GPU that llem_gpu_info or any per-GPU series shows in the window, and every node of CodeCarbon's.

    A GPU is its uuid, across instance, job, pod and renumbering.
    """
    asked = _Asked(source, selectors, window.start_us // 1000, -(-window.end_us // 1000))
    readings = Readings()
    _add_samples(readings, asked, progress)
    _add_facts(readings, asked)
    return readings


@dataclass(frozen=True, slots=True)
class _Asked:
    """A source, whose series are wanted, and the window's edges in whole ms."""

    source: Source
    selectors: Sequence[Selector]
    start_ms: int
    end_ms: int

    def samples(self, spec: MetricSpec, margin_ms: int, progress: Progress) -> Iterator[Series]:
        """The series of any selector in the window and a margin around it, each once."""
        start_ms, end_ms = max(0, self.start_ms - margin_ms), self.end_ms + margin_ms
        seen: set[tuple[tuple[str, str], ...]] = set()
        for selector in self.selectors:
            for one in whole(self.source.pieces(spec.name, selector, start_ms, end_ms, progress)):
                key = _key(one)
                if len(one) and key not in seen:
                    seen.add(key)
                    yield one

    def newest_ms(self, one: Series) -> int:
        """The time of a series' last sample up to the window's end."""
        number = int(np.searchsorted(one.unix_ms, self.end_ms, "right"))
        return int(one.unix_ms[max(0, number - 1)])

    def reached(self, series: Iterable[Series]) -> bool:
        """Whether these reach into the window, or across it."""
        spans = [(int(one.unix_ms[0]), int(one.unix_ms[-1])) for one in series]
        return (
            bool(spans) and min(spans)[0] <= self.end_ms and max(last for _, last in spans) >= self.start_ms
        )

    def summary(
        self, spec: MetricSpec, kind: Summary, before_ms: int = 0, after_ms: int = 0
    ) -> Iterator[Series]:
        """One value a label set, of the window and so much before and after it."""
        start_ms, end_ms = max(0, self.start_ms - before_ms), self.end_ms + after_ms
        for selector in self.selectors if start_ms <= end_ms else ():
            yield from self.source.summary(spec.name, selector, start_ms, end_ms, kind)


def _add_samples(readings: Readings, asked: _Asked, progress: Progress) -> None:
    for done, (spec, margin_ms) in enumerate(_FETCHED):
        share = share_of(progress, done / len(_FETCHED), 1 / len(_FETCHED))
        for one in asked.samples(spec, margin_ms, share):
            instance = one.labels.get("instance", "")
            if spec in _NODE_SERIES:
                node = readings.nodes.setdefault(instance, NodeReadings(instance))
                node.series.setdefault(spec.name, []).append(one)
            elif uuid := one.labels.get("uuid"):
                gpu = readings.gpus.setdefault(uuid, GpuReadings(uuid))
                gpu.series.setdefault(spec.name, []).append(one)
    for name, node in list(readings.nodes.items()):
        if not any(asked.reached(found) for found in node.series.values()):
            del readings.nodes[name]
    for uuid, gpu in list(readings.gpus.items()):
        if not any(asked.reached(found) for found in gpu.series.values()):
            del readings.gpus[uuid]
            continue
        every = [one for found in gpu.series.values() for one in found]
        inside = [one for one in every if asked.reached([one])] or every
        gpu.instances = {one.labels.get("instance", "") for one in inside}
        gpu.labels = dict(max(inside, key=asked.newest_ms).labels)


def _add_facts(readings: Readings, asked: _Asked) -> None:
    """Labels, limits, peaks and sample intervals, one value each; llem_gpu_info may show more GPUs."""
    gpus, near_ms = readings.gpus, (_PLAIN_MARGIN_MS, _PLAIN_MARGIN_MS)
    for one in asked.summary(metrics.GPU_INFO, Summary.LAST):
        if uuid := one.labels.get("uuid"):
            gpus.setdefault(uuid, GpuReadings(uuid)).instances.add(one.labels.get("instance", ""))

    def known(
        spec: MetricSpec, kind: Summary, around_ms: tuple[int, int]
    ) -> Iterator[tuple[GpuReadings, Series]]:
        for one in asked.summary(spec, kind, *around_ms):
            if one.labels.get("uuid") in gpus:
                yield gpus[one.labels["uuid"]], one

    # Of several infos (a card that was renumbered, a pod that moved) the one that goes with the samples says
    # name and scope; what lies in the window comes first.
    for around_ms in (near_ms, (0, 0)):
        for gpu, one in known(metrics.GPU_INFO, Summary.LAST, around_ms):
            own = all(gpu.labels.get(name) in (None, one.labels.get(name)) for name in ("gpu", "instance"))
            gpu.labels = {**gpu.labels, **one.labels} if own else {**one.labels, **gpu.labels}
    for gpu, one in known(metrics.GPU_POWER_LIMIT, Summary.MAX, near_ms):
        gpu.limit_watts = max(gpu.limit_watts or 0.0, float(one.values[0]))
    # The peak gauge looks back: in the window's first minute it may show a peak of before.
    for spec, around_ms in ((metrics.GPU_POWER, (0, 0)), (metrics.GPU_POWER_PEAK, (-_PEAK_MS, 0))):
        for gpu, one in known(spec, Summary.MAX, around_ms):
            gpu.peak_watts = max(gpu.peak_watts or 0.0, float(one.values[0]))
    for one in asked.summary(metrics.SAMPLER_INTERVAL, Summary.LAST, *near_ms):
        for gpu in gpus.values():
            if one.labels.get("instance", "") in gpu.instances:
                gpu.interval_ms = float(one.values[0]) * 1000


def share_of(progress: Progress, done: float, share: float) -> Progress:
    """The progress of a part that is `share` of the whole and begins where `done` of it is done."""
    return lambda part: progress(done + share * part)


def _key(series: Series, without: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(sorted(pair for pair in series.labels.items() if pair[0] != without))


def _by_labels(series: Sequence[Series]) -> dict[tuple[tuple[str, str], ...], Series]:
    return {_key(one): one for one in series}


def _joined(scrapes: Times, columns: list[Values], other: Series) -> tuple[Times, list[Values]]:
    """The scrapes that both have, and the columns (n,) at those, the other's last."""
    shared, mine, others = np.intersect1d(scrapes, other.unix_ms, assume_unique=True, return_indices=True)
    return shared, [*(column[mine] for column in columns), other.values[others]]


def _at_read_times(
    scrapes: Times, columns: list[Values], read_times: Series | None
) -> tuple[Times, list[Values]]:
    """The columns (n,) at the times they were read, each once; at the scrapes' own where none is known."""
    own_ms = scrapes
    if read_times is not None:
        _, columns = _joined(scrapes, columns, read_times)
        own_ms = np.rint(columns.pop() * 1000).astype(np.int64)
    own_ms, first = np.unique(own_ms, return_index=True)
    return own_ms, [column[first] for column in columns]
