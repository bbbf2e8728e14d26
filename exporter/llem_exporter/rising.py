"""An energy counter that only rises: a value that falls is none, until it is seen to be a restart."""

from collections.abc import Callable
from typing import Final

from llem_core.energy import LATE_SECONDS
from llem_core.errors import DeviceError
from llem_exporter.devices import EnergyCounter

COUNTER_FELL: Final = "COUNTER_FELL"
ASSUMED_LIMIT_WATTS: Final = 1000.0
"""Where no limit is known, a late value is told from a restart by this one."""


class RisingCounter:
    """`counter`, without values that are late or wrong.

    A fall of less than the limit x 2 s is no restart, unless it is to below half: a driver that is loaded
    anew counts from 0. A deeper one is a restart once the next reading has risen from there, by no more
    than a GPU can draw: a bad read does not. Published, it would read as a reset and add the whole counter.
    """

    def __init__(self, counter: EnergyCounter, limit_watts: Callable[[], float | None]) -> None:
        self._counter, self._limit_watts = counter, limit_watts
        self._highest_joules = 0.0
        self._fallen: tuple[int, float] | None = None

    def read_joules(self, unix_ms: int) -> float:
        joules = self._counter.read_joules(unix_ms)
        fall = self._highest_joules - joules
        if fall > 0 and not self._goes_on_from_fall(unix_ms, joules):
            late = fall < self._most_joules(0) and joules > self._highest_joules / 2
            self._fallen = None if late else (unix_ms, joules)
            what = "which no restart does" if late else "a restart if it rises from there"
            raise DeviceError(f"it fell by {fall:g} J, {what}", COUNTER_FELL)
        self._highest_joules, self._fallen = joules, None
        return joules

    def reopen(self) -> None:
        self._counter.reopen()

    def _goes_on_from_fall(self, unix_ms: int, joules: float) -> bool:
        if self._fallen is None:
            return False
        fallen_ms, fallen_joules = self._fallen
        return 0 < joules - fallen_joules <= self._most_joules(max(0, unix_ms - fallen_ms))

    def _most_joules(self, elapsed_ms: int) -> float:
        """What a GPU draws in that time at most, and what a value may be late by."""
        return (LATE_SECONDS + elapsed_ms / 1000) * (self._limit_watts() or ASSUMED_LIMIT_WATTS)
