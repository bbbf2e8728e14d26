"""A counter's readings, and how the edges of windows cut its steps."""

from dataclasses import dataclass

import numpy as np

from llem_core import energy
from llem_integrator.energy.gaps import local_gaps_ms
from llem_integrator.series.samples import Counts, Flags, Floats, Times, Values
from llem_integrator.series.spans import Index, Spans


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """Readings (n,) of one counter of joules, each at the time it was read; `unix_ms` ascend.

    A hardware counter misses nothing between two readings. Of one that the exporter integrated, `covered_ms`
    (n,) says what the step that ends at each reading covers, and `reset` (n,) whether it was reset in it; its
    samples were `interval_ms` apart. Values may trail the truth by `lag_ms`, one for all windows or one for
    each, and their times be off by `blur_ms` (n,). `unread` (n,) counts the readings since the one before
    that are not held here, and `hole_ms` (n,) is the longest gap among their steps. `power_joules` (n,) is
    the energy by power readings in each step, None if there are none. What a gap is at the edges follows
    from the times of `scrapes`, unless `max_gap_ms` is given.
    """

    unix_ms: Times
    joules: Values
    covered_ms: Floats | None = None
    reset: Flags | None = None
    interval_ms: float = 0.0
    lag_ms: float | Floats = energy.SENSOR_LAG_SECONDS * 1000
    blur_ms: float | Floats = 0.0
    unread: Counts | None = None
    hole_ms: Floats | None = None
    power_joules: Floats | None = None
    max_gap_ms: float | None = None
    scrapes: tuple[Times, ...] = ()

    def max_gaps_ms(self, index: Index) -> Floats:
        """Return the longest steps (k,) that are no gaps, where the readings `index` (k,) end steps."""
        if self.max_gap_ms is not None:
            return np.full(len(index), self.max_gap_ms)
        longest = np.zeros(len(index))
        for unix_ms in self.scrapes or (self.unix_ms,):
            if len(unix_ms) > 1:
                at = np.clip(np.searchsorted(unix_ms, self.unix_ms[index]), 1, len(unix_ms) - 1)
                longest = np.maximum(longest, local_gaps_ms(unix_ms, at))
        return longest


class CounterCut:
    """Where windows cut a counter's steps. A step has the index of the reading that ends it.

    Readings [low, high) are in reach of a window, [first, stop) inside it. An edge is interpolated in a step
    that is not too long: `head` and `tail`, or `same` where one step holds both edges.
    """

    def __init__(self, counter: Counter, spans: Spans, margin_us: int) -> None:
        self.times_us = times_us = counter.unix_ms * 1000
        self.spans, self.margin_us = spans, margin_us
        start_us, end_us = spans.start_us, spans.end_us
        self.low = np.searchsorted(times_us, start_us - margin_us, "left")
        self.high = np.searchsorted(times_us, end_us + margin_us, "right")
        self.first = np.searchsorted(times_us, start_us, "left")
        self.stop = np.searchsorted(times_us, end_us, "right")
        self.steps_ms = np.diff(times_us, prepend=times_us[:1]) / 1000.0
        last = len(times_us) - 1
        self.into_first, self.into_stop = np.minimum(self.first, last), np.minimum(self.stop, last)
        self.inside = self.stop > self.first
        start_gap_ms = counter.max_gaps_ms(self.into_first)
        # A reading beyond the margin says nothing of the interval in the window.
        self.max_gap_ms = np.where(self.first < self.high, start_gap_ms, np.nan)
        end_gap_ms = counter.max_gaps_ms(self.into_stop)
        head = self._spanned(self.first, self.into_first, start_gap_ms)
        head &= times_us[self.into_first] > start_us
        tail = self._spanned(self.stop, self.into_stop, end_gap_ms) & (times_us[self.stop - 1] < end_us)
        self.same = head & ~self.inside
        self.head, self.tail = head & self.inside, tail & self.inside
        self.before_start = self._share(self.into_first, start_us)
        self.before_end = self._share(self.into_stop, end_us)

    def take(self, counter: Counter, index: Index) -> "CounterCut":
        """Return the cut of some of the windows."""
        return (
            self
            if len(index) == len(self.spans)
            else CounterCut(counter, self.spans.take(index), self.margin_us)
        )

    def _spanned(self, index: Index, step: Index, max_gap_ms: Floats) -> Flags:
        return (self.low < index) & (index < self.high) & (self.steps_ms[step] <= max_gap_ms)

    def _share(self, step: Index, edge_us: Times) -> Floats:
        """Return how far through a step an edge lies, in whole microseconds."""
        before_us = self.times_us[np.maximum(step - 1, 0)]
        share: Floats = (edge_us - before_us) / np.maximum(self.times_us[step] - before_us, 1)
        return share

    def parts(self, steps: Floats) -> tuple[Floats, Floats]:
        """Return what the cut steps (n,) hold of each window (w,), at its start and at its end."""
        head = steps[self.into_first] * (1 - self.before_start) * self.head
        both = steps[self.into_first] * (self.before_end - self.before_start) * self.same
        return head + both, steps[self.into_stop] * self.before_end * self.tail

    def whole(self, running: Floats) -> Floats:
        """Return what a column (n,) rose by from the first to the last reading inside."""
        return (running[self.stop - 1] - running[self.into_first]) * self.inside

    def touching(self, steps: Flags) -> Counts:
        """Return how many of the marked steps (n,) lie at least in part in each window (w,)."""
        first = np.maximum(np.searchsorted(self.times_us, self.spans.start_us, "right"), self.low + 1)
        last = np.minimum(np.searchsorted(self.times_us, self.spans.end_us, "left"), self.high - 1)
        running = np.concatenate([[0], np.cumsum(steps)])
        first = np.minimum(first, len(steps))
        count: Counts = running[np.maximum(last + 1, first)] - running[first]
        return count
