"""The load in closed form: power and joules at any instant, as load.c has them."""

import math
from dataclasses import dataclass

_PERIODS_S = (1.7321, 3.7099, 7.3117, 23.7171)


@dataclass(frozen=True, slots=True)
class Load:
    """A square wave plus a sine: high_watts in the first `duty` of each cycle, low_watts after it.

    t counts seconds from the driver's origin; the square wave is at cycle t / period_s + phase, the sine is
    sine_watts * sin(2 pi t / sine_period_s + sine_phase).
    """

    low_watts: float = 120.0
    high_watts: float = 520.0
    duty: float = 0.4
    period_s: float = 1.7321
    phase: float = 0.0
    sine_watts: float = 40.0
    sine_period_s: float = 11.3
    sine_phase: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no GPU could draw."""
        if min(self.low_watts, self.high_watts) - abs(self.sine_watts) < 0:
            raise ValueError(f"power would fall below 0 W: {self}")
        if not (0 <= self.duty <= 1 and self.period_s > 0 and self.sine_period_s > 0):
            raise ValueError(f"duty must lie in [0, 1] and periods above 0: {self}")

    def watts(self, t: float) -> float:
        """Power at t [s]."""
        cycles = t / self.period_s + self.phase
        square = self.high_watts if cycles - math.floor(cycles) < self.duty else self.low_watts
        return square + self.sine_watts * math.sin(2 * math.pi * t / self.sine_period_s + self.sine_phase)

    def joules(self, start: float, end: float) -> float:
        """Integral of the power over [start, end] [s]."""
        swing = self.high_watts - self.low_watts
        return math.fsum(
            (
                self.low_watts * (end - start),
                swing * (self._high_s(end) - self._high_s(start)),
                # cos a - cos b as a product: the difference of two near cosines would lose its digits.
                self._sine_joules(start, end),
            )
        )

    def _high_s(self, t: float) -> float:
        cycles = t / self.period_s + self.phase
        whole = math.floor(cycles)
        return (whole * self.duty + min(cycles - whole, self.duty)) * self.period_s

    def _sine_joules(self, start: float, end: float) -> float:
        turn_s = self.sine_period_s / (2 * math.pi)
        middle = (start + end) / 2 / turn_s + self.sine_phase
        return self.sine_watts * 2 * turn_s * math.sin(middle) * math.sin((end - start) / 2 / turn_s)


def constant(watts: float) -> Load:
    """A load that never changes."""
    return Load(low_watts=watts, high_watts=watts, sine_watts=0.0)


def default_load(index: int) -> Load:
    """The load of GPU `index`: four periods over two GPUs each, no two in step."""
    golden = 0.6180339887
    return Load(
        period_s=_PERIODS_S[index // 2 % len(_PERIODS_S)],
        phase=index * golden % 1,
        sine_phase=2 * math.pi * (index * golden * golden % 1),
    )
