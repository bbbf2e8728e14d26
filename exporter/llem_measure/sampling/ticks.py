"""Deadlines on a grid of the wall clock, kept by the monotonic clock."""

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

MAX_SLEW_SECONDS: Final = 0.001
"""The most that an observation, once a second, moves the mapping if the wall clock was not stepped."""

MAX_STEP_SECONDS: Final = 0.05


class Mapping(NamedTuple):
    """The wall clock minus the monotonic clock [s], and the number of steps of the wall clock so far."""

    offset_s: float
    steps: int


class WallClock:
    """The monotonic clock, read as unix time.

    It runs evenly until `observe` compares it with the wall clock. A difference of half a sample interval or
    more is a step: it is applied at once and counted. A smaller difference is slewed in. `mapping` is
    replaced as a whole, so that any thread reads a consistent pair. `stepped_s` is the sum of all steps.
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
        """Return the mapped time in whole unix milliseconds, rounded down."""
        return int((self.monotonic_s() + self.mapping.offset_s) * 1000)

    def observe(self) -> float:
        """Compare with the wall clock; call this once a second.

        Returns the step that was applied [s], usually 0.
        """
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
        """Return wall minus monotonic time [s].

        Of three tries, take the one with the shortest interruption.
        """
        tries: list[tuple[float, float]] = []
        for _ in range(3):
            before_s = self.monotonic_s()
            unix_s = self._unix_s()
            after_s = self.monotonic_s()
            tries.append((after_s - before_s, unix_s - (before_s + after_s) / 2))
        return min(tries)[1]


class Tick(NamedTuple):
    """A deadline: unix milliseconds on the grid, and the same instant on the monotonic clock [s]."""

    unix_ms: float
    deadline_s: float


class Ticker(Iterator[Tick]):
    """Sleeps until the next tick and returns it. Ticks that have passed are skipped.

    It ends when `sleep` returns True, as threading.Event.wait() does when the event is set.
    """

    def __init__(
        self, clock: WallClock, interval_ms: int, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock, self._interval_ms, self._sleep = clock, interval_ms, sleep
        self._last_ms = 0

    def now(self) -> Tick:
        """Return a tick for a reading at once, which need not be on the grid."""
        now_s = self._clock.monotonic_s()
        return Tick((now_s + self._clock.mapping.offset_s) * 1000, now_s)

    def __next__(self) -> Tick:
        clock = self._clock
        # Read the offset once: another thread replaces the mapping when the clock steps.
        offset_s = clock.mapping.offset_s
        now_ms = int((clock.monotonic_s() + offset_s) * 1000)
        tick_ms = (now_ms // self._interval_ms + 1) * self._interval_ms
        if tick_ms == self._last_ms:  # the sleep ended slightly early, and this tick was already returned
            tick_ms += self._interval_ms
        self._last_ms = tick_ms
        deadline_s = tick_ms / 1000 - offset_s
        if self._sleep(max(0.0, deadline_s - clock.monotonic_s())) is True:
            raise StopIteration
        return Tick(tick_ms, deadline_s)
