"""A counter of joules and windows: what it rose by, its falls and its gaps accounted for."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from llem_core import energy
from llem_integrator.energy.integral import (
    Counts,
    Flags,
    Floats,
    Integral,
    Integrals,
    either,
    nothing,
    placed,
)
from llem_integrator.energy.ranges import range_max
from llem_integrator.series.samples import Times, Values
from llem_integrator.windows.spans import Index, Spans, spans_of
from llem_integrator.windows.window import Window

_OTHER_EXPORTER_MS: Final = 500.0
"""An exporter that integrated longer than the step by more than this is not the one of the reading before."""

_LATE_MS: Final = round(1000 * energy.LATE_SECONDS)
_ANY_MARGIN_MS: Final = 2**49


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """Readings of one counter of joules, each at the time it was read.

    `unix_ms` (n,) int64 ascending, `joules` (n,). A hardware counter misses nothing between two
    readings; one that the exporter integrated covers what `integrated_s` (n,), the counter beside
    it, says, and its samples were `interval_ms` apart. Values may trail the truth by `lag_ms`, one for
    all windows or one for each, and their times be off by `blur_ms`. `unread` (n,) counts the readings
    since the one before that are not held here; `skipped` (n,) marks steps that only the store
    looked into.
    """

    unix_ms: Times
    joules: Values
    integrated_s: Values | None = None
    interval_ms: float = 0.0
    lag_ms: float | Floats = energy.SENSOR_LAG_SECONDS * 1000
    blur_ms: float = 0.0
    unread: Counts | None = None
    skipped: Flags | None = None


def counted(counter: Counter, window: Window, max_gap_ms: float, limit_watts: float | None) -> Integral:
    """What a counter rose by in the window, its falls and its gaps accounted for."""
    limits = np.array([np.nan if limit_watts is None else limit_watts])
    return rises(counter, spans_of([window]), max_gap_ms, limits, _ANY_MARGIN_MS).row(0)


def rises(
    counter: Counter, spans: Spans, max_gap_ms: float, limit_watts: Floats, margin_ms: int
) -> Integrals:
    """The same in many windows, by readings up to `margin_ms` around each; limits (w,), NaN unknown."""
    parts: list[tuple[Index, Integrals]] = []
    for limit in np.unique(limit_watts).tolist():
        known = limit == limit
        mine = np.flatnonzero(limit_watts == limit if known else np.isnan(limit_watts))
        cut = _Cut(counter.unix_ms * 1000, spans.take(mine), max_gap_ms, margin_ms * 1000)
        lag_ms = counter.lag_ms
        lags_ms = np.full(len(mine), lag_ms) if isinstance(lag_ms, float | int) else lag_ms[mine]
        parts.append((mine, _risen(counter, cut, lags_ms, limit if known else None)))
    found = placed(parts, len(spans))
    return nothing("counter", spans, max_gap_ms, present=False) if found is None else found


class _Cut:
    """Where windows cut a counter's steps. A step has the index of the reading that ends it.

    Readings [low, high) are in reach of a window, [first, stop) inside it. An edge is interpolated in a step
    that is not too long: `head` and `tail`, or `same` where one step holds both edges.
    """

    def __init__(self, times_us: Times, spans: Spans, max_gap_ms: float, margin_us: int) -> None:
        self.times_us, self.spans, self.max_gap_ms = times_us, spans, max_gap_ms
        start_us, end_us = spans.start_us, spans.end_us
        self.low = np.searchsorted(times_us, start_us - margin_us, "left")
        self.high = np.searchsorted(times_us, end_us + margin_us, "right")
        self.first = np.searchsorted(times_us, start_us, "left")
        self.stop = np.searchsorted(times_us, end_us, "right")
        self.steps_ms = np.diff(times_us, prepend=times_us[:1]) / 1000.0
        last = len(times_us) - 1
        self.into_first, self.into_stop = np.minimum(self.first, last), np.minimum(self.stop, last)
        self.inside = self.stop > self.first
        head = self._spanned(self.first, self.into_first) & (times_us[self.into_first] > start_us)
        tail = self._spanned(self.stop, self.into_stop) & (times_us[self.stop - 1] < end_us)
        self.same = head & ~self.inside
        self.head, self.tail = head & self.inside, tail & self.inside
        self.before_start = self._share(self.into_first, start_us)
        self.before_end = self._share(self.into_stop, end_us)

    def _spanned(self, index: Index, step: Index) -> Flags:
        return (self.low < index) & (index < self.high) & (self.steps_ms[step] <= self.max_gap_ms)

    def _share(self, step: Index, edge_us: Times) -> Floats:
        """How far through a step an edge lies, in whole microseconds."""
        before_us = self.times_us[np.maximum(step - 1, 0)]
        share: Floats = (edge_us - before_us) / np.maximum(self.times_us[step] - before_us, 1)
        return share

    def parts(self, steps: Floats) -> tuple[Floats, Floats]:
        """What the cut steps (n,) hold of each window (w,), at its start and at its end."""
        head = steps[self.into_first] * (1 - self.before_start) * self.head
        both = steps[self.into_first] * (self.before_end - self.before_start) * self.same
        return head + both, steps[self.into_stop] * self.before_end * self.tail

    def whole(self, running: Floats) -> Floats:
        """What a column (n,) rose by from the first to the last reading inside."""
        return (running[self.stop - 1] - running[self.into_first]) * self.inside

    def touching(self, steps: Flags) -> Counts:
        """How many of the marked steps (n,) lie at least in part in each window (w,)."""
        first = np.maximum(np.searchsorted(self.times_us, self.spans.start_us, "right"), self.low + 1)
        last = np.minimum(np.searchsorted(self.times_us, self.spans.end_us, "left"), self.high - 1)
        running = np.concatenate([[0], np.cumsum(steps)])
        first = np.minimum(first, len(steps))
        count: Counts = running[np.maximum(last + 1, first)] - running[first]
        return count


def _risen(counter: Counter, cut: _Cut, lag_ms: Floats, limit_watts: float | None) -> Integrals:
    spans = cut.spans
    steps = _steps(counter, cut.steps_ms, limit_watts)
    risen, covers = cut.parts(steps.risen), cut.parts(steps.covered)
    units = cut.whole(np.cumsum(steps.risen)) + (risen[0] + risen[1])
    # Interpolated milliseconds carry float noise; a window's edges are whole microseconds.
    covered_ms = np.round(cut.whole(np.cumsum(steps.covered)) + (covers[0] + covers[1]), 6)
    joules = units / energy.COUNTER_UNITS_PER_JOULE
    low, high = _bounds(counter, cut, steps, lag_ms, limit_watts)
    largest_ms, tail_ms = _gaps(counter, cut, cut.steps_ms - steps.covered)
    count = cut.stop - cut.first
    if counter.unread is not None:
        count += cut.whole(np.cumsum(counter.unread).astype(np.float64)).astype(np.int64)
    none = replace(
        nothing("counter", spans, cut.max_gap_ms, present=True),
        present=cut.high > cut.low,
        sample_count=count,
    )
    found = replace(
        none,
        joules=joules,
        low=np.minimum(low, joules),
        high=np.maximum(high, joules),
        covered_s=covered_ms / 1000,
        gap_s=np.maximum(0.0, np.round(spans.duration_ms - covered_ms, 6)) / 1000,
        largest_gap_s=largest_ms / 1000,
        tail_gap_s=tail_ms / 1000,
        resets=cut.touching(steps.restarted),
        late=cut.touching(steps.late),
    )
    return either(covered_ms > 0, found, none)


def _gaps(counter: Counter, cut: _Cut, holes_ms: Floats) -> tuple[Floats, Floats]:
    """The longest gap (w,) in ms, NaN where not every step was read, and the one at the end."""
    start_us, end_us = cut.spans.start_us, cut.spans.end_us
    lead_ms = np.where(cut.head | cut.same, 0, cut.times_us[cut.into_first] - start_us) / 1000.0
    tail_ms = np.where(cut.tail | cut.same, 0, end_us - cut.times_us[cut.stop - 1]) / 1000.0
    cut_holes = cut.parts(holes_ms)
    largest_ms = np.maximum.reduce([lead_ms, tail_ms, *cut_holes])
    if np.any(holes_ms > 0):
        largest_ms = np.maximum(largest_ms, range_max(holes_ms, cut.first + 1, cut.stop, 0.0))
    if counter.skipped is not None:
        unread = cut.whole(np.cumsum(counter.skipped).astype(np.float64)) > 0
        largest_ms = np.where(unread, np.nan, largest_ms)
    return largest_ms, tail_ms


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """A counter's steps (n,), each with the reading that ends it; the first ends none.

    Counter units risen, ms covered and ms in which energy may be missed; `restarted` marks the steps
    over a restart, `late` the readings that were held at the running maximum.
    """

    risen: Floats
    covered: Floats
    unseen: Floats
    restarted: Flags
    late: Flags


def _steps(counter: Counter, steps_ms: Floats, limit_watts: float | None) -> _Steps:
    # In the exporter's own units every value and difference is a whole number, and exact.
    units = np.rint(counter.joules * energy.COUNTER_UNITS_PER_JOULE)
    no_late = np.zeros(len(units), np.bool_)
    if counter.integrated_s is None:
        units, late = _without_late(counter.unix_ms, units, limit_watts)
        restarted = _diff(units) < 0
        risen = _diff(units)
        risen[1:] = energy.counter_step(units[:-1], units[1:])
        return _Steps(risen, steps_ms, steps_ms * restarted, restarted, no_late if late is None else late)
    seconds = counter.integrated_s
    # Either column shows a restart, and then both count from 0.
    restarted = (_diff(units) < 0) | (_diff(seconds) < 0)
    risen, covered = (np.where(restarted, column, _diff(column)) for column in (units, seconds))
    covered = np.rint(covered * 1000)
    # Who integrated more than the time that passed is another exporter: of this step nothing is known.
    known = covered <= steps_ms + _OTHER_EXPORTER_MS
    covered = np.minimum(covered, steps_ms) * known
    return _Steps(risen * known, covered, steps_ms - covered, restarted, no_late)


def _diff(column: Floats) -> Floats:
    """Steps (n,) of a column (n,), 0 for the first."""
    return np.diff(column, prepend=column[:1])


def _bounds(
    counter: Counter, cut: _Cut, steps: _Steps, lag_ms: Floats, limit_watts: float | None
) -> tuple[Floats, Floats]:
    """Joules (low, high) (w,): the counter read outside the edges, and inside them, its lag allowed for.

    Where a reading outside is missing, the limit bounds what it would say; NaN where there is none.
    """
    times_us, blur_us = cut.times_us, round(counter.blur_ms * 1000)
    lag_us = np.rint(lag_ms * 1000).astype(np.int64)
    start_us, end_us = cut.spans.start_us - blur_us, cut.spans.end_us + blur_us + lag_us
    joules = np.cumsum(steps.risen) / energy.COUNTER_UNITS_PER_JOULE
    first, last = np.minimum(cut.low, len(times_us) - 1), cut.high - 1
    before = np.searchsorted(times_us, start_us, "right") - 1
    after = np.searchsorted(times_us, end_us, "left")
    first_in = np.searchsorted(times_us, cut.spans.start_us + blur_us + lag_us, "left")
    last_in = np.searchsorted(times_us, cut.spans.end_us - blur_us, "right") - 1
    held = first_in <= np.minimum(last_in, last)
    low = np.where(held, joules[last_in] - joules[np.minimum(first_in, len(times_us) - 1)], 0.0)

    outer = np.maximum(before, first), np.minimum(after, last)
    unseen = np.cumsum(steps.unseen)
    blind_ms = unseen[outer[1]] - unseen[outer[0]]
    blind_ms += np.where(before < first, times_us[first] - start_us, 0) / 1000.0
    blind_ms += np.where(after > last, end_us - times_us[last], 0) / 1000.0
    blind_ms += counter.interval_ms  # half of it at each edge
    rounding = np.full(len(low), 1 / energy.STEPS_PER_JOULE)  # half a step at each edge
    if counter.integrated_s is not None:
        rounding = cut.spans.duration_ms / 1000 / (2 * energy.STEPS_PER_WATT)
    unknown = blind_ms > 0 if limit_watts is None else np.zeros(len(low), np.bool_)
    limit = limit_watts or 0.0
    bounded_low = np.maximum(0.0, low - (rounding + counter.interval_ms / 1000 * limit))
    free_low = np.maximum(0.0, low - 1 / energy.STEPS_PER_JOULE) * (counter.interval_ms == 0)
    high = joules[outer[1]] - joules[outer[0]] + rounding + blind_ms / 1000 * limit
    return np.where(unknown, free_low, bounded_low), np.where(unknown, np.nan, high)


def _without_late(unix_ms: Times, units: Floats, limit_watts: float | None) -> tuple[Floats, Flags | None]:
    """A hardware counter (n,) with late values raised to the running maximum, and which these were.

    A value that may be late by `llem_core.energy.may_be_late` is late if the counter has passed its old value
    at the next reading or within two seconds. Otherwise the counter was reset.
    """
    if not np.any(np.diff(units) < 0):
        return units, None
    raised, late = units.copy(), np.zeros(len(units), np.bool_)
    highest, highest_ms, per_joule = float(units[0]), int(unix_ms[0]), energy.COUNTER_UNITS_PER_JOULE
    soon_stop = np.searchsorted(unix_ms, unix_ms + _LATE_MS, "right")
    for index, (ms, value) in enumerate(zip(unix_ms.tolist(), units.tolist(), strict=True)):
        elapsed_s = (ms - highest_ms) / 1000
        if value < highest and energy.may_be_late(
            highest / per_joule, value / per_joule, elapsed_s, limit_watts
        ):
            soon = units[index + 1 : max(index + 2, int(soon_stop[index]))]
            if not len(soon) or float(np.max(soon)) >= highest:
                raised[index], late[index] = highest, True
                continue
        highest, highest_ms = value, ms
    return raised, late
