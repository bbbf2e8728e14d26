"""Reject impossible values of a hardware energy counter: decreases, jumps, and a counter that is stuck."""

from collections.abc import Callable
from typing import Final

from llem_core.energy import ASSUMED_LIMIT_WATTS, LATE_SECONDS, may_be_late
from llem_core.errors import DeviceError
from llem_measure.sampling.devices import EnergyCounter
from llem_measure.sampling.validation import CEILING_WATTS, TIMES_MODULE_LIMIT

COUNTER_FELL: Final = "COUNTER_FELL"
COUNTER_JUMPED: Final = "COUNTER_JUMPED"
COUNTER_STUCK: Final = "COUNTER_STUCK"

STUCK_SECONDS: Final = 10.0
STUCK_PERIODS: Final = 3
STUCK_JOULES: Final = 10.0
"""A counter is stuck if it has not increased for 10 s and 3 update periods, in which power adds up to over
10 J."""


def is_stuck(unchanged_s: float, power_joules: float, update_s: float | None) -> bool:
    """Return whether the counter is stuck.

    It is stuck if it has not increased for `unchanged_s`, although the GPU used energy. 10 J are at least ten
    steps of any known counter. The counter of a GPU in deep idle, at 3 W, increases.
    """
    return (
        unchanged_s >= max(STUCK_SECONDS, STUCK_PERIODS * (update_s or 0.0)) and power_joules > STUCK_JOULES
    )


class CounterFilter:
    """Reads `counter` and raises DeviceError for values that are late or wrong.

    A small decrease is a late value (`llem_core.energy.may_be_late`). After another decrease, the filter
    waits for the next value. If that value has increased by a plausible amount, the counter was reset.
    `has_risen` is True once the counter has changed. `stuck` is True while it is stuck.
    """

    def __init__(
        self,
        counter: EnergyCounter,
        limit_watts: Callable[[], float | None],
        power_joules: Callable[[], float],
        update_s: Callable[[], float | None],
        monotonic_s: Callable[[], float],
    ) -> None:
        self.open = counter.open
        self.has_risen = self.stuck = False
        self._counter, self._limit_watts, self._monotonic_s = counter, limit_watts, monotonic_s
        self._power_joules, self._update_s = power_joules, update_s
        self._newest: tuple[float, float] | None = None
        self._fallen: tuple[float, float] | None = None
        self._unchanged: tuple[float, float] = (0.0, 0.0)

    def read_joules(self, unix_ms: int) -> float:
        """Return the counter's value. Raises DeviceError."""
        joules, now_s = self._counter.read_joules(unix_ms), self._monotonic_s()
        if self._newest is not None and not self._is_restart(now_s, joules):
            self._check(now_s, joules, *self._newest)
        if self._newest is None or joules != self._newest[1]:
            self.has_risen = self._newest is not None
            self._unchanged, self.stuck = (now_s, self._power_joules()), False
        elif now_s - self._unchanged[0] >= STUCK_SECONDS:
            self._check_stuck(now_s)
        self._newest, self._fallen = (now_s, joules), None
        return joules

    @property
    def was_read(self) -> bool:
        """Whether the counter was read once."""
        return self._newest is not None

    def _is_restart(self, now_s: float, joules: float) -> bool:
        """Return whether the counter was reset: it increases from the value to which it had decreased."""
        if self._fallen is None:
            return False
        fallen_s, fallen_joules = self._fallen
        return 0 < joules - fallen_joules <= self._most_joules(now_s - fallen_s)

    def _check(self, now_s: float, joules: float, newest_s: float, newest_joules: float) -> None:
        rise = joules - newest_joules
        if rise < 0:
            late = may_be_late(newest_joules, joules, now_s - newest_s, self._limit_watts())
            self._fallen = None if late else (now_s, joules)
            reading = (
                ", too little for a reset; the reading is discarded"
                if late
                else "; the reading is discarded until the counter rises from there, which is a reset"
            )
            raise DeviceError(f"the counter decreased by {-rise:g} J{reading}", COUNTER_FELL)
        limit = self._limit_watts()
        most = (LATE_SECONDS + now_s - newest_s) * (TIMES_MODULE_LIMIT * limit if limit else CEILING_WATTS)
        if rise > most:
            self._fallen = None
            text = f"the counter rose by {rise:g} J in {now_s - newest_s:.3g} s, more than a GPU can use"
            raise DeviceError(text, COUNTER_JUMPED)

    def _check_stuck(self, now_s: float) -> None:
        since_s, power_joules = self._unchanged
        used_joules = self._power_joules() - power_joules
        self.stuck = is_stuck(now_s - since_s, used_joules, self._update_s())
        if self.stuck:
            text = (
                f"the counter has not changed for {now_s - since_s:.0f} s, although the power samples "
                f"add up to {used_joules:.0f} J; it is not published until it changes"
            )
            raise DeviceError(text, COUNTER_STUCK)

    def _most_joules(self, elapsed_s: float) -> float:
        """Return the most energy that the GPU can use in this time, plus an allowance for a late value."""
        return (LATE_SECONDS + elapsed_s) * (self._limit_watts() or ASSUMED_LIMIT_WATTS)
