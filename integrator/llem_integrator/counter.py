"""A counter of joules and a window: what it rose by, its falls and its gaps accounted for."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core import energy
from llem_integrator.integral import Floats, Integral, count_inside, nothing, relative
from llem_integrator.series import Times, Values
from llem_integrator.window import Window

_ASSUMED_LIMIT_WATTS: Final = 1000.0
"""Where no limit is known, a late counter value is told from a reset by this one."""

_OTHER_EXPORTER_MS: Final = 500.0
"""An exporter that integrated longer than the step by more than this is not the one of the reading before."""


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """Readings of one counter of joules, each at the time it was read.

    `unix_ms` (n,) int64 ascending, `joules` (n,). A hardware counter misses nothing between two
    readings; one that the exporter integrated covers what `integrated_s` (n,), the counter beside
    it, says, and its samples were `interval_ms` apart. Values may trail the truth by `lag_ms`, and
    their times be off by `blur_ms`.
    """

    unix_ms: Times
    joules: Values
    integrated_s: Values | None = None
    interval_ms: float = 0.0
    lag_ms: float = energy.SENSOR_LAG_SECONDS * 1000
    blur_ms: float = 0.0


def counted(counter: Counter, window: Window, max_gap_ms: float, limit_watts: float | None) -> Integral:
    """What a counter rose by in the window, its falls and its gaps accounted for."""
    times, start, end = relative(counter.unix_ms, window)
    count = count_inside(times, start, end)
    steps = _steps(counter, times, limit_watts)
    cut_times, (cut_risen, cut_covered) = _cut(times, (steps.risen, steps.covered), start, end, max_gap_ms)
    # Interpolated milliseconds carry float noise; a window's edges are whole microseconds.
    covered_ms = round(float(cut_covered[-1] - cut_covered[0]), 6) if len(cut_times) > 1 else 0.0
    if covered_ms <= 0:
        return nothing("counter", window, max_gap_ms, count)
    joules = float(cut_risen[-1] - cut_risen[0]) / energy.COUNTER_UNITS_PER_JOULE
    holes_ms = np.diff(cut_times) - np.diff(cut_covered)
    lead_ms, tail_ms = float(cut_times[0]) - start, end - float(cut_times[-1])
    low, high = _counter_bounds(counter, times, steps, (start, end), limit_watts)
    inside = (times[1:] > start) & (times[:-1] < end)
    return Integral(
        method="counter",
        joules=joules,
        low=min(low, joules),
        high=None if high is None else max(high, joules),
        covered_s=covered_ms / 1000,
        gap_s=max(0.0, round(end - start - covered_ms, 6)) / 1000,
        largest_gap_s=max(lead_ms, tail_ms, float(np.max(holes_ms))) / 1000,
        tail_gap_s=tail_ms / 1000,
        max_gap_s=max_gap_ms / 1000,
        sample_count=count,
        resets=int(np.count_nonzero(steps.restarted & inside)),
        late=steps.late,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """A counter's steps added up: (n,) counter units risen, ms covered and ms in which energy may be missed.

    `restarted` (n - 1,) marks the steps over a restart.
    """

    risen: Floats
    covered: Floats
    unseen: Floats
    restarted: NDArray[np.bool_]
    late: int = 0


def _steps(counter: Counter, times: Floats, limit_watts: float | None) -> _Steps:
    # In the exporter's own units every value and difference is a whole number, and exact.
    units = np.rint(counter.joules * energy.COUNTER_UNITS_PER_JOULE)
    steps_ms = np.diff(times)
    if counter.integrated_s is None:
        units, late = _without_late(times, units, limit_watts)
        restarted = np.diff(units) < 0
        risen = energy.counter_step(units[:-1], units[1:])
        return _Steps(_running(risen), times, _running(steps_ms * restarted), restarted, late)
    seconds = counter.integrated_s
    # Either column shows a restart, and then both count from 0.
    restarted = (np.diff(units) < 0) | (np.diff(seconds) < 0)
    risen = units[1:] - units[:-1] * ~restarted
    covered = np.rint((seconds[1:] - seconds[:-1] * ~restarted) * 1000)
    # Who integrated more than the time that passed is another exporter: of this step nothing is known.
    known = covered <= steps_ms + _OTHER_EXPORTER_MS
    covered = np.minimum(covered, steps_ms) * known
    return _Steps(_running(risen * known), _running(covered), _running(steps_ms - covered), restarted)


def _counter_bounds(
    counter: Counter, times: Floats, steps: _Steps, edges: tuple[float, float], limit_watts: float | None
) -> tuple[float, float | None]:
    """Joules (low, high): the counter read outside the edges, and inside them, its lag allowed for.

    Where a reading outside is missing, the limit bounds what it would say.
    """
    start, end = edges[0] - counter.blur_ms, edges[1] + counter.blur_ms + counter.lag_ms
    last = len(times) - 1
    joules = steps.risen / energy.COUNTER_UNITS_PER_JOULE
    before, after = int(np.searchsorted(times, start, "right")) - 1, int(np.searchsorted(times, end, "left"))
    first_in = int(np.searchsorted(times, edges[0] + counter.blur_ms + counter.lag_ms, "left"))
    last_in = int(np.searchsorted(times, edges[1] - counter.blur_ms, "right")) - 1
    low = float(joules[last_in] - joules[first_in]) if first_in <= min(last_in, last) else 0.0

    outer = max(before, 0), min(after, last)
    blind_ms = float(steps.unseen[outer[1]] - steps.unseen[outer[0]])
    blind_ms += float(times[0]) - start if before < 0 else 0.0
    blind_ms += end - float(times[-1]) if after > last else 0.0
    blind_ms += counter.interval_ms  # half of it at each edge
    if limit_watts is None and blind_ms > 0:
        return 0.0 if counter.interval_ms else max(0.0, low - 1 / energy.STEPS_PER_JOULE), None
    limit = limit_watts or 0.0
    rounding = 1 / energy.STEPS_PER_JOULE  # half a step at each edge
    if counter.integrated_s is not None:
        rounding = (edges[1] - edges[0]) / 1000 / (2 * energy.STEPS_PER_WATT)
    low -= rounding + counter.interval_ms / 1000 * limit
    return max(0.0, low), float(joules[outer[1]] - joules[outer[0]]) + rounding + blind_ms / 1000 * limit


def _without_late(times: Floats, units: Floats, limit_watts: float | None) -> tuple[Floats, int]:
    """A hardware counter (n,) with late values raised to the running maximum, and how many there were.

    A fall of less than two seconds at the limit is a late value, if the counter is back where it was
    at the next reading or within two seconds; else it is a reset.
    """
    if not np.any(np.diff(units) < 0):
        return units, 0
    deepest = (limit_watts or _ASSUMED_LIMIT_WATTS) * energy.LATE_SECONDS * energy.COUNTER_UNITS_PER_JOULE
    raised, highest, late = units.copy(), float(units[0]), 0
    for index, value in enumerate(units.tolist()):
        soon = slice(index + 1, max(index + 2, int(np.searchsorted(times, times[index] + 2000, "right"))))
        back = not len(units[soon]) or float(np.max(units[soon])) >= highest
        if highest - deepest < value < highest and back:
            raised[index] = highest
            late += 1
        else:
            highest = value
    return raised, late


def _cut(
    times: Floats, columns: tuple[Floats, ...], start: float, end: float, max_gap_ms: float
) -> tuple[Floats, list[Floats]]:
    """The samples in [start, end], and one more on each edge that a covered pair spans, interpolated."""
    first = int(np.searchsorted(times, start, "left"))
    stop = int(np.searchsorted(times, end, "right"))

    def spanned(index: int) -> bool:
        return 0 < index < len(times) and float(times[index] - times[index - 1]) <= max_gap_ms

    head = [(first, start)] if spanned(first) and times[first] > start else []
    tail = [(stop, end)] if spanned(stop) and times[stop - 1] < end else []

    def at(column: Floats, index: int, edge: float) -> float:
        before, after = float(times[index - 1]), float(times[index])
        fraction = (edge - before) / (after - before)
        return energy.power_within(float(column[index - 1]), float(column[index]), fraction)

    def edged(column: Floats) -> Floats:
        cut = [at(column, *edge) for edge in head], column[first:stop], [at(column, *edge) for edge in tail]
        return np.concatenate(cut)

    # The times themselves, where they are a column too, are the edges to the bit.
    cut_times = np.concatenate(
        [np.array([edge for _, edge in head]), times[first:stop], [edge for _, edge in tail]]
    )
    return cut_times, [cut_times if column is times else edged(column) for column in columns]


def _running(steps: Floats) -> Floats:
    """Running sums (n + 1,) of steps (n,), from 0."""
    return np.concatenate([[0.0], np.cumsum(steps)])
