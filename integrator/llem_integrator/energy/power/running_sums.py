"""Power samples and windows: running sums known at the windows' edges, each pair by llem_core.energy."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_core import energy
from llem_integrator.energy.power.cuts import LONG_AGO, NEVER, Cut, Pairs, whole_pairs
from llem_integrator.energy.power.pairs import (
    BLOCK,
    block_energy,
    energy_bounds,
    energy_sums,
    first_gap_ms,
    gaps_of_steps,
)
from llem_integrator.energy.window_energy import Integral, Integrals
from llem_integrator.series.ranges import range_max
from llem_integrator.series.samples import Floats, Times, Values
from llem_integrator.series.spans import Index, Spans, spans_of
from llem_integrator.windows.window import Window

_ANY_MARGIN_MS: Final = 2**49
_GRID: Final = 16.0
"""Sums are kept as multiples of 1/16, which add up exactly, and rests; the exporter's samples have none."""


def trapezoid(
    unix_ms: Times, watts: Values, window: Window, max_gap_ms: Floats | float, limit_watts: float | None
) -> Integral:
    """Integral over power samples (n,) in watts, ascending in time.

    `max_gap_ms` is one for all steps, or (n,): the longest step that is no gap, where each sample ends one.
    """
    spans = spans_of([window])
    limits = np.array([np.nan if limit_watts is None else limit_watts])
    return trapezoids(unix_ms, watts, spans, max_gap_ms, limits, _ANY_MARGIN_MS).row(0)


def trapezoids(
    unix_ms: Times,
    watts: Values,
    spans: Spans,
    max_gap_ms: Floats | float,
    limit_watts: Floats,
    margin_ms: int,
) -> Integrals:
    """The same in many windows, of samples up to `margin_ms` around each; limits (w,), NaN unknown."""
    running = RunningSums(spans.edges_us())
    running.add(unix_ms, watts, max_gap_ms)
    return running.integrals(spans, limit_watts, margin_ms)


class RunningSums:
    """One GPU's samples as they come by, summed up between the edges (e,) of windows, which ascend.

    Of a window the answer is a difference of two sums. However the samples are cut into pieces, it is
    the same to the bit for multiples of 1/8 W, and to 1e-12 of the window's energy for any.
    """

    def __init__(self, edges_us: Times) -> None:
        count = len(edges_us)
        self._edges_us = edges_us
        self._passed = 0  # so many edges lie at or before the newest sample
        self._before = _Samples(np.full(count, LONG_AGO), np.zeros(count))  # the last sample up to each edge
        self._after = _Samples(np.full(count, NEVER), np.zeros(count))  # the first one from it on
        self._sums = np.zeros((2, len(energy.PairEnergy._fields), count))  # of the pairs up to `before`
        self._counts = np.zeros(count, np.int64)  # samples up to each edge
        self._max_gaps_ms = np.full(count, np.nan)  # what is no gap in the step around each edge
        self._peaks = np.full(count, -np.inf)  # the highest sample from each edge to the next
        self._gaps = np.zeros(count)  # the longest gap between two edges
        self._total = np.zeros(self._sums.shape[:2])
        self._count = 0
        self._last: tuple[int, float] | None = None
        self._last_gap_ms = np.nan

    def add(self, unix_ms: Times, watts: Values, max_gap_ms: Floats | float) -> None:
        """The next samples (n,): ascending, and later than all before.

        `max_gap_ms` is one for all steps, or (n,): the longest that is no gap, where each sample ends one.
        """
        if not len(unix_ms):
            return
        if isinstance(max_gap_ms, int):
            max_gap_ms = float(max_gap_ms)
        if self._last is None:
            self._add(unix_ms, watts, max_gap_ms, 0)
        elif self._is_cut(int(unix_ms[0])):
            before_ms, before_watts = self._last
            times = np.concatenate([[before_ms], unix_ms])
            if isinstance(max_gap_ms, np.ndarray):
                max_gap_ms = np.concatenate([max_gap_ms[:1], max_gap_ms])
            self._add(times, np.concatenate([[before_watts], watts]), max_gap_ms, 1)
        else:
            self._bridge(int(unix_ms[0]), float(watts[0]), *self._last, first_gap_ms(max_gap_ms))
            self._add(unix_ms, watts, max_gap_ms, 0)

    def _is_cut(self, first_ms: int) -> bool:
        """Whether an edge lies between the last sample and the next, or at that."""
        next_edges_us = self._edges_us[self._passed : self._passed + 1]
        return bool(len(next_edges_us)) and int(next_edges_us[0]) <= first_ms * 1000

    def _bridge(
        self, after_ms: int, after_watts: float, before_ms: int, before_watts: float, max_gap_ms: float
    ) -> None:
        """The one pair between two pieces, where no edge cuts it."""
        step_ms = float(after_ms - before_ms)
        pair = np.array(energy.pair_energy(before_watts, after_watts, step_ms, max_gap_ms))
        whole = np.rint(pair * _GRID) / _GRID
        self._total += np.stack([whole, pair - whole])
        if step_ms > max_gap_ms and self._passed:
            self._gaps[self._passed - 1] = max(self._gaps[self._passed - 1], step_ms)

    def _add(self, unix_ms: Times, watts: Values, max_gap_ms: Floats | float, new_from: int) -> None:
        """Samples of which those from `new_from` on are new, and their pairs, which all are."""
        reached = int(np.searchsorted(self._edges_us, int(unix_ms[-1]) * 1000, "right"))
        if reached > self._passed:
            self._add_cut(reached, unix_ms, watts, max_gap_ms, new_from)
        else:
            self._add_uncut(unix_ms, watts[new_from:], watts, max_gap_ms)
        self._count += len(unix_ms) - new_from
        self._last = int(unix_ms[-1]), float(watts[-1])
        self._last_gap_ms = max_gap_ms if not isinstance(max_gap_ms, np.ndarray) else float(max_gap_ms[-1])

    def _add_uncut(self, unix_ms: Times, new: Values, watts: Values, max_gap_ms: Floats | float) -> None:
        """Samples and pairs among which there is no edge."""
        blocks = range(0, len(unix_ms) - 1, BLOCK)
        sums = np.array([block_energy(unix_ms, watts, first, max_gap_ms) for first in blocks])
        if len(sums):
            whole = np.rint(sums * _GRID) / _GRID
            self._total += np.stack([whole.sum(axis=0), (sums - whole).sum(axis=0)])
            if np.any(sums[:, -1] > 0):
                self._add_gaps(unix_ms, max_gap_ms)
        if self._passed and len(new):
            self._peaks[self._passed - 1] = max(self._peaks[self._passed - 1], float(new.max()))

    def _add_cut(
        self, reached: int, unix_ms: Times, watts: Values, max_gap_ms: Floats | float, new_from: int
    ) -> None:
        edges = slice(self._passed, reached)
        edges_us = self._edges_us[edges]
        after = np.searchsorted(unix_ms, -(-edges_us // 1000), "left")
        before = np.where(unix_ms[after] * 1000 == edges_us, after, after - 1)
        self._note(edges, before, after, unix_ms, watts)
        self._max_gaps_ms[edges] = max_gap_ms if not isinstance(max_gap_ms, np.ndarray) else max_gap_ms[after]
        self._add_pairs(edges, before, unix_ms, watts, max_gap_ms)
        self._add_peaks(after, watts, new_from)
        self._counts[edges] = self._count + before + 1 - new_from
        self._passed = reached

    def _note(self, edges: slice, before: Index, after: Index, unix_ms: Times, watts: Values) -> None:
        """The samples beside the edges that are reached."""
        self._after.unix_us[edges], self._after.watts[edges] = unix_ms[after] * 1000, watts[after]
        seen = before >= 0
        self._before.unix_us[edges] = np.where(seen, unix_ms[before] * 1000, LONG_AGO)
        self._before.watts[edges] = np.where(seen, watts[before], 0.0)

    def _add_pairs(
        self, edges: slice, before: Index, unix_ms: Times, watts: Values, max_gap_ms: Floats | float
    ) -> None:
        """Pair q is that of samples q and q + 1; sums end at the last sample up to each edge."""
        count = len(unix_ms) - 1
        marks = np.zeros(count, np.bool_)
        marks[::BLOCK] = True
        marks[before[(before >= 0) & (before < count)]] = True
        starts = np.flatnonzero(marks)
        sums = energy_sums(unix_ms, watts, starts, max_gap_ms)
        if np.any(sums[-1] > 0):
            self._add_gaps(unix_ms, max_gap_ms)
        whole = np.rint(sums * _GRID) / _GRID
        parts = np.concatenate([self._total[:, :, None], np.stack([whole, sums - whole])], axis=2)
        running = np.cumsum(parts, axis=2)
        self._sums[:, :, edges] = running[:, :, np.searchsorted(starts, before)]
        self._total = running[:, :, -1]

    def _add_gaps(self, unix_ms: Times, max_gap_ms: Floats | float) -> None:
        """Gaps that no edge cuts; one that begins or ends at an edge is not cut."""
        steps_ms = np.diff(unix_ms)
        gaps = np.flatnonzero(steps_ms > gaps_of_steps(max_gap_ms, 0, len(steps_ms)))
        behind = np.searchsorted(self._edges_us, unix_ms[gaps] * 1000, "right") - 1
        uncut = behind == np.searchsorted(self._edges_us, unix_ms[gaps + 1] * 1000, "left") - 1
        uncut &= behind >= 0
        np.maximum.at(self._gaps, behind[uncut], steps_ms[gaps[uncut]].astype(np.float64))

    def _add_peaks(self, after: Index, watts: Values, new_from: int) -> None:
        """The samples from each edge on, and at first those that still belong to the edge passed before."""
        starts = np.concatenate([[new_from], after])
        # Where an edge has no sample before the next one, reduceat would give the wrong one.
        kept = np.flatnonzero(starts < np.append(after, len(watts)))
        peaks = np.maximum.reduceat(watts, starts[kept]) if len(kept) > 1 else watts[new_from:].max(initial=0)
        owner = self._passed - 1 + kept
        mine = owner >= 0
        self._peaks[owner[mine]] = np.maximum(self._peaks[owner[mine]], np.atleast_1d(peaks)[mine])

    def extend(self, later: "RunningSums") -> None:
        """The next samples, summed up elsewhere: as if they had been added here.

        Its edges are those of here that they pass, and before its first sample at least one edge, whichever.
        """
        if later._last is None:
            return
        first = later._after.unix_us[:1] // 1000, later._after.watts[:1]
        self.add(*first, later._max_gaps_ms[:1])
        begun = int(np.searchsorted(later._edges_us, int(first[0][0]) * 1000, "right"))
        theirs, behind = slice(begun, later._passed), self._passed - 1
        mine = slice(self._passed, self._passed + later._passed - begun)
        for to, of in ((self._before, later._before), (self._after, later._after)):
            to.unix_us[mine], to.watts[mine] = of.unix_us[theirs], of.watts[theirs]
        self._sums[:, :, mine] = self._total[:, :, None] + later._sums[:, :, theirs]
        self._counts[mine] = self._count - 1 + later._counts[theirs]
        self._max_gaps_ms[mine] = later._max_gaps_ms[theirs]
        for here, there in ((self._peaks, later._peaks), (self._gaps, later._gaps)):
            here[mine] = there[theirs]
            if behind >= 0:
                here[behind] = max(here[behind], there[:begun].max())
        self._passed = mine.stop
        self._total = self._total + later._total
        self._count += later._count - 1
        self._last, self._last_gap_ms = later._last, later._last_gap_ms

    def integrals(self, spans: Spans, limit_watts: Floats, margin_ms: int) -> Integrals:
        """What the samples so far say of windows, of whose edges all are known; limits (w,), NaN unknown."""
        self._counts[self._passed :] = self._count
        self._sums[:, :, self._passed :] = self._total[:, :, None]
        if self._last is not None:
            self._before.unix_us[self._passed :] = self._last[0] * 1000
            self._before.watts[self._passed :] = self._last[1]
            self._max_gaps_ms[self._passed :] = self._last_gap_ms
        start = np.searchsorted(self._edges_us, spans.start_us)
        end = np.searchsorted(self._edges_us, spans.end_us)
        cut = Cut(spans, self._pairs(start), self._pairs(end), margin_ms * 1000)
        total, largest_cut_ms = self._totals(cut, start, end)
        covered = total.covered_ms > 0
        inside = self._counts[end] - self._counts[start] + (self._before.unix_us[start] == spans.start_us)
        high_inside = range_max(self._peaks, start, end, -np.inf)
        at_end = self._before.unix_us[end] == spans.end_us
        high_inside = np.maximum(high_inside, np.where(at_end, self._before.watts[end], -np.inf))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total.doubled / total.covered_ms / 2
        peak = np.where(inside > 0, high_inside, mean)
        low, high = energy_bounds(total, np.maximum(limit_watts, peak))
        duration_ms, unknown = spans.duration_ms, np.nan
        inner_ms = self._largest_inside(spans, start, end)
        return Integrals(
            present=cut.present,
            method=np.full(len(spans), "trapezoid"),
            joules=np.where(covered, energy.joules(total.doubled), unknown),
            low=np.where(covered, low, unknown),
            high=np.where(covered, high, unknown),
            covered_s=np.where(covered, total.covered_ms, 0.0) / 1000,
            gap_s=np.where(covered, total.gap_ms, duration_ms) / 1000,
            largest_gap_s=np.where(covered, np.maximum(largest_cut_ms, inner_ms), duration_ms) / 1000,
            tail_gap_s=np.where(covered, cut.tail_ms, duration_ms) / 1000,
            max_gap_s=np.where(np.isinf(self._max_gaps_ms[start]), unknown, self._max_gaps_ms[start]) / 1000,
            sample_count=inside,
            peak_watts=np.where(covered, peak, unknown),
            resets=np.zeros(len(spans), np.int64),
            late=np.zeros(len(spans), np.int64),
            stuck=np.zeros(len(spans), np.bool_),
            skewed=np.zeros(len(spans), np.bool_),
        )

    def _pairs(self, edge: Index) -> Pairs:
        before, after = self._before, self._after
        beside = before.unix_us[edge], before.watts[edge], after.unix_us[edge], after.watts[edge]
        return Pairs(*beside, self._max_gaps_ms[edge])

    def _totals(self, cut: Cut, start: Index, end: Index) -> "tuple[energy.PairEnergy[Floats], Floats]":
        """The sums (w,) of each window, and its longest gap in ms, of those that an edge cuts."""
        at_start = np.array(whole_pairs(cut.start)) * cut.start.straddles
        whole = self._sums[0][:, end] - self._sums[0][:, start] - at_start
        whole += self._sums[1][:, end] - self._sums[1][:, start]
        whole *= ~cut.in_one_pair
        parts = [np.array(part) for part in cut.parts()]
        total = energy.PairEnergy(*(whole + parts[0] + parts[1]))
        gap_ms = total.gap_ms + cut.lead_ms + cut.tail_ms
        longest = np.maximum.reduce([cut.lead_ms, cut.tail_ms, parts[0][-1], parts[1][-1]])
        return total._replace(gap_ms=gap_ms), longest

    def _largest_inside(self, spans: Spans, start: Index, end: Index) -> Floats:
        """The longest gap (w,) in ms between two samples of the window."""
        uncut = range_max(self._gaps, start, end, 0.0)
        pairs = self._pairs(np.arange(len(self._edges_us)))
        gaps = np.where(pairs.straddles, (pairs.after_us - pairs.before_us) / 1000.0, 0.0)
        gaps *= gaps > pairs.max_gap_ms
        first = np.searchsorted(self._before.unix_us, spans.start_us, "left")
        stop = np.searchsorted(self._after.unix_us, spans.end_us, "right")
        return np.maximum(uncut, range_max(gaps, first, stop, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """Times (e,) in unix microseconds, and watts (e,)."""

    unix_us: Times
    watts: Values
