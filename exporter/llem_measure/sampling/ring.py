"""The newest samples of one GPU, in memory of a fixed size."""

import threading
from array import array
from bisect import bisect_right
from itertools import repeat
from math import nan
from typing import NamedTuple


class Samples(NamedTuple):
    """Samples of one GPU in ascending order of time: unix milliseconds, watts and joules.

    A value that was not read is NaN. `first` is the number of the first sample.
    """

    times_ms: "array[int] | array[float]"
    watts: "array[float]"
    joules: "array[float]"
    first: int = 0

    @property
    def numbers(self) -> range:
        """Return the numbers of the samples."""
        return range(self.first, self.first + len(self.times_ms))


class Ring:
    """The last `capacity` samples of one GPU, numbered from 0 in the order in which they were added.

    Times are whole milliseconds, or any if `exact_times`. One thread adds samples, others may read them.
    """

    def __init__(self, capacity: int, *, exact_times: bool = False) -> None:
        self.exact_times, self._capacity = exact_times, capacity
        self._times_ms: array[float] = array("d" if exact_times else "q", repeat(0, capacity))
        self._watts = array("d", repeat(nan, capacity))
        self._joules = array("d", repeat(nan, capacity))
        self._held = range(0)
        self._lock = threading.Lock()

    def append(self, unix_ms: float, watts: float | None, joules: float | None) -> None:
        """Add a sample that is newer than all held ones. A full ring drops its oldest sample."""
        number = self._held.stop
        slot = number % self._capacity
        with self._lock:
            self._times_ms[slot] = unix_ms
            self._watts[slot] = nan if watts is None else watts
            self._joules[slot] = nan if joules is None else joules
            self._held = range(max(self._held.start, number + 1 - self._capacity), number + 1)

    def clear(self) -> None:
        """Drop all held samples. The next sample may have any time; its number follows the last one."""
        self._held = range(self._held.stop, self._held.stop)

    def held_numbers(self) -> range:
        """Return the numbers of the held samples; it ends at the number of the next sample."""
        return self._held

    def number_after(self, unix_ms: float) -> int:
        """Return the number of the first sample after this time.

        If there is none in the ring, return the number that the next sample will get.
        """
        with self._lock:
            return self._held.start + bisect_right(self._held, unix_ms, key=self._time_ms)

    def copy(self, numbers: range) -> Samples:
        """Return those of these samples that are still in the ring."""
        with self._lock:
            first = max(numbers.start, self._held.start)
            end = max(first, min(numbers.stop, self._held.stop))
            columns = (self._times_ms, self._watts, self._joules)
            times_ms, watts, joules = (self._cut(column, first, end) for column in columns)
        return Samples(times_ms, watts, joules, first)

    def _time_ms(self, number: int) -> float:
        return self._times_ms[number % self._capacity]

    def _cut(self, column: "array[float]", first: int, end: int) -> "array[float]":
        if first == end:
            return column[:0]
        start, stop = first % self._capacity, end % self._capacity
        return column[start:stop] if start < stop else column[start:] + column[:stop]
