"""Power that no GPU draws: a failing sensor still returns values, which must not be integrated."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from llem_integrator.series.samples import STALE_MS, Floats, Series, Times
from llem_integrator.series.table import CEILING_WATTS, LIMIT, TIMES_LIMIT, Table


class PowerCeiling:
    """The power limits of one GPU: `limit_watts` (n,), scraped at `unix_ms` (n,)."""

    def __init__(self, unix_ms: Times, limit_watts: Floats) -> None:
        self.unix_ms, self.limit_watts = unix_ms, limit_watts
        self._always_possible_watts = min(CEILING_WATTS, TIMES_LIMIT * limit_watts.min(initial=np.inf))

    def without_impossible(self, series: Series) -> Series:
        """Return power samples without those above the ceiling, which count as bad samples."""
        if series.values.max(initial=0.0) <= self._always_possible_watts:
            return series
        impossible = series.values > self._most_watts(series.unix_ms)
        if not impossible.any():
            return series
        bad_ms = np.append(series.bad_ms, series.unix_ms[impossible])
        unix_ms, values = series.unix_ms[~impossible], series.values[~impossible]
        return replace(series, unix_ms=unix_ms, values=values, bad_ms=bad_ms)

    def _most_watts(self, unix_ms: Times) -> Floats:
        """Return the ceiling (n,) at each time, by the higher of the limits scraped before and after."""
        if not len(self.unix_ms):
            return np.full(len(unix_ms), CEILING_WATTS)
        after = np.searchsorted(self.unix_ms, unix_ms)
        found = np.zeros(len(unix_ms))
        between = (after > 0) & (after < len(self.unix_ms))  # of a thinned table, the rows are far apart
        for at in (np.maximum(after - 1, 0), np.minimum(after, len(self.unix_ms) - 1)):
            near = between | (np.abs(self.unix_ms[at] - unix_ms) <= STALE_MS)
            found = np.maximum(found, np.where(near, self.limit_watts[at], 0.0))
        return np.where(found > 0, TIMES_LIMIT * found, CEILING_WATTS)


NO_LIMIT: Final = PowerCeiling(np.zeros(0, np.int64), np.zeros(0))
"""Nothing is known of the limit."""


def ceiling_of(tables: Sequence[Table]) -> PowerCeiling:
    """Return the ceiling by the limits that were scraped of one GPU."""
    times = [np.zeros(0, np.int64), *(table.unix_ms[table.has(LIMIT)] for table in tables)]
    limits = [
        np.zeros(0),
        *(table.columns[LIMIT][table.has(LIMIT)] for table in tables if LIMIT in table.columns),
    ]
    unix_ms, limit_watts = np.concatenate(times), np.concatenate(limits)
    order = np.argsort(unix_ms, kind="stable")
    return PowerCeiling(unix_ms[order], limit_watts[order])
