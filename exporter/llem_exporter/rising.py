"""An energy counter that only rises: a value that falls back a little is none, a restart is one."""

from collections.abc import Callable
from typing import Final

from llem_core.energy import LATE_SECONDS
from llem_core.errors import DeviceError
from llem_exporter.devices import EnergyCounter

COUNTER_FELL: Final = "COUNTER_FELL"
ASSUMED_LIMIT_WATTS: Final = 1000.0
"""Where no limit is known, a late value is told from a restart by this one."""


class RisingCounter:
    """`counter`, without values that are late.

    A fall of less than the limit x 2 s is no restart, unless it is to below half: a driver that is loaded
    anew counts from 0. Published, such a fall would read as a reset and add the whole counter.
    """

    def __init__(self, counter: EnergyCounter, limit_watts: Callable[[], float | None]) -> None:
        self._counter, self._limit_watts = counter, limit_watts
        self._highest_joules = 0.0

    def read_joules(self, unix_ms: int) -> float:
        joules = self._counter.read_joules(unix_ms)
        fall = self._highest_joules - joules
        deepest = LATE_SECONDS * (self._limit_watts() or ASSUMED_LIMIT_WATTS)
        if 0 < fall < deepest and joules > self._highest_joules / 2:
            text = f"it fell by {fall:g} J, which no restart does; it is read on from where it was"
            raise DeviceError(text, COUNTER_FELL)
        self._highest_joules = joules
        return joules

    def reopen(self) -> None:
        self._counter.reopen()
