"""Compute the energy between consecutive power samples, with lower and upper bounds.

The formulas use only operators that floats and numpy arrays share, so the exporter's ledger (floats)
and the integrator (float64 arrays of shape (n,)) run the same code. Times are milliseconds, power is
watts. Sums are kept in half watt-milliseconds, `(p0 + p1) * dt_ms`, and divided once, at the end:
the exporter's samples are multiples of 1/8 W at whole milliseconds, so their sums are exact in
float64, in whatever order they are added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Real = TypeVar("Real", float, NDArray[np.float64])
else:
    Real = TypeVar("Real")

STEPS_PER_WATT: Final = 8
"""Power samples are rounded to 1/8 W before they are integrated and published."""

STEPS_PER_JOULE: Final = 8
"""The zeus counter is rounded to 1/8 J before it is published."""

COUNTER_UNITS_PER_JOULE: Final = 16_000
"""The exporter's own counter is a multiple of 1/16000 J: 1/8 W x 1 ms / 2."""

GAP_INTERVALS: Final = 3
"""Consecutive samples that are further apart than this many sample intervals have a gap between them."""

LATE_SECONDS: Final = 2.0
"""How much older than its reading a value of a hardware counter may be."""

ASSUMED_LIMIT_WATTS: Final = 1000.0
"""The power limit to assume if it is not known, to distinguish a late value from a reset."""

SENSOR_LAG_SECONDS: Final = 0.5
"""The maximum lag of a hardware counter whose update period is not known."""

_HALF_WATT_MS_PER_JOULE: Final = 2000


class PairEnergy(NamedTuple, Generic[Real]):
    """The energy, covered time and gap time of one pair of samples, or the sums over many pairs.

    `doubled`, `low` and `high` are half watt-milliseconds (2000 to the joule): the trapezoid, and the
    rectangles under the lower and the higher sample. `covered_ms` and `gap_ms` are milliseconds.
    """

    doubled: Real
    low: Real
    high: Real
    covered_ms: Real
    gap_ms: Real


NOTHING: Final[PairEnergy[float]] = PairEnergy(0.0, 0.0, 0.0, 0.0, 0.0)


def add_energy(a: PairEnergy[float], b: PairEnergy[float]) -> PairEnergy[float]:
    """Return the sum of both."""
    return PairEnergy(
        a.doubled + b.doubled,
        a.low + b.low,
        a.high + b.high,
        a.covered_ms + b.covered_ms,
        a.gap_ms + b.gap_ms,
    )


def pair_energy(watts0: Real, watts1: Real, dt_ms: Real, max_gap_ms: Real | float) -> PairEnergy[Real]:
    """Return the trapezoid of each pair if `dt_ms <= max_gap_ms`, else its gap in milliseconds.

    Joules = 0.5 * (p0 + p1) * dt. A gap adds no energy.
    """
    covered_ms = dt_ms * (dt_ms <= max_gap_ms)
    doubled = (watts0 + watts1) * covered_ms
    spread = abs(watts1 - watts0) * covered_ms
    return PairEnergy(doubled, doubled - spread, doubled + spread, covered_ms, dt_ms - covered_ms)


def even_energy(
    watts: float, rises: float, ends: tuple[float, float], step_ms: float, pairs: int
) -> PairEnergy[float]:
    """Return the energy of equally spaced samples without gaps, computed from sums over the samples.

    `watts` is the sum of all samples, and `rises` is the sum of the absolute differences between consecutive
    samples. `ends` are the first and the last sample. For the exporter's samples, the result is identical to
    the sum of `pair_energy` over all pairs.
    """
    doubled = (2 * watts - ends[0] - ends[1]) * step_ms
    spread = rises * step_ms
    return PairEnergy(doubled, doubled - spread, doubled + spread, pairs * step_ms, 0.0)


def part_energy(
    watts0: Real, watts1: Real, dt_ms: Real, max_gap_ms: Real | float, start: Real, end: Real
) -> PairEnergy[Real]:
    """Return the energy of the part of a pair that is inside the window.

    The part is from the fraction `start` to `end` of the pair, from 0 to 1. The trapezoid is cut by linear
    interpolation. The bounds are those of the whole pair, because the power may have changed from one
    sample's value to the other's at any time between them.
    """
    whole, share = pair_energy(watts0, watts1, dt_ms, max_gap_ms), end - start
    edges = power_within(watts0, watts1, start) + power_within(watts0, watts1, end)
    return PairEnergy(
        doubled=edges * whole.covered_ms * share,
        low=whole.low * share,
        high=whole.high * share,
        covered_ms=whole.covered_ms * share,
        gap_ms=whole.gap_ms * share,
    )


def power_within(watts0: Real, watts1: Real, fraction: Real) -> Real:
    """Return the watts at a `fraction` (0 to 1) of the time between two samples, by linear interpolation."""
    return watts0 + (watts1 - watts0) * fraction


def joules(doubled: Real) -> Real:
    """Convert a sum of half watt-milliseconds to joules."""
    return doubled / _HALF_WATT_MS_PER_JOULE


def power_bounds(total: PairEnergy[float], limit_watts: float | None) -> tuple[float, float | None]:
    """Return the lower and upper bound of the energy, in joules.

    The bounds include the rounding of the samples: half a step (1/16 W) over the covered time. If there is
    a gap and the power limit is not known, the upper bound is None.
    """
    widening = total.covered_ms / 1000 / (2 * STEPS_PER_WATT)
    low = max(0.0, joules(total.low) - widening)
    if total.gap_ms > 0 and limit_watts is None:
        return low, None
    return low, joules(total.high) + widening + (limit_watts or 0.0) * total.gap_ms / 1000


def may_be_late(
    highest_joules: float, fallen_joules: float, elapsed_s: float, limit_watts: float | None
) -> bool:
    """Return whether a value of a hardware counter, lower than the highest so far, may be late.

    Otherwise the counter was reset. A late value is lower by less than the energy of LATE_SECONDS, and not
    below half, because a counter that is reset twice soon reaches its first value again. A value that was
    read LATE_SECONDS or more after the highest one is a reset, unless no GPU could have counted so far since
    the highest one was read.
    """
    limit_watts = limit_watts or ASSUMED_LIMIT_WATTS
    if elapsed_s >= LATE_SECONDS and fallen_joules <= limit_watts * (elapsed_s + LATE_SECONDS):
        return False
    fall_joules = highest_joules - fallen_joules
    return fall_joules < limit_watts * LATE_SECONDS and fallen_joules > highest_joules / 2


def counter_step(count0: Real, count1: Real) -> Real:
    """Return the increase of a counter between two readings.

    If the counter decreased, it was reset, and the increase is its new value.
    """
    return count1 - count0 * (count1 >= count0)
