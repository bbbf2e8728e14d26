"""Samples reduced to what a plot can show: lowest, highest and mean in each of many equal columns of time."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.samples import Times, Values

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Grid:
    """`columns` equal parts of the time from `start_ms` to `end_ms`, in unix ms."""

    start_ms: float
    end_ms: float
    columns: int

    def column(self, unix_ms: Times) -> NDArray[np.int64]:
        """The column of each time (n,); below 0 or from `columns` on where it lies outside."""
        share = (unix_ms - self.start_ms) / (self.end_ms - self.start_ms)
        columns: NDArray[np.int64] = np.floor(share * self.columns).astype(np.int64)
        return columns

    def edges_ms(self) -> Values:
        """The columns' edges (columns + 1,) in unix ms."""
        return np.linspace(self.start_ms, self.end_ms, self.columns + 1)

    def overlap_ms(self, start_ms: float, end_ms: float) -> Values:
        """How much of each column (columns,) lies between two times."""
        edges = np.clip(self.edges_ms(), start_ms, max(start_ms, end_ms))
        return np.diff(edges)


@dataclass(frozen=True, slots=True)
class Points:
    """What is drawn: unix ms, lowest, highest and mean watts (n,); NaN where the line breaks."""

    unix_ms: Values
    low: Values
    high: Values
    mean: Values


@dataclass(slots=True)
class Envelope:
    """One GPU's samples on a grid, and where it has none.

    By column: watts, how many samples and the sum of their times; `ends` where the line ends after the
    column's samples; `gap_ms` without samples inside a window.
    """

    grid: Grid
    low: Values = field(init=False)
    high: Values = field(init=False)
    sums: Values = field(init=False)
    times: Values = field(init=False)
    counts: Values = field(init=False)
    gap_ms: Values = field(init=False)
    ends: Flags = field(init=False)

    def __post_init__(self) -> None:
        n = self.grid.columns
        self.low, self.high = np.full(n, np.inf), np.full(n, -np.inf)
        self.sums, self.times, self.counts, self.gap_ms = (np.zeros(n) for _ in range(4))
        self.ends = np.zeros(n, np.bool_)

    def add(self, unix_ms: Times, watts: Values) -> None:
        """Samples (n,), ascending in time; those outside the grid are left out."""
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
        """The line ends at the samples of these times."""
        columns = self.grid.column(unix_ms)
        self.ends[columns[(columns >= 0) & (columns < self.grid.columns)]] = True

    def points(self) -> Points:
        """The points to draw, one a column that has samples, and a break where the line ends."""
        used = np.flatnonzero(self.counts)
        # A line also ends in a column without samples that follows, not only in its own.
        ended = np.concatenate([[0], np.cumsum(self.ends)])
        breaks = 1 + np.flatnonzero(np.diff(ended[used]) > 0) if len(used) else used
        counts = self.counts[used]
        columns = (
            self.grid.start_ms + self.times[used] / counts,
            self.low[used],
            self.high[used],
            self.sums[used] / counts,
        )
        return Points(*(np.insert(column, breaks, np.nan) for column in columns))

    def gaps_ms(self) -> list[tuple[float, float]]:
        """Stretches without samples, to the column, in unix ms."""
        return _stretches(self.gap_ms > 0, self.grid)


def _stretches(flags: Flags, grid: Grid) -> list[tuple[float, float]]:
    edges = grid.edges_ms()
    padded = np.concatenate([[False], flags, [False]])
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    return [(float(edges[a]), float(edges[b])) for a, b in zip(changes[::2], changes[1::2], strict=True)]


def band(envelopes: "list[Envelope]") -> Points:
    """Several GPUs as one: the lowest and the highest of all, and the mean of their means."""
    n = envelopes[0].grid.columns
    low, high, sums, counts = np.full(n, np.inf), np.full(n, -np.inf), np.zeros(n), np.zeros(n)
    for one in envelopes:
        low, high = np.minimum(low, one.low), np.maximum(high, one.high)
        used = one.counts > 0
        sums[used] += one.sums[used] / one.counts[used]
        counts += used
    edges = envelopes[0].grid.edges_ms()
    with np.errstate(invalid="ignore"):
        mean = sums / np.where(counts > 0, counts, np.nan)
    # Only what nobody has a sample of is empty; columns narrower than the sample interval are skipped.
    used = counts > 0
    ended = np.concatenate(
        [[0], np.cumsum(np.all([one.ends | (one.counts == 0) for one in envelopes], axis=0) & used)]
    )
    at = np.flatnonzero(used)
    breaks = 1 + np.flatnonzero(np.diff(ended[at]) > 0) if len(at) else at
    columns = ((edges[:-1] + edges[1:]) / 2, low, high, mean)
    return Points(*(np.insert(column[at], breaks, np.nan) for column in columns))
