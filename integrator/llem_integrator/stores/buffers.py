"""Large arrays used again: to touch new memory takes longer than to decode into it."""

import sys
import threading
from typing import Final

import numpy as np

from llem_integrator.series.samples import Times, Values

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
        self._lock = threading.Lock()

    def take(self) -> tuple[Times, Values]:
        with self._lock:
            for number in range(len(self._times)):
                if (
                    sys.getrefcount(self._times[number]) == _HELD_BY_US
                    and sys.getrefcount(self._values[number]) == _HELD_BY_US
                ):
                    return self._times[number], self._values[number]
            # Memory is only taken from the system where it is written to.
            self._times.append(np.empty(self._samples, np.int64))
            self._values.append(np.empty(self._samples))
            return self._times[-1], self._values[-1]
