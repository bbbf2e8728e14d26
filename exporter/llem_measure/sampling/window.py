"""The energy between two instants, out of samples."""

from itertools import pairwise
from math import isnan

from llem_core.energy import NOTHING, PairEnergy, part_energy
from llem_measure.sampling.ring import Samples


def energy_between(samples: Samples, start_ms: float, end_ms: float, max_gap_ms: float) -> PairEnergy[float]:
    """Return the sums of the pairs of power samples between two times. Pairs at the edges are cut."""
    total = NOTHING
    points = zip(samples.times_ms, samples.watts, strict=True)
    for (ms0, watts0), (ms1, watts1) in pairwise(point for point in points if not isnan(point[1])):
        from_ms, to_ms = max(ms0, start_ms), min(ms1, end_ms)
        if from_ms < to_ms:
            dt_ms = float(ms1 - ms0)
            part = part_energy(
                watts0, watts1, dt_ms, max_gap_ms, (from_ms - ms0) / dt_ms, (to_ms - ms0) / dt_ms
            )
            total = PairEnergy(*(ours + its for ours, its in zip(total, part, strict=True)))
    return total
