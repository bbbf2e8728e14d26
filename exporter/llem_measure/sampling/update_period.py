"""Measure how often a sensor or a counter changes."""

from collections import deque
from typing import Final

CHANGES: Final = 8


class UpdatePeriod:
    """Estimates the update period of a reading from the times at which its value changes.

    Constant power and equal consecutive values lengthen the time between two changes, and never shorten it.
    So the estimate is the shortest time of eight changes in a row so far, divided by eight. A period that is
    not a multiple of the sample interval is found to an eighth of the interval. A reading that changes at
    every sample has a period of at most the interval.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._value: float | None = None
        self._changes_s: deque[float] = deque(maxlen=CHANGES + 1)

    def add(self, monotonic_s: float, value: float) -> None:
        """Record the next reading."""
        if value == self._value:
            return
        if self._value is not None:  # else the time of this value's own change is not known
            self._changes_s.append(monotonic_s)
        self._value = value
        if len(self._changes_s) > CHANGES:
            period_s = (monotonic_s - self._changes_s[0]) / CHANGES
            self.seconds = min(period_s, self.seconds or period_s)
