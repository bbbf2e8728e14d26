"""The power traces of GPUs as they come, summed up between the edges of windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.energy import GAP_INTERVALS
from llem_integrator.energy.gaps import CONTEXT_STEPS, local_gaps_ms, may_be_gaps
from llem_integrator.energy.power.running_sums import RunningSums
from llem_integrator.series.ceiling import NO_LIMIT, PowerCeiling
from llem_integrator.series.faults import Fault, faults_of
from llem_integrator.series.intervals import Intervals
from llem_integrator.series.samples import STALE_MS, Floats, Key, Series, Times, merge
from llem_integrator.series.spans import distinct

MARGIN_MS: Final = 30_000
"""How far outside a window a trace may serve its edges."""

READ_MS: Final = 90_000
"""How far around an edge traces are read."""

_CONTEXT_MS: Final = 30_000
_LONG_AGO: Final = -(2**62)
_NEVER: Final = 2**62
_BESIDE: Final = CONTEXT_STEPS + 2


class Seen:
    """The samples of one label set next to each edge (e,): when there was one before, and when after."""

    def __init__(self, labels: Mapping[str, str], edges_us: Times) -> None:
        self.labels = labels
        self._edges_us = edges_us
        self._passed = 0
        self._newest_us = _LONG_AGO
        self._before_us = np.full(len(edges_us), _LONG_AGO)
        self._after_us = np.full(len(edges_us), _NEVER)

    def add(self, unix_ms: Times) -> None:
        """Add samples (n,), later than all before."""
        newest_us = int(unix_ms[-1]) * 1000
        reached = int(np.searchsorted(self._edges_us, newest_us, "right"))
        if reached == self._passed:
            self._newest_us = newest_us
            return
        edges = slice(self._passed, reached)
        edges_us = self._edges_us[edges]
        after = np.searchsorted(unix_ms, -(-edges_us // 1000), "left")
        self._after_us[edges] = unix_ms[after] * 1000
        before = np.where(unix_ms[after] * 1000 == edges_us, after, after - 1)
        self._before_us[edges] = np.where(before >= 0, unix_ms[before] * 1000, self._newest_us)
        self._passed, self._newest_us = reached, newest_us

    def extend(self, later: "Seen") -> None:
        """Add the next samples, seen elsewhere, at edges as RunningSums.extend has them."""
        self.add(later._after_us[:1] // 1000)
        begun = int(np.searchsorted(later._edges_us, self._newest_us, "right"))
        own = slice(self._passed, self._passed + later._passed - begun)
        self._before_us[own] = later._before_us[begun : later._passed]
        self._after_us[own] = later._after_us[begun : later._passed]
        self._passed, self._newest_us = own.stop, later._newest_us

    def at(self, edges_us: Times) -> tuple[Times, Times]:
        """Return unix us (w,) of the last sample up to each edge, and of the first from it on."""
        self._before_us[self._passed :] = self._newest_us
        index = np.searchsorted(self._edges_us, edges_us)
        return self._before_us[index], self._after_us[index]


@dataclass(slots=True)
class PowerTrace:
    """One GPU's power: sums over all its label sets together, when each was seen, and its faults."""

    sums: RunningSums
    edges_us: Times
    seen: dict[Key, Seen] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    waiting: Series | None = None
    """The newest samples, where what is a gap depends on the steps that follow."""

    waiting_gaps_ms: Floats = field(default_factory=lambda: np.zeros(0))
    """The longest step that is no gap, by what was published, where each of these ends one."""

    known: int = 0
    """So many samples of those waiting are summed up already: the next ones are compared with them."""

    def add(self, series: Sequence[Series], max_gap_ms: "MaxGaps") -> None:
        """Add the next samples of all label sets."""
        for one in series:
            self.faults += faults_of(one)
        series = [one for one in series if len(one)]
        for one in series:
            if one.key not in self.seen:
                self.seen[one.key] = Seen(one.labels, self.edges_us)
            self.seen[one.key].add(one.unix_ms)
        if len(series) == 1:
            self._add(series[0], max_gap_ms(series[0]))
        elif merged := merge(series):
            self.faults += faults_of(replace(merged, bad_ms=merged.bad_ms[:0]))
            self._add(merged, _merged_gaps_ms(merged, series, max_gap_ms))

    def _add(self, series: Series, limits_ms: Floats | float) -> None:
        if self.waiting is None and isinstance(limits_ms, float) and limits_ms == limits_ms:
            self.sums.add(series.unix_ms, series.values, limits_ms)
            return
        if (
            self.waiting is not None
            and np.all(np.isnan(limits_ms))
            and self._is_regular(self.waiting, series)
        ):
            self.sums.add(self.waiting.unix_ms[self.known :], self.waiting.values[self.known :], np.inf)
            self.sums.add(series.unix_ms, series.values, np.inf)
            self.waiting = series.part(len(series) - _BESIDE, len(series))
            self.waiting_gaps_ms = np.full(_BESIDE, np.nan)
            self.known = _BESIDE
            return
        gaps_ms = np.broadcast_to(np.asarray(limits_ms, np.float64), len(series))
        if self.waiting is not None:
            series = series.after(self.waiting)
            gaps_ms = np.concatenate([self.waiting_gaps_ms, gaps_ms])
        self._sum_up(series, gaps_ms, max(self.known, len(series) - CONTEXT_STEPS))

    def _is_regular(self, waiting: Series, series: Series) -> bool:
        """Return whether the next samples have no step that may be a gap, and no edge among them."""
        if len(series) <= _BESIDE:
            return False
        steps_ms = np.diff(series.unix_ms, prepend=waiting.unix_ms[-1])
        before_ms = np.diff(waiting.unix_ms)
        shortest_ms, longest_ms = steps_ms.min(), steps_ms.max()
        if len(before_ms):
            shortest_ms, longest_ms = min(shortest_ms, before_ms.min()), max(longest_ms, before_ms.max())
        times_us = waiting.unix_ms[self.known - 1] * 1000, series.unix_ms[-1] * 1000
        passed = (
            np.searchsorted(self.edges_us, times_us[0]),
            np.searchsorted(self.edges_us, times_us[1], "right"),
        )
        return bool(longest_ms <= min(GAP_INTERVALS * shortest_ms, STALE_MS) and passed[0] == passed[1])

    def _sum_up(self, series: Series, gaps_ms: Floats, stop: int) -> None:
        """Sum up the samples [known, stop), of which the steps on both sides are known."""
        limits_ms = _local_limits(series, gaps_ms, self.edges_us)
        new = slice(self.known, stop)
        self.sums.add(series.unix_ms[new], series.values[new], limits_ms[new])
        first = max(0, stop - CONTEXT_STEPS - 1)
        self.waiting, self.known = series.part(first, len(series)), stop - first
        self.waiting_gaps_ms = gaps_ms[first:]

    def finish(self) -> None:
        """Sum up what is waiting: nothing follows."""
        if self.waiting is not None and self.known < len(self.waiting):
            self._sum_up(self.waiting, self.waiting_gaps_ms, len(self.waiting))
        self.waiting, self.known = None, 0


@dataclass(frozen=True, slots=True)
class MaxGaps:
    """The longest step of a trace that is no gap: as given, or by the intervals that exporters published."""

    given_ms: float | None
    intervals: Mapping[str, Intervals]

    def __call__(self, series: Series) -> Floats | float:
        """Return one limit for all samples of a series, or one for each (n,); NaN where it is not known."""
        if self.given_ms is not None:
            return self.given_ms
        intervals = self.intervals.get(series.labels.get("instance", ""))
        return np.nan if intervals is None else intervals.max_gaps_ms(series.unix_ms)


def _merged_gaps_ms(merged: Series, series: Sequence[Series], max_gap_ms: MaxGaps) -> Floats:
    """Return the longest step (n,) that is no gap, where each merged sample has its own label set's."""
    limits_ms = np.full(len(merged), np.nan)
    for one in series:
        at = np.searchsorted(merged.unix_ms, one.unix_ms)
        limits_ms[at] = np.fmax(limits_ms[at], max_gap_ms(one))
    return limits_ms


def _local_limits(series: Series, gaps_ms: Floats, edges_us: Times) -> Floats:
    """Return the longest step (n,) that is no gap, by the steps around where nothing is published."""
    unix_ms, limits_ms = series.unix_ms, gaps_ms.copy()
    unknown = np.isnan(limits_ms)
    limits_ms[unknown] = np.inf
    at_edges = np.clip(np.searchsorted(unix_ms, -(-edges_us // 1000)), 1, len(series) - 1)
    index = distinct(np.concatenate([may_be_gaps(unix_ms), at_edges]))
    index = index[(index > 0) & unknown[index]]
    limits_ms[index] = local_gaps_ms(unix_ms, index, _CONTEXT_MS)
    if unknown[0] and len(series) > 1:
        limits_ms[0] = limits_ms[1]
    return limits_ms


class PowerTraces:
    """The power traces of GPUs by uuid, for windows with edges (e,), and more of them for some GPUs."""

    def __init__(
        self,
        edges_us: Times,
        max_gaps: MaxGaps,
        more_us: Mapping[str, Times],
        ceilings: Mapping[str, PowerCeiling],
    ) -> None:
        self.edges_us, self.max_gaps = edges_us, max_gaps
        self._more_us, self._ceilings = more_us, ceilings
        self.by_uuid: dict[str, PowerTrace] = {}

    def fresh(self, stretch: tuple[int, int]) -> "PowerTraces":
        """Return the same without samples, with the edges in a stretch."""
        more_us = {uuid: edges_inside(edges_us, stretch) for uuid, edges_us in self._more_us.items()}
        return PowerTraces(edges_inside(self.edges_us, stretch), self.max_gaps, more_us, self._ceilings)

    def of(self, uuid: str) -> PowerTrace:
        """Return the trace of a GPU, a new one if nothing is known of it."""
        if uuid not in self.by_uuid:
            edges_us = self.edges_us
            if uuid in self._more_us:
                edges_us = distinct(np.concatenate([edges_us, self._more_us[uuid]]))
            self.by_uuid[uuid] = PowerTrace(RunningSums(edges_us), edges_us)
        return self.by_uuid[uuid]

    def add(self, series: Sequence[Series]) -> None:
        """Add the next samples."""
        for uuid, of_gpu in by_uuid(series).items():
            self.of(uuid).add(possible(of_gpu, self._ceilings.get(uuid, NO_LIMIT)), self.max_gaps)

    def extend(self, later: "PowerTraces") -> None:
        """Add the next samples, summed up elsewhere, at edges as RunningSums.extend has them."""
        later.finish()
        for uuid, other in later.by_uuid.items():
            trace = self.of(uuid)
            for key, seen in other.seen.items():
                if key not in trace.seen:
                    trace.seen[key] = Seen(seen.labels, trace.edges_us)
                trace.seen[key].extend(seen)
            trace.faults += other.faults
            trace.finish()
            trace.sums.extend(other.sums)

    def finish(self) -> None:
        """Sum up what is waiting: nothing follows."""
        for trace in self.by_uuid.values():
            trace.finish()


def edges_inside(edges_us: Times, stretch: tuple[int, int]) -> Times:
    """Return the edges in a stretch, and one at its begin."""
    first_us = stretch[0] * 1000
    inside = slice(*np.searchsorted(edges_us, [first_us + 1, (stretch[1] + 1) * 1000]).tolist())
    return np.concatenate([[first_us], edges_us[inside]])


def possible(series: Sequence[Series], ceiling: PowerCeiling) -> list[Series]:
    """Return power samples without those that are impossible; other series as they are."""
    return [
        ceiling.without_impossible(one) if one.metric == metrics.GPU_POWER_TRACE.name else one
        for one in series
    ]


def by_uuid(series: Sequence[Series]) -> dict[str, list[Series]]:
    """Return the series that have samples, by the GPU's uuid."""
    found: dict[str, list[Series]] = {}
    for one in series:
        if len(one) and (uuid := one.labels.get("uuid")):
            found.setdefault(uuid, []).append(one)
    return found
