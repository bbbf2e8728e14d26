"""A counter of joules and windows: what it rose by, with its resets, its gaps, and where it stood still."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from llem_core import energy
from llem_integrator.energy.counters.cut import Counter, CounterCut
from llem_integrator.energy.window_energy import Integral, Integrals, either, nothing, placed
from llem_integrator.series.ranges import range_max
from llem_integrator.series.samples import Flags, Floats, Times
from llem_integrator.series.spans import Index, Spans, spans_of
from llem_integrator.windows.window import Window

STUCK_SECONDS: Final = 10.0
STUCK_UPDATES: Final = 3
STUCK_JOULES: Final = 10.0
"""A hardware counter is stuck if it stands still for so long, and for so many of its update periods, while
the power of the same time makes more joules than this. Ten steps of its resolution, 1/8 J, are less."""

_LATE_MS: Final = round(1000 * energy.LATE_SECONDS)
_ANY_MARGIN_MS: Final = 2**49


def counted(counter: Counter, window: Window, limit_watts: float | None) -> Integral:
    """Return what a counter rose by in a window."""
    limits = np.array([np.nan if limit_watts is None else limit_watts])
    return rises(counter, spans_of([window]), limits, _ANY_MARGIN_MS).row(0)


def rises(counter: Counter, spans: Spans, limit_watts: Floats, margin_ms: int) -> Integrals:
    """Return the same in many windows, by readings up to `margin_ms` around; limits (w,), NaN unknown."""
    parts: list[tuple[Index, Integrals]] = []
    for limit in np.unique(limit_watts).tolist():
        known = limit == limit
        rows = np.flatnonzero(limit_watts == limit if known else np.isnan(limit_watts))
        cut = CounterCut(counter, spans.take(rows), margin_ms * 1000)
        lag_ms = counter.lag_ms
        lags_ms = np.full(len(rows), lag_ms) if isinstance(lag_ms, float | int) else lag_ms[rows]
        parts += _by_stuck(counter, cut, rows, lags_ms, limit if known else None)
    found = placed(parts, len(spans))
    return nothing("counter", spans, 0.0, present=False) if found is None else found


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """A counter's steps (n,), each with the reading that ends it; the first ends none.

    Counter units risen, milliseconds covered and those in which energy may be missed; `restarted` marks the
    steps over a reset, `late` the readings that were held at the running maximum, `stuck` the steps in which
    a hardware counter stood still.
    """

    risen: Floats
    covered: Floats
    unseen: Floats
    restarted: Flags
    late: Flags
    stuck: Flags


def _by_stuck(
    counter: Counter, cut: CounterCut, rows: Index, lags_ms: Floats, limit_watts: float | None
) -> Iterator[tuple[Index, Integrals]]:
    """Yield the results of windows `rows`, together where the counter stood still in the same steps."""
    steps = _steps(counter, cut.steps_ms, limit_watts)
    runs = list(_flat_runs(counter, steps))
    verdicts = np.array([_is_stuck(counter, cut, run, lags_ms) for run in runs]).reshape(len(runs), len(rows))
    patterns, group = np.unique(verdicts, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        index = np.flatnonzero(group.reshape(-1) == number)
        stuck = np.zeros(len(steps.risen), np.bool_)
        for (first, last), is_stuck in zip(runs, patterns[:, number].tolist(), strict=True):
            stuck[first + 1 : last + 1] |= is_stuck
        unseen = np.where(stuck, cut.steps_ms, steps.unseen)
        standing = replace(steps, covered=steps.covered * ~stuck, unseen=unseen, stuck=stuck)
        few = cut.take(counter, index)
        yield rows[index], _risen(counter, few, standing, lags_ms[index], limit_watts)


def _flat_runs(counter: Counter, steps: _Steps) -> Iterator[tuple[int, int]]:
    """Yield the first and the last reading of each stretch in which a hardware counter may be stuck."""
    if counter.covered_ms is not None or counter.power_joules is None:
        return
    flat = (steps.risen == 0) & ~steps.restarted & ~steps.late
    flat[:1] = False
    edges = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0, append=0))
    power = np.cumsum(counter.power_joules)
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        first, last = start - 1, stop - 1
        long = counter.unix_ms[last] - counter.unix_ms[first] >= STUCK_SECONDS * 1000
        if long and power[last] - power[first] > STUCK_JOULES:
            yield first, last


def _is_stuck(counter: Counter, cut: CounterCut, run: tuple[int, int], lags_ms: Floats) -> Flags:
    """Return in which windows (w,) the counter is stuck in a run, by the readings in reach of the window."""
    power = np.cumsum(np.zeros(1) if counter.power_joules is None else counter.power_joules)
    first, last = np.maximum(run[0], cut.low), np.minimum(run[1], cut.high - 1)
    first = np.minimum(first, len(power) - 1)
    seconds = (counter.unix_ms[last] - counter.unix_ms[first]) / 1000
    longest_s = np.maximum(STUCK_SECONDS, STUCK_UPDATES * lags_ms / 1000)
    stuck: Flags = (last > first) & (seconds >= longest_s) & (power[last] - power[first] > STUCK_JOULES)
    return stuck


def _risen(
    counter: Counter, cut: CounterCut, steps: _Steps, lag_ms: Floats, limit_watts: float | None
) -> Integrals:
    spans = cut.spans
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
        stuck=cut.touching(steps.stuck) > 0,
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


def _gaps(counter: Counter, cut: CounterCut, holes_ms: Floats) -> tuple[Floats, Floats]:
    """Return the longest gap (w,) in ms, and the one at the end."""
    start_us, end_us = cut.spans.start_us, cut.spans.end_us
    lead_ms = np.where(cut.head | cut.same, 0, cut.times_us[cut.into_first] - start_us) / 1000.0
    tail_ms = np.where(cut.tail | cut.same, 0, end_us - cut.times_us[cut.stop - 1]) / 1000.0
    cut_holes = cut.parts(holes_ms)
    largest_ms = np.maximum.reduce([lead_ms, tail_ms, *cut_holes])
    if counter.hole_ms is not None and counter.unread is not None:
        holes_ms = np.where(counter.unread > 0, counter.hole_ms, holes_ms)
    if np.any(holes_ms > 0):
        largest_ms = np.maximum(largest_ms, range_max(holes_ms, cut.first + 1, cut.stop, 0.0))
    return largest_ms, tail_ms


def _steps(counter: Counter, steps_ms: Floats, limit_watts: float | None) -> _Steps:
    # In the exporter's own units every value and difference is a whole number, and exact.
    units = np.rint(counter.joules * energy.COUNTER_UNITS_PER_JOULE)
    nowhere = np.zeros(len(units), np.bool_)
    if counter.covered_ms is None:
        units, late = _without_late(counter.unix_ms, units, limit_watts)
        restarted = _diff(units) < 0
        risen = _diff(units)
        risen[1:] = energy.counter_step(units[:-1], units[1:])
        late = nowhere if late is None else late
        return _Steps(risen, steps_ms, steps_ms * restarted, restarted, late, nowhere)
    covered = counter.covered_ms
    reset = nowhere if counter.reset is None else counter.reset
    risen = np.where(reset, units, _diff(units)) * (covered > 0)
    return _Steps(risen, covered, steps_ms - covered, reset, nowhere, nowhere)


def _diff(column: Floats) -> Floats:
    """Return the steps (n,) of a column (n,), 0 for the first."""
    return np.diff(column, prepend=column[:1])


def _bounds(
    counter: Counter, cut: CounterCut, steps: _Steps, lag_ms: Floats, limit_watts: float | None
) -> tuple[Floats, Floats]:
    """Return joules (low, high) (w,): the counter read outside the edges and inside them, less its lag.

    Where a reading outside is missing, the limit bounds what it would say; NaN where there is none.
    """
    times_us = cut.times_us
    blur_us = _blur_us(counter, cut)
    lag_us = np.rint(lag_ms * 1000).astype(np.int64)
    start_us, end_us = cut.spans.start_us - blur_us, cut.spans.end_us + blur_us + lag_us
    units = np.cumsum(steps.risen)
    first, last = np.minimum(cut.low, len(times_us) - 1), cut.high - 1
    before = np.searchsorted(times_us, start_us, "right") - 1
    after = np.searchsorted(times_us, end_us, "left")
    first_in = np.searchsorted(times_us, cut.spans.start_us + blur_us + lag_us, "left")
    last_in = np.searchsorted(times_us, cut.spans.end_us - blur_us, "right") - 1
    held = first_in <= np.minimum(last_in, last)
    low = np.where(held, units[last_in] - units[np.minimum(first_in, len(times_us) - 1)], 0.0)
    low /= energy.COUNTER_UNITS_PER_JOULE

    outer = np.maximum(before, first), np.minimum(after, last)
    unseen = np.cumsum(steps.unseen)
    blind_ms = unseen[outer[1]] - unseen[outer[0]]
    blind_ms += np.where(before < first, times_us[first] - start_us, 0) / 1000.0
    blind_ms += np.where(after > last, end_us - times_us[last], 0) / 1000.0
    blind_ms += counter.interval_ms  # half of it at each edge
    rounding = np.full(len(low), 1 / energy.STEPS_PER_JOULE)  # half a step at each edge
    if counter.covered_ms is not None:
        rounding = cut.spans.duration_ms / 1000 / (2 * energy.STEPS_PER_WATT)
    unknown = blind_ms > 0 if limit_watts is None else np.zeros(len(low), np.bool_)
    limit = limit_watts or 0.0
    bounded_low = np.maximum(0.0, low - (rounding + counter.interval_ms / 1000 * limit))
    free_low = np.maximum(0.0, low - 1 / energy.STEPS_PER_JOULE) * (counter.interval_ms == 0)
    outside = (units[outer[1]] - units[outer[0]]) / energy.COUNTER_UNITS_PER_JOULE
    high = outside + rounding + blind_ms / 1000 * limit
    return np.where(unknown, free_low, bounded_low), np.where(unknown, np.nan, high)


def _blur_us(counter: Counter, cut: CounterCut) -> Index:
    """Return how far (w,) the times of the readings beside a window's edges may be off."""
    blur_ms = counter.blur_ms
    if isinstance(blur_ms, float | int):
        return np.full(len(cut.spans), round(blur_ms * 1000))
    beside = cut.into_first, np.maximum(cut.first - 1, 0), cut.into_stop, np.maximum(cut.stop - 1, 0)
    widest: Index = np.rint(np.maximum.reduce([blur_ms[index] for index in beside]) * 1000).astype(np.int64)
    return widest


def _without_late(unix_ms: Times, units: Floats, limit_watts: float | None) -> tuple[Floats, Flags | None]:
    """Return a hardware counter (n,) with late values raised to the running maximum, and which these were.

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
