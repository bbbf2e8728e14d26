"""An energy counter that rises as a GPU's can: what falls or jumps is none, unless it is a restart."""

from collections.abc import Callable
from typing import Final

from llem_core.energy import LATE_SECONDS
from llem_core.errors import DeviceError
from llem_measure.sampling.devices import EnergyCounter

COUNTER_FELL: Final = "COUNTER_FELL"
COUNTER_JUMPED: Final = "COUNTER_JUMPED"
ASSUMED_LIMIT_WATTS: Final = 1000.0
"""Where no limit is known, a late value is told from a restart by this one, and no jump is seen."""

TIMES_LIMIT: Final = 4.0
"""So many times the limit no counter rises by, a module's neither, which counts its CPU, too."""


class RisingCounter:
    """`counter`, without values that are late or wrong.

    A fall of less than the limit x 2 s is no restart, unless it is to below half: a driver that is loaded
    anew counts from 0. A deeper one is a restart once the next reading has risen from there, by no more
    than a GPU can draw: a bad read does not. Published, it would read as a reset and add the whole counter.
    """

    def __init__(
        self,
        counter: EnergyCounter,
        limit_watts: Callable[[], float | None],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._counter, self._limit_watts, self._monotonic_s = counter, limit_watts, monotonic_s
        self._newest: tuple[float, float] | None = None
        self._fallen: tuple[float, float] | None = None

    def read_joules(self, unix_ms: int) -> float:
        joules, now_s = self._counter.read_joules(unix_ms), self._monotonic_s()
        if self._newest is not None and not self._is_restart(now_s, joules):
            self._check(now_s, joules, *self._newest)
        self._newest, self._fallen = (now_s, joules), None
        return joules

    def reopen(self) -> None:
        self._counter.reopen()

    def _is_restart(self, now_s: float, joules: float) -> bool:
        """Whether it goes on from where it fell to."""
        if self._fallen is None:
            return False
        fallen_s, fallen_joules = self._fallen
        return 0 < joules - fallen_joules <= self._most_joules(now_s - fallen_s)

    def _check(self, now_s: float, joules: float, newest_s: float, newest_joules: float) -> None:
        """Raises DeviceError for a value that cannot follow the newest."""
        rise = joules - newest_joules
        if rise < 0:
            late = -rise < self._most_joules(0) and joules > newest_joules / 2
            self._fallen = None if late else (now_s, joules)
            what = "which no restart does" if late else "a restart if it rises from there"
            raise DeviceError(f"it fell by {-rise:g} J, {what}", COUNTER_FELL)
        if self._limit_watts() and rise > TIMES_LIMIT * self._most_joules(now_s - newest_s):
            self._fallen = None
            text = f"it rose by {rise:g} J in {now_s - newest_s:.3g} s, more than a GPU can draw"
            raise DeviceError(text, COUNTER_JUMPED)

    def _most_joules(self, elapsed_s: float) -> float:
        """What a GPU draws in that time at most, and what a value may be late by."""
        return (LATE_SECONDS + elapsed_s) * (self._limit_watts() or ASSUMED_LIMIT_WATTS)
