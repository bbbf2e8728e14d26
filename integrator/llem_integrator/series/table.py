"""One target's scrapes of one GPU as a table: a row for each scrape, a column for each metric.

A long table is thinned as it grows: of regular scrapes far from every edge of a window, and from anything
that happened to a counter, only sums are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.energy import COUNTER_UNITS_PER_JOULE
from llem_integrator.series.samples import (
    STALE_MS,
    Counts,
    Flags,
    Floats,
    Series,
    Times,
    Values,
)
from llem_integrator.series.spans import distinct

ZEUS: Final = metrics.GPU_ZEUS_ENERGY.name
NVML: Final = metrics.GPU_NVML_ENERGY.name
SECONDS: Final = metrics.GPU_INTEGRATED.name
READ_S: Final = metrics.GPU_SAMPLE_TIMESTAMP.name
WATTS: Final = metrics.GPU_POWER.name
LIMIT: Final = metrics.GPU_POWER_LIMIT.name
PEAK: Final = metrics.GPU_POWER_PEAK.name
UPDATE_S: Final = metrics.GPU_ENERGY_UPDATE.name

MAX_SKEW_MS: Final = 5000
"""A reading whose time is further from that of the scrape has it from a clock that is off."""

_NOT_COUNTED: Final = frozenset((READ_S, WATTS, LIMIT, PEAK, UPDATE_S))

_OTHER_EXPORTER_MS: Final = 500.0
"""An exporter that integrated longer than the step by more than this is not the one of the reading before."""

TIMES_LIMIT: Final = 2.0
CEILING_WATTS: Final = 5000.0
"""As the exporter rejects its readings: above twice the limit, or where none is known, above this."""

MOST_ROWS: Final = 20_000
"""A table that has grown by so many rows is thinned."""

_BESIDE_ROWS: Final = 60
_BESIDE_MS: Final = 360_000
"""So much beside each edge is kept: what the local scrape interval and a reading that is missing need."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows (n,) of one label set, one for each scrape, ascending; a value that is missing is NaN.

    `skipped` (n,) counts the scrapes since the row before that were left out. For a row that has some,
    `covered_ms`, `power_joules` (of llem_gpu_power_watts) and `hole_ms` are sums, and the longest hole, over
    all steps since the row before; `watts` is the highest value since.
    """

    labels: Mapping[str, str]
    unix_ms: Times
    columns: Mapping[str, Values]
    skipped: Counts
    covered_ms: Floats
    power_joules: Floats
    hole_ms: Floats
    watts: Floats

    def __len__(self) -> int:
        return len(self.unix_ms)

    def has(self, name: str) -> Flags:
        """Return where (n,) a metric has a value."""
        return ~np.isnan(self.columns[name]) if name in self.columns else np.zeros(len(self), np.bool_)

    def column(self, name: str) -> Values:
        """Return the values (n,) of a metric."""
        return self.columns[name] if name in self.columns else np.full(len(self), np.nan)

    def take(self, rows: Counts) -> "Table":
        """Return some of the rows."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        sums = (self.covered_ms[rows], self.power_joules[rows], self.hole_ms[rows], self.watts[rows])
        return Table(self.labels, self.unix_ms[rows], columns, self.skipped[rows], *sums)

    def read_ms(self) -> tuple[Times, Flags, Flags]:
        """Return when each row was read, whether the exporter says so, and whether its clock is off.

        Without llem_gpu_sample_timestamp_seconds, that is the time of the scrape.
        """
        known = self.has(READ_S)
        own_ms = np.rint(np.where(known, self.column(READ_S), 0.0) * 1000).astype(np.int64)
        skewed = known & (np.abs(own_ms - self.unix_ms) > MAX_SKEW_MS) & self._is_new()
        known = known & ~skewed
        return np.where(known, own_ms, self.unix_ms), known, skewed

    def distinct_readings(self) -> Flags:
        """Return which rows (n,) are readings of their own: a page may show what was read long ago.

        While a GPU cannot be read, its counters stay on the page; its power and the reading's time vanish.
        """
        known = self.has(READ_S)
        if WATTS in self.columns:
            stale = ~self.has(WATTS) & ~known & np.maximum.accumulate(known)
            return np.where(known, self._is_new(), ~stale)
        same = np.append(False, np.ones(max(0, len(self) - 1), np.bool_))[: len(self)]
        for name in self.columns.keys() & {ZEUS, NVML, SECONDS}:
            column = self.columns[name]
            same[1:] &= (column[1:] == column[:-1]) | (np.isnan(column[1:]) & np.isnan(column[:-1]))
        stale = same & np.maximum.accumulate(known) if len(self) else same
        return np.where(known, self._is_new(), ~stale)

    def _is_new(self) -> Flags:
        read_s = self.column(READ_S)
        new = np.ones(len(self), np.bool_)
        known = np.flatnonzero(~np.isnan(read_s))
        new[known[1:]] = read_s[known[1:]] != read_s[known[:-1]]
        return new


def table_of(labels: Mapping[str, str], series: Mapping[str, Series]) -> Table:
    """Return the table of series with the same labels, by the names of their metrics."""
    unix_ms = distinct(np.concatenate([one.unix_ms for one in series.values()]))
    columns: dict[str, Values] = {}
    for name, one in series.items():
        if len(one) == len(unix_ms):
            columns[name] = one.values
        else:
            columns[name] = np.full(len(unix_ms), np.nan)
            columns[name][np.searchsorted(unix_ms, one.unix_ms)] = one.values
    zeros = np.zeros(len(unix_ms))
    watts = columns.get(WATTS, np.full(len(unix_ms), np.nan))
    if WATTS in columns:
        watts = columns[WATTS] = without_impossible(watts, columns.get(LIMIT, np.full(len(unix_ms), np.nan)))
    return Table(labels, unix_ms, columns, zeros.astype(np.int64), zeros, zeros, zeros, watts)


def without_impossible(watts: Values, limit_watts: Values) -> Values:
    """Return power (n,) with NaN for what no GPU draws: above twice its limit, or above 5 kW without one."""
    with np.errstate(invalid="ignore"):
        most = np.where(limit_watts > 0, TIMES_LIMIT * limit_watts, CEILING_WATTS)
        possible: Values = np.where(watts <= most, watts, np.nan)
    return possible


def joined(tables: Sequence[Table]) -> Table:
    """Return tables of one label set, which follow each other, as one."""
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns = {name: np.concatenate([table.column(name) for table in tables]) for name in names}
    rest = (
        np.concatenate([getattr(table, name) for table in tables])
        for name in ("skipped", "covered_ms", "power_joules", "hole_ms", "watts")
    )
    return Table(tables[-1].labels, np.concatenate([table.unix_ms for table in tables]), columns, *rest)


def integrated_steps(unix_ms: Times, units: Values, seconds: Values) -> tuple[Floats, Floats, Flags]:
    """Return what each step (n,) of the exporter's own counter rose by, and the milliseconds that it covers.

    Also, whether the counter was reset in it: either column shows that, and then both count from 0.
    """
    risen, seconds_risen = np.diff(units, prepend=units[:1]), np.diff(seconds, prepend=seconds[:1])
    reset = (risen < 0) | (seconds_risen < 0)
    covered_ms = np.rint(np.where(reset, seconds, seconds_risen) * 1000)
    steps_ms = np.diff(unix_ms, prepend=unix_ms[:1]).astype(np.float64)
    # Who integrated more than the time that passed is another exporter: of this step nothing is known.
    known = covered_ms <= steps_ms + _OTHER_EXPORTER_MS
    return np.where(reset, units, risen) * known, np.minimum(covered_ms, steps_ms) * known, reset


def power_steps(unix_ms: Times, watts: Values) -> Floats:
    """Return the joules (n,) of the scraped power in each step, 0 where it is not known."""
    rows = np.flatnonzero(~np.isnan(watts))
    if len(rows) < 2:
        return np.zeros(len(unix_ms))
    steps_ms = np.diff(unix_ms[rows])
    pairs = (watts[rows[1:]] + watts[rows[:-1]]) * steps_ms * (steps_ms <= STALE_MS) / 2000
    running = np.interp(unix_ms, unix_ms[rows], np.concatenate([[0.0], np.cumsum(pairs)]))
    joules: Floats = np.diff(running, prepend=running[:1])
    return joules


@dataclass(slots=True)
class GrowingTable:
    """The scrapes of one label set as they come, for windows with edges `edges_ms` (e,)."""

    edges_ms: Times
    _tables: list[Table] = field(default_factory=list)
    _rows: int = 0

    def add(self, table: Table) -> None:
        """Add the scrapes that follow."""
        self._tables.append(table)
        self._rows += len(table)
        if self._rows >= MOST_ROWS:
            self._tables = [thinned(joined(self._tables), self.edges_ms)]
            self._rows = 0

    def extend(self, later: "GrowingTable") -> None:
        """Add the scrapes that follow, which were gathered elsewhere."""
        for table in later._tables:
            self.add(table)

    def whole(self) -> Table:
        """Return all scrapes so far."""
        whole = joined(self._tables)
        if np.any(np.diff(whole.unix_ms) < 0):  # facts without a time were added last
            whole = whole.take(np.argsort(whole.unix_ms, kind="stable"))
        self._tables = [whole]
        return whole


def thinned(table: Table, edges_ms: Times) -> Table:
    """Return the rows near edges and events; the last rows are kept, since more may follow."""
    kept = near(table.unix_ms, edges_ms) | _eventful(table)
    kept[: _BESIDE_ROWS + 1] = kept[-_BESIDE_ROWS:] = True
    if np.all(kept):
        return table
    units, seconds = table.column(NVML) * COUNTER_UNITS_PER_JOULE, table.column(SECONDS)
    with np.errstate(invalid="ignore"):
        _, covered_ms, _ = integrated_steps(table.read_ms()[0], np.rint(units), seconds)
    steps_ms = np.diff(table.read_ms()[0], prepend=table.read_ms()[0][:1])
    merged = table.skipped > 0
    covered_ms = np.where(merged, table.covered_ms, covered_ms)
    hole_ms = np.where(merged, table.hole_ms, steps_ms - covered_ms)
    power = np.where(merged, table.power_joules, power_steps(table.unix_ms, table.column(WATTS)))
    index = np.flatnonzero(kept)
    starts = np.concatenate([[0], index[:-1] + 1])
    columns = {name: column[index] for name, column in table.columns.items()}
    for name in (LIMIT, PEAK):
        if name in columns:
            columns[name] = np.fmax.reduceat(table.columns[name], starts)
    return Table(
        table.labels,
        table.unix_ms[index],
        columns,
        np.add.reduceat(table.skipped + 1, starts) - 1,
        np.add.reduceat(np.nan_to_num(covered_ms), starts),
        np.add.reduceat(power, starts),
        np.maximum.reduceat(np.nan_to_num(hole_ms), starts),
        np.fmax.reduceat(table.watts, starts),
    )


def near(unix_ms: Times, edges_ms: Times) -> Flags:
    """Return which rows (n,) are near an edge."""
    first = np.searchsorted(unix_ms, edges_ms - _BESIDE_MS)
    stop = np.searchsorted(unix_ms, edges_ms + _BESIDE_MS, "right")
    at = np.searchsorted(unix_ms, edges_ms)
    marks = np.zeros(len(unix_ms) + 1, np.int64)
    np.add.at(marks, np.maximum(np.minimum(first, at - _BESIDE_ROWS), 0), 1)
    np.add.at(marks, np.minimum(np.maximum(stop, at + _BESIDE_ROWS), len(unix_ms)), -1)
    return np.cumsum(marks[:-1]) > 0


def _eventful(table: Table) -> Flags:
    """Return the rows (n,) beside which anything but a regular scrape of a counter that rises happened."""
    event = table.skipped > 0
    _, known, skewed = table.read_ms()
    event |= skewed | ~table.distinct_readings()
    steps_ms = np.diff(table.unix_ms, prepend=table.unix_ms[:1])
    event |= steps_ms > 2 * np.median(steps_ms[table.skipped == 0])
    for name in table.columns.keys() - _NOT_COUNTED:
        there, column = table.has(name), table.column(name)
        with np.errstate(invalid="ignore"):
            event |= np.diff(column, prepend=column[:1]) < 0
        event[1:] |= there[1:] != there[:-1]
    event[1:] |= known[1:] != known[:-1]
    with np.errstate(invalid="ignore"):
        still = np.diff(table.column(ZEUS), prepend=np.nan) == 0
    event[1:] |= still[1:] != still[:-1]
    event |= ~table.has(NVML)  # the gauge may serve here
    beside: Flags = np.convolve(event, np.ones(7), "same") > 0
    return beside
