"""The energy between two instants, out of two readings of a hardware energy counter."""

from dataclasses import dataclass
from math import inf
from typing import Final

from llem_core.energy import LATE_SECONDS, SENSOR_LAG_SECONDS, counter_step

COUNTER_STEP_J: Final = 0.001
"""NVML counts whole mJ, rounded down: a difference of two values is off by less than one."""


@dataclass(frozen=True, slots=True)
class CounterReading:
    """A counter's joules, read at some instant from `begun_s` to `done_s` [s, any one clock]."""

    joules: float
    begun_s: float
    done_s: float

    @property
    def middle_s(self) -> float:
        return (self.begun_s + self.done_s) / 2


@dataclass(frozen=True, slots=True)
class CounterEnergy:
    """Joules, or None if the counter did not move. `high_j` is infinite if nothing bounds it."""

    joules: float | None
    low_j: float
    high_j: float
    reset: bool = False
    late: bool = False


def counter_energy(
    first: CounterReading, last: CounterReading, window_s: tuple[float, float], limit_watts: float | None
) -> CounterEnergy:
    """Return the energy of a window from one reading at its start and one at its end.

    A reading happens at some instant within its call, and a counter may lag by its update period u (0.5 s,
    since it is not known). So the counted energy is that from an instant in [begun - u, done] of the first
    reading to one in [begun - u, done] of the last. It differs from the window's by at most the limit times
    what lies between. A fall is a late value if it is less than the limit x 2 s, else a reset.
    """
    start_s, end_s = window_s
    watts = inf if limit_watts is None else limit_watts
    fall_j = first.joules - last.joules
    late = limit_watts is not None and 0 < fall_j < limit_watts * LATE_SECONDS
    reset = fall_j > 0 and not late
    step_j = 0.0 if late else counter_step(first.joules, last.joules)
    before_end_s = max(0.0, end_s - last.begun_s) + SENSOR_LAG_SECONDS
    after_end_s = max(0.0, last.done_s - end_s)
    before_start_s = max(0.0, start_s - first.begun_s) + SENSOR_LAG_SECONDS
    after_start_s = max(0.0, first.done_s - start_s)
    # A reset may have lost all of the window. What was counted after it is all the window's own.
    too_much_s = after_end_s + (0.0 if reset else before_start_s)
    too_little_s = before_end_s + after_start_s + (end_s - start_s if reset else 0.0)
    return CounterEnergy(
        joules=step_j if step_j > 0 else None,
        low_j=max(0.0, step_j - watts * too_much_s - COUNTER_STEP_J) if too_much_s else step_j,
        high_j=step_j + watts * too_little_s + COUNTER_STEP_J,
        reset=reset,
        late=late,
    )
