"""Absolute deadlines on the wall clock's grid, kept by the monotonic clock."""

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

MAX_SLEW_SECONDS: Final = 0.001
"""What one observation may move the mapping by, short of a step: 0.1 % of the second between two."""

MAX_STEP_SECONDS: Final = 0.05


class Mapping(NamedTuple):
    """Wall clock minus monotonic clock [s], and how many steps of the wall clock are in it."""

    offset_s: float
    steps: int


class WallClock:
    """The monotonic clock, read as unix time.

    It moves evenly whatever is done to the wall clock, until `observe` looks: a difference of half a
    sample interval or more is a step, taken over at once and counted; a smaller one is slewed in.
    `mapping` is replaced as a whole, so that any thread reads offset and steps of one moment. `stepped_s`
    is the sum of the steps.
    """

    def __init__(
        self,
        interval_ms: int,
        unix_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic_s: Final = monotonic_s
        self._unix_s = unix_s
        self._step_s = min(interval_ms / 2000, MAX_STEP_SECONDS)
        self.mapping = Mapping(self._measure(), 0)
        self.stepped_s = 0.0

    def now_ms(self) -> int:
        """The mapped time in whole unix milliseconds, rounded down."""
        return int((self.monotonic_s() + self.mapping.offset_s) * 1000)

    def observe(self) -> float:
        """Compare with the wall clock, once a second; returns the step taken over [s], mostly 0."""
        offset_s, steps = self.mapping
        change_s = self._measure() - offset_s
        if abs(change_s) >= self._step_s:
            self.stepped_s += change_s
            self.mapping = Mapping(offset_s + change_s, steps + 1)
            return change_s
        slewed_s = max(-MAX_SLEW_SECONDS, min(MAX_SLEW_SECONDS, change_s))
        self.mapping = Mapping(offset_s + slewed_s, steps)
        return 0.0

    def _measure(self) -> float:
        """Wall minus monotonic [s]: of three tries the one least disturbed between its two readings."""
        tries: list[tuple[float, float]] = []
        for _ in range(3):
            before_s = self.monotonic_s()
            unix_s = self._unix_s()
            after_s = self.monotonic_s()
            tries.append((after_s - before_s, unix_s - (before_s + after_s) / 2))
        return min(tries)[1]


class Tick(NamedTuple):
    """A deadline: unix milliseconds on the grid, and the same instant on the monotonic clock [s]."""

    unix_ms: int
    deadline_s: float


class Ticker(Iterator[Tick]):
    """Sleeps until the next tick and yields it, without end; ticks that have passed are left out.

    `next_ms` is the tick that it sleeps towards: whatever is read from now on is not before it.
    """

    def __init__(
        self, clock: WallClock, interval_ms: int, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._interval_ms = interval_ms
        self._sleep = sleep
        self.next_ms = 0

    def __next__(self) -> Tick:
        clock = self._clock
        # Read the offset once: another thread replaces the mapping when the clock steps.
        offset_s = clock.mapping.offset_s
        now_ms = int((clock.monotonic_s() + offset_s) * 1000)
        next_ms = (now_ms // self._interval_ms + 1) * self._interval_ms
        if next_ms == self.next_ms:  # woken a hair too early: that tick was this one
            next_ms += self._interval_ms
        self.next_ms = next_ms
        deadline_s = next_ms / 1000 - offset_s
        self._sleep(max(0.0, deadline_s - clock.monotonic_s()))
        return Tick(next_ms, deadline_s)
