"""Samples reduced to the minimum, maximum and mean in each of many equal columns of time."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.samples import Times, Values


@dataclass(frozen=True, slots=True)
class Grid:
    """The time from `start_ms` to `end_ms`, in unix ms, divided into `columns` equal parts."""

    start_ms: float
    end_ms: float
    columns: int

    def column(self, unix_ms: Times) -> NDArray[np.int64]:
        """Return the column of each time (n,). It is below 0, or at least `columns`, for a time outside."""
        fraction = (unix_ms - self.start_ms) / (self.end_ms - self.start_ms)
        columns: NDArray[np.int64] = np.floor(fraction * self.columns).astype(np.int64)
        return columns

    def edges_ms(self) -> Values:
        """Return the edges of the columns (columns + 1,) in unix ms."""
        return np.linspace(self.start_ms, self.end_ms, self.columns + 1)

    def overlap_ms(self, start_ms: float, end_ms: float) -> Values:
        """Return how much of each column (columns,) is between two times."""
        return np.diff(np.clip(self.edges_ms(), start_ms, max(start_ms, end_ms)))


@dataclass(frozen=True, slots=True)
class Points:
    """The points of a line: unix ms, and minimum, maximum and mean watts (n,). NaN interrupts the line."""

    unix_ms: Values
    low: Values
    high: Values
    mean: Values


@dataclass(slots=True)
class Envelope:
    """The samples of one GPU on a grid.

    Each array has a value per column: the watts, the number of samples and the sum of their times. `ends`
    says whether the line is interrupted after the samples of the column. `gap_ms` is time without samples
    in a window.
    """

    grid: Grid
    low: Values = field(init=False)
    high: Values = field(init=False)
    sums: Values = field(init=False)
    times: Values = field(init=False)
    counts: Values = field(init=False)
    gap_ms: Values = field(init=False)
    ends: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        n = self.grid.columns
        self.low, self.high = np.full(n, np.inf), np.full(n, -np.inf)
        self.sums, self.times, self.counts, self.gap_ms = (np.zeros(n) for _ in range(4))
        self.ends = np.zeros(n, np.bool_)

    def add(self, unix_ms: Times, watts: Values) -> None:
        """Add samples (n,) in ascending order of time. Samples outside the grid are ignored."""
        columns = self.grid.column(unix_ms)
        inside = slice(*np.searchsorted(columns, [0, self.grid.columns]))
        columns, watts = columns[inside], watts[inside]
        if not len(columns):
            return
        firsts = np.flatnonzero(np.diff(columns, prepend=-1))
        at = columns[firsts]
        self.low[at] = np.minimum(self.low[at], np.minimum.reduceat(watts, firsts))
        self.high[at] = np.maximum(self.high[at], np.maximum.reduceat(watts, firsts))
        self.sums[at] += np.add.reduceat(watts, firsts)
        self.times[at] += np.add.reduceat(unix_ms[inside] - self.grid.start_ms, firsts)
        self.counts[at] += np.diff(firsts, append=len(columns))

    def end_after(self, unix_ms: Times) -> None:
        """Interrupt the line after the samples at these times."""
        columns = self.grid.column(unix_ms)
        self.ends[columns[(columns >= 0) & (columns < self.grid.columns)]] = True

    def points(self) -> Points:
        """Return a point for each column that has samples."""
        used = np.flatnonzero(self.counts)
        # The line also ends in a column without samples that follows.
        ended = np.concatenate([[0], np.cumsum(self.ends)])
        breaks = 1 + np.flatnonzero(np.diff(ended[used]) > 0)
        unix_ms = self.grid.start_ms + self.times[used] / self.counts[used]
        columns = unix_ms, self.low[used], self.high[used], self.sums[used] / self.counts[used]
        return Points(*(np.insert(column, breaks, np.nan) for column in columns))

    def gaps_ms(self) -> list[tuple[float, float]]:
        """Return the spans without samples, in unix ms, at the resolution of a column."""
        edges = self.grid.edges_ms()
        flags = np.concatenate([[False], self.gap_ms > 0, [False]])
        changes = np.flatnonzero(flags[1:] != flags[:-1]).tolist()
        return [(float(edges[a]), float(edges[b])) for a, b in zip(changes[::2], changes[1::2], strict=True)]
