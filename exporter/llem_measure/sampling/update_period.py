"""How often a sensor or a counter really changes."""

from collections import deque
from statistics import fmean
from typing import Final

CHANGES_KEPT: Final = 64
MIN_CHANGES: Final = 8
ESTIMATE_CHANGES: Final = 8
"""Changes between two estimates."""


class UpdatePeriod:
    """Estimates the update period of a reading from the times at which its value changes.

    Constant power and equal neighbours lengthen the time between two changes, never shorten it. So the
    estimate is the mean of the shortest times between changes (up to 1.5 x their lower quartile), and the
    smallest such estimate so far. A reading that changes at every sample has an update period of at most the
    sample interval.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._value: float | None = None
        self._changed_s: float | None = None
        self._changes = 0
        self._steps_s: deque[float] = deque(maxlen=CHANGES_KEPT)

    def add(self, monotonic_s: float, value: float) -> None:
        """Take in the next reading."""
        if value == self._value:
            return
        if self._changed_s is not None:
            self._steps_s.append(monotonic_s - self._changed_s)
            self._changes += 1
            if self._changes % ESTIMATE_CHANGES == 0:
                self._estimate()
        # The time of the first value's own change is unknown.
        self._changed_s = None if self._value is None else monotonic_s
        self._value = value

    def _estimate(self) -> None:
        steps_s = sorted(self._steps_s)
        shortest = [step_s for step_s in steps_s if step_s <= 1.5 * steps_s[len(steps_s) // 4]]
        if len(shortest) >= MIN_CHANGES:
            self.seconds = min(fmean(shortest), self.seconds or float("inf"))
