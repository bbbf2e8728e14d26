"""Large arrays used again: to touch new memory takes longer than to decode into it."""

import sys
from typing import Final

import numpy as np

from llem_integrator.series import Times, Values

_HELD_BY_US: Final = 2
"""References to an array that nobody else holds: our list's, and the one that asks."""


class Buffers:
    """Pairs of arrays for times and values, each of `samples`.

    A pair is given out again once nobody holds a view of it, which keeps its array alive and counted. So a
    caller who keeps what it got loses nothing, and another pair is made.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._times: list[Times] = []
        self._values: list[Values] = []

    def take(self) -> tuple[Times, Values]:
        for number in range(len(self._times)):
            if (
                sys.getrefcount(self._times[number]) == _HELD_BY_US
                and sys.getrefcount(self._values[number]) == _HELD_BY_US
            ):
                return self._times[number], self._values[number]
        # Memory is only taken from the system where it is written to.
        times, values = np.empty(self._samples, np.int64), np.empty(self._samples)
        self._times.append(times)
        self._values.append(values)
        return times, values
