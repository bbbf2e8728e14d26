"""Power samples and a window: windowing over arrays, each pair by llem_core.energy."""

import math
from collections.abc import Iterator

import numpy as np

from llem_core import energy
from llem_integrator.integral import Floats, Integral, nothing, relative
from llem_integrator.series import Times, Values
from llem_integrator.window import Window


def trapezoid(
    unix_ms: Times, watts: Values, window: Window, max_gap_ms: float, limit_watts: float | None
) -> Integral:
    """Integral over power samples (n,) in watts, ascending in time."""
    times, start, end = relative(unix_ms, window)
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
        return nothing("trapezoid", window, max_gap_ms, stop - first)
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
    times: Floats, watts: Values, start: float, end: float, max_gap_ms: float
) -> Iterator[energy.PairEnergy[float]]:
    """What the pairs that an edge cuts add: two of them, or one where both edges cut the same."""
    for index in sorted({int(np.searchsorted(times, edge)) for edge in (start, end)}):
        if 0 < index < len(times):
            before, dt = float(times[index - 1]), float(times[index] - times[index - 1])
            first, last = (min(max((edge - before) / dt, 0.0), 1.0) for edge in (start, end))
            if first > 0 or last < 1:
                pair = float(watts[index - 1]), float(watts[index]), dt, max_gap_ms
                yield energy.part_energy(*pair, first, last)
