"""The energy between two times, from two readings of a hardware energy counter."""

from dataclasses import dataclass
from math import inf
from typing import Final

from llem_core.energy import SENSOR_LAG_SECONDS, counter_step, may_be_late

COUNTER_STEP_J: Final = 0.001
"""NVML counts whole mJ, rounded down, so the error of a difference is less than 1 mJ."""


@dataclass(frozen=True, slots=True)
class CounterReading:
    """A counter value in joules, read at an unknown time from `begun_s` to `done_s` [s, same clock]."""

    joules: float
    begun_s: float
    done_s: float

    @property
    def middle_s(self) -> float:
        return (self.begun_s + self.done_s) / 2


@dataclass(frozen=True, slots=True)
class CounterEnergy:
    """Joules, or None if the counter did not change. `high_j` is infinite if there is no upper bound."""

    joules: float | None
    low_j: float
    high_j: float
    reset: bool = False
    late: bool = False


def counter_energy(
    first: CounterReading, last: CounterReading, window_s: tuple[float, float], limit_watts: float | None
) -> CounterEnergy:
    """Return the energy of a window from one reading at its start and one at its end.

    A counter may lag by its update period u, which is not known; 0.5 s is assumed. The difference of the two
    readings covers a time range whose start and end are each known only to within [begun - u, done]. The
    error is at most the power limit times the uncertainty of both ends. If the counter decreased, the second
    value is out of date, or the counter was reset (`llem_core.energy.may_be_late`).
    """
    start_s, end_s = window_s
    watts = inf if limit_watts is None else limit_watts
    fell = last.joules < first.joules
    late = fell and may_be_late(first.joules, last.joules, last.middle_s - first.middle_s, limit_watts)
    reset = fell and not late
    step_j = 0.0 if late else counter_step(first.joules, last.joules)
    before_end_s = max(0.0, end_s - last.begun_s) + SENSOR_LAG_SECONDS
    after_end_s = max(0.0, last.done_s - end_s)
    before_start_s = max(0.0, start_s - first.begun_s) + SENSOR_LAG_SECONDS
    after_start_s = max(0.0, first.done_s - start_s)
    # A reset may have lost the energy of the whole window. The energy after the reset is all within it.
    too_much_s = after_end_s + (0.0 if reset else before_start_s)
    too_little_s = before_end_s + after_start_s + (end_s - start_s if reset else 0.0)
    return CounterEnergy(
        joules=step_j if step_j > 0 else None,
        low_j=max(0.0, step_j - watts * too_much_s - COUNTER_STEP_J) if too_much_s else step_j,
        high_j=step_j + watts * too_little_s + COUNTER_STEP_J,
        reset=reset,
        late=late,
    )
