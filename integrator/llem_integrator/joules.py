"""Series and a window become joules: windowing over arrays, each pair by llem_core.energy."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core import energy
from llem_integrator.series import Times, Values
from llem_integrator.window import Window

_Floats = NDArray[np.float64]

_ASSUMED_LIMIT_WATTS: Final = 1000.0
"""Where no limit is known, a late counter value is told from a reset by this one."""


@dataclass(frozen=True, slots=True)
class Integral:
    """Energy of one series in one window.

    `joules` is None where nothing is covered; `high` is None also where nothing bounds it. A gap is
    time without coverage: `lead_gap_s` before the first and `tail_gap_s` after the last of it.
    `resets` and `late` count a counter's falls of either sort.
    """

    method: str
    joules: float | None
    low: float | None
    high: float | None
    covered_s: float
    gap_s: float
    largest_gap_s: float
    tail_gap_s: float
    max_gap_s: float
    sample_count: int
    peak_watts: float | None = None
    resets: int = 0
    late: int = 0

    @property
    def coverage(self) -> float:
        """Covered share of the window, from 0 to 1."""
        return self.covered_s / (self.covered_s + self.gap_s)


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """Readings of one counter of joules, each at the time it was read.

    `unix_ms` (n,) int64 ascending, `joules` (n,). A hardware counter misses nothing between two
    readings; one that the exporter integrated covers what `integrated_s` (n,), the counter beside
    it, says, and its samples were `interval_ms` apart. Values may trail the truth by `lag_ms`.
    """

    unix_ms: Times
    joules: Values
    integrated_s: Values | None = None
    interval_ms: float = 0.0
    lag_ms: float = energy.SENSOR_LAG_SECONDS * 1000


def trapezoid(
    unix_ms: Times, watts: Values, window: Window, max_gap_ms: float, limit_watts: float | None
) -> Integral:
    """Integral over power samples (n,) in watts, ascending in time."""
    times, start, end = _relative(unix_ms, window)
    first = int(np.searchsorted(times, start, "left"))
    stop = int(np.searchsorted(times, end, "right"))
    inside = watts[first:stop]
    pairs = energy.pair_energy(inside[:-1], inside[1:], np.diff(times[first:stop]), max_gap_ms)
    parts = list(_cut_pairs(times, watts, start, end, max_gap_ms))
    lead_ms = max(0.0, float(times[0]) - start) if len(times) else end - start
    tail_ms = max(0.0, end - float(times[-1])) if len(times) else 0.0
    total = energy.PairEnergy(
        *(math.fsum([float(np.sum(whole)), *cut]) for whole, *cut in zip(pairs, *parts, strict=True))
    )
    total = total._replace(gap_ms=total.gap_ms + lead_ms + tail_ms)
    if total.covered_ms == 0:
        return _nothing("trapezoid", window, max_gap_ms, stop - first)
    gaps_ms = [lead_ms, tail_ms, *(part.gap_ms for part in parts), float(np.max(pairs.gap_ms, initial=0.0))]
    peak = float(np.max(inside)) if len(inside) else total.doubled / total.covered_ms / 2
    low, high = energy.power_bounds(total, None if limit_watts is None else max(limit_watts, peak))
    return Integral(
        method="trapezoid",
        joules=energy.joules(total.doubled),
        low=low,
        high=high,
        covered_s=total.covered_ms / 1000,
        gap_s=total.gap_ms / 1000,
        largest_gap_s=max(gaps_ms) / 1000,
        tail_gap_s=tail_ms / 1000,
        max_gap_s=max_gap_ms / 1000,
        sample_count=stop - first,
        peak_watts=peak,
    )


def _cut_pairs(
    times: _Floats, watts: Values, start: float, end: float, max_gap_ms: float
) -> Iterator[energy.PairEnergy[float]]:
    """What the pairs that an edge cuts add: two of them, or one where both edges cut the same."""
    for index in sorted({int(np.searchsorted(times, edge)) for edge in (start, end)}):
        if 0 < index < len(times):
            before, dt = float(times[index - 1]), float(times[index] - times[index - 1])
            first, last = (min(max((edge - before) / dt, 0.0), 1.0) for edge in (start, end))
            if first > 0 or last < 1:
                pair = float(watts[index - 1]), float(watts[index]), dt, max_gap_ms
                yield energy.part_energy(*pair, first, last)


def counted(counter: Counter, window: Window, max_gap_ms: float, limit_watts: float | None) -> Integral:
    """What a counter rose by in the window, its falls and its gaps accounted for."""
    times, start, end = _relative(counter.unix_ms, window)
    count = _count(times, start, end)
    # In the exporter's own units every value and difference is a whole number, and exact.
    units = np.rint(counter.joules * energy.COUNTER_UNITS_PER_JOULE)
    late = 0
    if counter.integrated_s is None:
        units, late = _without_late(units, limit_watts)
    steps_ms = np.diff(times)
    restarted = np.diff(units) < 0
    risen = _running(energy.counter_step(units[:-1], units[1:]))
    covered = times
    if counter.integrated_s is not None:
        integrated = energy.counter_step(counter.integrated_s[:-1], counter.integrated_s[1:])
        covered = _running(np.minimum(np.rint(integrated * 1000), steps_ms))

    cut_times, (cut_risen, cut_covered) = _cut(times, (risen, covered), start, end, max_gap_ms)
    # Interpolated milliseconds carry float noise; a window's edges are whole microseconds.
    covered_ms = round(float(cut_covered[-1] - cut_covered[0]), 6) if len(cut_times) > 1 else 0.0
    if covered_ms <= 0:
        return _nothing("counter", window, max_gap_ms, count)
    joules = float(cut_risen[-1] - cut_risen[0]) / energy.COUNTER_UNITS_PER_JOULE
    holes_ms = np.diff(cut_times) - np.diff(cut_covered)
    lead_ms, tail_ms = float(cut_times[0]) - start, end - float(cut_times[-1])
    unseen_ms = steps_ms * restarted if counter.integrated_s is None else steps_ms - np.diff(covered)
    low, high = _counter_bounds(counter, times, risen, _running(unseen_ms), (start, end), limit_watts)
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
        resets=int(np.count_nonzero(restarted & inside)),
        late=late,
    )


def joined(parts: Sequence[Integral]) -> Integral | None:
    """The energy of windows that follow each other, as one; None where a part of them has none.

    It is called after the longest of them.
    """
    joules = [part.joules for part in parts if part.joules is not None]
    if not parts or len(joules) < len(parts):
        return None
    longest = max(parts, key=lambda part: part.covered_s)
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    return replace(
        longest,
        joules=math.fsum(joules),
        low=math.fsum(lows),
        high=math.fsum(highs) if len(highs) == len(parts) else None,
        covered_s=math.fsum(part.covered_s for part in parts),
        gap_s=math.fsum(part.gap_s for part in parts),
        largest_gap_s=max(part.largest_gap_s for part in parts),
        tail_gap_s=parts[-1].tail_gap_s,
        sample_count=sum(part.sample_count for part in parts),
        peak_watts=max((part.peak_watts for part in parts if part.peak_watts is not None), default=None),
    )


def _counter_bounds(
    counter: Counter,
    times: _Floats,
    risen: _Floats,
    unseen_ms: _Floats,
    edges: tuple[float, float],
    limit_watts: float | None,
) -> tuple[float, float | None]:
    """Joules (low, high): the counter read outside the edges, and inside them, its lag allowed for.

    `risen` (n,) is the running rise in counter units, `unseen_ms` (n,) the running time in which it
    may have missed energy. Where a reading outside is missing, the limit bounds what it would say.
    """
    start, end = edges
    lag, last = counter.lag_ms, len(times) - 1
    joules = risen / energy.COUNTER_UNITS_PER_JOULE
    before = int(np.searchsorted(times, start, "right")) - 1
    after = int(np.searchsorted(times, end + lag, "left"))
    within = (int(np.searchsorted(times, start + lag, "left")), int(np.searchsorted(times, end, "right")) - 1)
    low = float(joules[within[1]] - joules[within[0]]) if within[0] <= min(within[1], last) else 0.0

    outer = max(before, 0), min(after, last)
    blind_ms = float(unseen_ms[outer[1]] - unseen_ms[outer[0]])
    blind_ms += float(times[0]) - start if before < 0 else 0.0
    blind_ms += end + lag - float(times[-1]) if after > last else 0.0
    blind_ms += counter.interval_ms  # half of it at each edge
    if limit_watts is None and blind_ms > 0:
        return 0.0 if counter.interval_ms else max(0.0, low - 1 / energy.STEPS_PER_JOULE), None
    limit = limit_watts or 0.0
    rounding = 1 / energy.STEPS_PER_JOULE  # half a step at each edge
    if counter.integrated_s is not None:
        rounding = (end - start) / 1000 / (2 * energy.STEPS_PER_WATT)
    low -= rounding + counter.interval_ms / 1000 * limit
    return max(0.0, low), float(joules[outer[1]] - joules[outer[0]]) + rounding + blind_ms / 1000 * limit


def _without_late(units: _Floats, limit_watts: float | None) -> tuple[_Floats, int]:
    """A hardware counter (n,) with late values raised to the running maximum, and how many there were.

    A fall of less than two seconds at the limit is a late value; a deeper one is a reset.
    """
    if not np.any(np.diff(units) < 0):
        return units, 0
    limit = limit_watts or _ASSUMED_LIMIT_WATTS
    deepest = limit * energy.LATE_SECONDS * energy.COUNTER_UNITS_PER_JOULE
    raised, highest, late = units.copy(), float(units[0]), 0
    for index, value in enumerate(units.tolist()):
        if highest - deepest < value < highest:
            raised[index] = highest
            late += 1
        else:
            highest = value
    return raised, late


def _relative(unix_ms: Times, window: Window) -> tuple[_Floats, float, float]:
    """Times (n,) and both edges in ms from the whole ms at or before the start, where floats are exact."""
    base_ms = window.start_us // 1000
    times = (unix_ms - base_ms).astype(np.float64)
    return times, (window.start_us - base_ms * 1000) / 1000, (window.end_us - base_ms * 1000) / 1000


def _cut(
    times: _Floats, columns: tuple[_Floats, ...], start: float, end: float, max_gap_ms: float
) -> tuple[_Floats, list[_Floats]]:
    """The samples in [start, end], and one more on each edge that a covered pair spans, interpolated."""
    first = int(np.searchsorted(times, start, "left"))
    stop = int(np.searchsorted(times, end, "right"))

    def spanned(index: int) -> bool:
        return 0 < index < len(times) and float(times[index] - times[index - 1]) <= max_gap_ms

    head = [(first, start)] if spanned(first) and times[first] > start else []
    tail = [(stop, end)] if spanned(stop) and times[stop - 1] < end else []

    def at(column: _Floats, index: int, edge: float) -> float:
        before, after = float(times[index - 1]), float(times[index])
        fraction = (edge - before) / (after - before)
        return energy.power_within(float(column[index - 1]), float(column[index]), fraction)

    def edged(column: _Floats) -> _Floats:
        cut = [at(column, *edge) for edge in head], column[first:stop], [at(column, *edge) for edge in tail]
        return np.concatenate(cut)

    # The times themselves, where they are a column too, are the edges to the bit.
    cut_times = np.concatenate(
        [np.array([edge for _, edge in head]), times[first:stop], [edge for _, edge in tail]]
    )
    return cut_times, [cut_times if column is times else edged(column) for column in columns]


def _running(steps: _Floats) -> _Floats:
    """Running sums (n + 1,) of steps (n,), from 0."""
    return np.concatenate([[0.0], np.cumsum(steps)])


def _count(times: _Floats, start: float, end: float) -> int:
    return int(np.searchsorted(times, end, "right") - np.searchsorted(times, start, "left"))


def _nothing(method: str, window: Window, max_gap_ms: float, count: int) -> Integral:
    """No coverage at all: no measurement, never 0 joules."""
    return Integral(
        method=method,
        joules=None,
        low=None,
        high=None,
        covered_s=0.0,
        gap_s=window.duration_s,
        largest_gap_s=window.duration_s,
        tail_gap_s=window.duration_s,
        max_gap_s=max_gap_ms / 1000,
        sample_count=count,
    )
