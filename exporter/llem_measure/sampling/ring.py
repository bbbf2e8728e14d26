"""The ring: the newest samples of one GPU, in memory whose size is known at the start."""

from array import array
from bisect import bisect_right
from itertools import repeat
from math import nan
from typing import NamedTuple, TypeVar

Number = TypeVar("Number", int, float)


class Trace(NamedTuple):
    """Samples in ascending order: unix milliseconds, watts and joules (NaN where there is none).

    `first` is the number of the first one in its ring or, where there is none, of the next to come.
    """

    times_ms: "array[int]"
    watts: "array[float]"
    joules: "array[float]"
    first: int = 0


class Ring:
    """The last `capacity` samples of one GPU. Not thread-safe: its ledger holds the lock."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._times_ms = array("q", repeat(0, capacity))
        self._watts = array("d", repeat(nan, capacity))
        self._joules = array("d", repeat(nan, capacity))
        self._written = 0

    def __len__(self) -> int:
        return min(self._written, self._capacity)

    def append(self, unix_ms: int, watts: float | None, joules: float | None) -> None:
        """Add a sample that is newer than all before it; the oldest goes when the ring is full."""
        slot = self._written % self._capacity
        self._times_ms[slot] = unix_ms
        self._watts[slot] = nan if watts is None else watts
        self._joules[slot] = nan if joules is None else joules
        self._written += 1

    @property
    def oldest_number(self) -> int:
        """Samples are numbered from 0; this one is the oldest that is held."""
        return self._written - len(self)

    def number_after(self, unix_ms: int) -> int:
        """The number of the first sample after a time, be it held or yet to come."""
        held = range(self.oldest_number, self._written)
        return held.start + bisect_right(held, unix_ms, key=self._time_ms)

    def nth_ms(self, after_ms: int, count: int) -> int | None:
        """The time of the `count`th sample after a time; None where there are fewer."""
        number = self.number_after(after_ms) + count - 1
        return self._time_ms(number) if number < self._written else None

    def copy(self, after_ms: int, before_ms: int) -> Trace:
        """The samples with after_ms < time < before_ms."""
        first, end = self.number_after(after_ms), self.number_after(before_ms - 1)
        return Trace(
            self._cut(self._times_ms, first, end),
            self._cut(self._watts, first, end),
            self._cut(self._joules, first, end),
            first,
        )

    def _time_ms(self, number: int) -> int:
        return self._times_ms[number % self._capacity]

    def _cut(self, column: "array[Number]", first: int, end: int) -> "array[Number]":
        if first >= end:
            return column[:0]
        start, stop = first % self._capacity, end % self._capacity
        return column[start:stop] if start < stop else column[start:] + column[:stop]
