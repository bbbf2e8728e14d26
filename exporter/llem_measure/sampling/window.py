"""The energy between two times, from power samples."""

from collections.abc import Iterable
from itertools import pairwise

from llem_core.energy import NOTHING, PairEnergy, add_energy, part_energy


def energy_between(
    samples: Iterable[tuple[float, float]], start_ms: float, end_ms: float, max_gap_ms: float
) -> PairEnergy[float]:
    """Return the sums of the pairs of samples (ms, watts) between two times. Pairs at the edges are cut."""
    total = NOTHING
    for (ms0, watts0), (ms1, watts1) in pairwise(samples):
        from_ms, to_ms = max(ms0, start_ms), min(ms1, end_ms)
        if from_ms < to_ms:
            dt_ms = ms1 - ms0
            edges = (from_ms - ms0) / dt_ms, (to_ms - ms0) / dt_ms
            part = part_energy(watts0, watts1, dt_ms, max_gap_ms, *edges)
            total = add_energy(total, part)
    return total
