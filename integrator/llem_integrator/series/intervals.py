"""The sample interval that an exporter published, as a step function of time."""

from typing import Final

import numpy as np

from llem_core import energy
from llem_integrator.series.ranges import range_max
from llem_integrator.series.samples import STALE_MS, Flags, Floats, Times
from llem_integrator.series.spans import Spans

CONTEXT_MS: Final = 3_600_000
"""Unless the interval is published, a step is compared with the steps of the hour before and after it."""


class Intervals:
    """The sample interval that an exporter published: `interval_ms` (n,), scraped at `unix_ms` (n,)."""

    def __init__(self, unix_ms: Times, interval_ms: Floats) -> None:
        self.unix_ms, self.interval_ms = unix_ms, interval_ms
        self._is_constant = len(unix_ms) > 0 and not (
            np.any(np.diff(unix_ms) > STALE_MS) or np.any(np.diff(interval_ms))
        )

    def max_gaps_ms(self, unix_ms: Times) -> Floats | float:
        """Return the longest step that is no gap at each time (k,): one number if it is the same for all.

        It is NaN where nothing was published within 5 minutes, and between two scrapes that differ: the
        exporter restarted between them, and nobody knows when.
        """
        if not len(self.unix_ms) or not len(unix_ms):
            return np.nan
        reach = self.unix_ms[0] - STALE_MS <= unix_ms[0] and unix_ms[-1] <= self.unix_ms[-1] + STALE_MS
        if self._is_constant and reach:
            return energy.GAP_INTERVALS * float(self.interval_ms[0])
        first, last = np.searchsorted(self.unix_ms, [unix_ms[0] - STALE_MS, unix_ms[-1] + STALE_MS + 1])
        times_ms, interval_ms = self.unix_ms[first:last], self.interval_ms[first:last]
        if not len(times_ms):
            return np.nan
        after = np.searchsorted(times_ms, unix_ms, "left")
        before, after = np.maximum(after - 1, 0), np.minimum(after, len(times_ms) - 1)
        near_before = (times_ms[before] <= unix_ms) & (unix_ms - times_ms[before] <= STALE_MS)
        near_after = (times_ms[after] >= unix_ms) & (times_ms[after] - unix_ms <= STALE_MS)
        found = np.where(near_before, interval_ms[before], np.where(near_after, interval_ms[after], np.nan))
        changed: Flags = near_before & near_after & (interval_ms[before] != interval_ms[after])
        return energy.GAP_INTERVALS * np.where(changed, np.nan, found)

    def longest(self, spans: Spans) -> Floats:
        """Return the longest interval (w,) in each window or within 5 minutes of it, NaN for none."""
        first = np.searchsorted(self.unix_ms, spans.start_ms - STALE_MS)
        stop = np.searchsorted(self.unix_ms, spans.end_ms + STALE_MS, "right")
        return range_max(self.interval_ms, first, stop, np.nan)
