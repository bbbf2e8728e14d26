"""Sums over pairs of power samples, a block at a time."""

from typing import Final

import numpy as np

from llem_core import energy
from llem_integrator.series.samples import Floats, Times, Values
from llem_integrator.series.spans import Index

BLOCK: Final = 16_384
"""Pairs that are worked on at a time: their columns stay in the processor's cache."""


def first_gap_ms(max_gap_ms: Floats | float) -> float:
    return max_gap_ms if not isinstance(max_gap_ms, np.ndarray) else float(max_gap_ms[0])


def gaps_of_steps(max_gap_ms: Floats | float, first: int, stop: int) -> Floats | float:
    """What is no gap of the steps [first, stop), of which the first ends at the second sample."""
    return max_gap_ms if not isinstance(max_gap_ms, np.ndarray) else max_gap_ms[first + 1 : stop + 1]


def block_energy(
    unix_ms: Times, watts: Values, first: int, max_gap_ms: Floats | float
) -> "energy.PairEnergy[float]":
    """The sums of a block of pairs; of those that are evenly apart, as most are, by their samples."""
    times, powers = unix_ms[first : first + BLOCK + 1], watts[first : first + BLOCK + 1]
    steps_ms = np.diff(times)
    step_ms, gaps_ms = float(steps_ms[0]), gaps_of_steps(max_gap_ms, first, first + len(steps_ms))
    if int(steps_ms.min()) == int(steps_ms.max()) and bool(np.all(step_ms <= gaps_ms)):
        rises = np.diff(powers)
        ends = float(powers[0]), float(powers[-1])
        sums = float(powers.sum()), float(np.abs(rises, out=rises).sum())
        return energy.even_energy(*sums, ends, step_ms, len(rises))
    pairs = energy.pair_energy(powers[:-1], powers[1:], steps_ms.astype(np.float64), gaps_ms)
    return energy.PairEnergy(*(float(column.sum()) for column in pairs))


def energy_sums(unix_ms: Times, watts: Values, starts: Index, max_gap_ms: Floats | float) -> Floats:
    """Sums (5, m) of the pairs from each start to the next; blocks begin at multiples of BLOCK."""
    count = len(unix_ms) - 1
    sums = np.empty((len(energy.PairEnergy._fields), len(starts)))
    for first in range(0, count, BLOCK):
        stop = min(first + BLOCK, count)
        steps_ms = np.diff(unix_ms[first : stop + 1]).astype(np.float64)
        gaps_ms = gaps_of_steps(max_gap_ms, first, stop)
        pairs = energy.pair_energy(watts[first:stop], watts[first + 1 : stop + 1], steps_ms, gaps_ms)
        mine = slice(*np.searchsorted(starts, [first, stop]).tolist())
        at = starts[mine] - first
        for row, column in zip(sums, pairs, strict=True):
            row[mine] = np.add.reduceat(column, at) if len(at) > 1 else column.sum()
    return sums


def energy_bounds(total: "energy.PairEnergy[Floats]", limit_watts: Floats) -> tuple[Floats, Floats]:
    """energy.power_bounds for windows (w,); NaN stands for no limit, and for no high bound."""
    widening = total.covered_ms / 1000 / (2 * energy.STEPS_PER_WATT)
    unseen_joules = np.where(total.gap_ms > 0, limit_watts, 0.0) * total.gap_ms / 1000
    low = np.maximum(energy.joules(total.low) - widening, 0.0)
    return low, energy.joules(total.high) + widening + unseen_joules
