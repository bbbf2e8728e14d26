"""Readings of counters, each at the time it was read, and what a source holds of each GPU and node."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from llem_core.energy import COUNTER_UNITS_PER_JOULE, SENSOR_LAG_SECONDS
from llem_integrator.energy.chains import chains
from llem_integrator.energy.counters.cut import Counter
from llem_integrator.energy.counters.traces import CounterTrace
from llem_integrator.energy.gaps import local_gaps_ms
from llem_integrator.energy.power.traces import PowerTrace
from llem_integrator.energy.window_energy import Integrals
from llem_integrator.series.faults import Fault, within
from llem_integrator.series.ranges import range_max
from llem_integrator.series.samples import Counts, Flags, Floats, Times, Values
from llem_integrator.series.scrapes import MARGIN_MS, Presence
from llem_integrator.series.spans import Index, Spans
from llem_integrator.series.table import (
    SECONDS,
    UPDATE_S,
    WATTS,
    Table,
    integrated_steps,
    power_steps,
)


@dataclass(frozen=True, slots=True, eq=False)
class CounterReadings:
    """Readings (n,) of one counter of one label set, by the time they were read; columns as in a Table.

    `seconds` are the seconds that the exporter integrated so far, NaN where they are not known. `blur_ms` is
    how far the times may be off. `goes_on` is False where another counter may begin. `covers_ms` is what the
    step that ends at each reading covers.
    """

    name: str
    unix_ms: Times
    scrape_ms: Times
    joules: Values
    seconds: Values
    blur_ms: Floats
    skipped: Counts
    covered_ms: Floats
    power_joules: Floats
    hole_ms: Floats
    goes_on: Flags
    covers_ms: Floats

    def part(self, first: int, stop: int) -> "CounterReadings":
        """Return the readings [first, stop)."""
        rows = slice(first, stop)
        return self.with_columns(**{name: getattr(self, name)[rows] for name in _COLUMNS})

    def with_columns(self, **columns: Any) -> "CounterReadings":
        """Return the readings with other columns."""
        return replace(self, **columns)


Covered = Callable[[CounterReadings], tuple[Floats, Flags]]
"""What each step (n,) covers, and whether the counter was reset in it."""


_COLUMNS: Final = (
    "unix_ms",
    "scrape_ms",
    "joules",
    "seconds",
    "blur_ms",
    "skipped",
    "covered_ms",
    "power_joules",
    "hole_ms",
    "goes_on",
    "covers_ms",
)


def counter_readings(table: Table, column: str, covered: Covered) -> CounterReadings:
    """Return the readings of one counter, each once: a page may show again what was read long ago."""
    read_ms, known, _ = table.read_ms()
    rows = np.flatnonzero(table.has(column) & table.distinct_readings())
    if len(rows):  # a time that is not later than all before is that of a clock that was set back
        newest_ms = np.maximum.accumulate(read_ms[rows])
        rows = rows[np.append(True, read_ms[rows[1:]] > newest_ms[:-1])]
    # A reading without a time of its own was read at some time since the scrape before.
    blur_ms = np.where(known, 0.0, np.diff(table.unix_ms, prepend=table.unix_ms[:1]))
    if len(table) > 1:
        blur_ms[0] = 0.0 if known[0] else blur_ms[1]
    power = power_steps(table.unix_ms, table.column(WATTS))
    running = np.cumsum(np.where(table.skipped > 0, table.power_joules, power))[rows]
    readings = CounterReadings(
        name=str(sorted(table.labels.items())),
        unix_ms=read_ms[rows],
        scrape_ms=table.unix_ms[rows],
        joules=table.columns[column][rows],
        seconds=table.column(SECONDS)[rows],
        blur_ms=np.minimum(blur_ms, MARGIN_MS)[rows],
        skipped=table.skipped[rows],
        covered_ms=table.covered_ms[rows],
        power_joules=np.diff(running, prepend=running[:1]),
        hole_ms=table.hole_ms[rows],
        goes_on=np.append(False, np.ones(max(0, len(rows) - 1), np.bool_))[: len(rows)],
        covers_ms=np.zeros(len(rows)),
    )
    return readings.with_columns(covers_ms=covered(readings)[0])


def together(readings: Sequence[CounterReadings]) -> CounterReadings:
    """Return readings of label sets that follow each other as one, ascending in time."""
    columns = {name: np.concatenate([getattr(one, name) for one in readings]) for name in _COLUMNS}
    order = np.unique(columns["unix_ms"], return_index=True)[1]
    return readings[-1].with_columns(**{name: column[order] for name, column in columns.items()})


def _steps_ms(readings: CounterReadings) -> Floats:
    return np.diff(readings.unix_ms, prepend=readings.unix_ms[:1]).astype(np.float64)


def hardware_covered(readings: CounterReadings) -> tuple[Floats, Flags]:
    """Return what each step (n,) covers: all of it, since a hardware counter misses nothing; no resets."""
    return _steps_ms(readings), np.zeros(len(readings.unix_ms), np.bool_)


def process_covered(readings: CounterReadings) -> tuple[Floats, Flags]:
    """Return what each step (n,) covers of a process's counter, and whether it began anew in it.

    Nothing, where it did, or where another counter begins.
    """
    falls = np.diff(readings.joules, prepend=readings.joules[:1]) < 0
    return np.where(falls | ~readings.goes_on, 0.0, _steps_ms(readings)), falls


def integrated_covered(readings: CounterReadings) -> tuple[Floats, Flags]:
    """Return what each step (n,) covers of what the exporter integrated, and whether it was reset in it.

    Where the seconds that it integrated are missing, a step is covered if it is no gap among the readings.
    """
    units = np.rint(readings.joules * COUNTER_UNITS_PER_JOULE)
    with np.errstate(invalid="ignore"):
        _, covered_ms, reset = integrated_steps(readings.unix_ms, units, readings.seconds)
    known = ~np.isnan(readings.seconds)
    single = np.flatnonzero(~(known & np.append(False, known[:-1])[: len(known)]))
    if len(single) > 1:
        steps_ms = _steps_ms(readings)
        reset[single] = (np.diff(units, prepend=units[:1]) < 0)[single]
        longest_ms = local_gaps_ms(readings.unix_ms, np.maximum(single, 1))
        is_covered = (steps_ms[single] <= longest_ms) & ~reset[single]
        covered_ms[single] = np.where(is_covered, steps_ms[single], 0.0)
    covered_ms[:1] = 0.0
    return np.where(readings.skipped > 0, readings.covered_ms, covered_ms), reset


def counter_of(
    readings: CounterReadings, covered: Covered, lag_ms: Floats | float = SENSOR_LAG_SECONDS * 1000
) -> Counter:
    """Return the counter of readings, with what its steps cover."""
    covered_ms, reset = covered(readings)
    is_hardware = covered is hardware_covered
    return Counter(
        readings.unix_ms,
        readings.joules,
        covered_ms=None if is_hardware else covered_ms,
        reset=reset,
        lag_ms=lag_ms,
        blur_ms=readings.blur_ms,
        unread=readings.skipped,
        hole_ms=None if is_hardware else readings.hole_ms,
        power_joules=readings.power_joules if is_hardware else None,
        scrapes=(readings.scrape_ms,),
    )


@dataclass(slots=True)
class GpuReadings:
    """One GPU's scrapes by label set, its traces, and what was wrong with its samples."""

    uuid: str
    tables: list[Table] = field(default_factory=list)
    infos: list[Presence] = field(default_factory=list)
    slices: list[Presence] = field(default_factory=list)
    jobs: list[Presence] = field(default_factory=list)
    power: PowerTrace | None = None
    zeus: CounterTrace | None = None
    faults: list[Fault] = field(default_factory=list)
    zeus_risen: tuple[Spans, Integrals | None] | None = None
    _counters: dict[str, list[CounterReadings]] = field(default_factory=dict)

    def counters(
        self, column: str, spans: Spans, covered: Covered
    ) -> Iterator[tuple[Index, CounterReadings]]:
        """Yield a scraped counter along the label sets that follow each other.

        One for all windows for which the same label sets are the best.
        """
        if column not in self._counters:
            self._counters[column] = [
                counter_readings(table, column, covered) for table in self.tables if column in table.columns
            ]
        readings = self._counters[column]
        for windows, chain in chains(readings, spans):
            if chain:
                yield windows, together(chain)

    def lags_ms(self, spans: Spans) -> Floats:
        """Return the update period (w,) of the hardware counter, as published, else half a second."""
        update_s = self.highest(UPDATE_S, spans, MARGIN_MS)
        return 1000 * np.where(np.isnan(update_s), SENSOR_LAG_SECONDS, update_s)

    def highest(self, column: str, spans: Spans, margin_ms: int = 0, delay_ms: int = 0) -> Floats:
        """Return the highest value (w,) of a metric in each window, NaN where there is none.

        `margin_ms` widens the windows on both sides, `delay_ms` lets them begin later.
        """
        found = np.full(len(spans), np.nan)
        for table in self.tables:
            if column in table.columns:
                values = table.watts if column == WATTS else table.columns[column]
                known = ~np.isnan(values)
                unix_ms = table.unix_ms[known]
                first = np.searchsorted(unix_ms, spans.start_ms - margin_ms + delay_ms)
                stop = np.searchsorted(unix_ms, spans.end_ms + margin_ms, "right")
                found = np.fmax(found, range_max(values[known], first, stop, np.nan))
        return found

    def is_skewed(self, spans: Spans) -> Flags:
        """Return whether the exporter's clock was off in or around a window (w,)."""
        skewed = np.zeros(len(spans), np.bool_)
        for table in self.tables:
            unix_ms = table.unix_ms[table.read_ms()[2]]
            first = np.searchsorted(unix_ms, spans.start_ms - MARGIN_MS)
            skewed |= np.searchsorted(unix_ms, spans.end_ms + MARGIN_MS, "right") > first
        return skewed

    def fault_counts(self, spans: Spans) -> tuple[Counts, Counts]:
        """Return how many bad and how many conflicting samples (w,) lie in each window."""
        every = list(self.faults)
        for trace in (self.power, self.zeus):
            every += trace.faults if trace else ()
        return within((one.bad for one in every), spans), within((one.conflicts for one in every), spans)


@dataclass(slots=True)
class NodeReadings:
    """What CodeCarbon says of one node: joules by component, grams, and when they were measured."""

    name: str
    tables: list[Table] = field(default_factory=list)

    def counters(self, column: str, spans: Spans) -> Iterator[tuple[Index, CounterReadings]]:
        """Yield the joules of a component (cpu, gpu, ram), or the grams."""
        readings = [
            counter_readings(table, column, process_covered)
            for table in self.tables
            if column in table.columns
        ]
        for windows, chain in chains(readings, spans):
            if chain:
                # Between two label sets it may be another worker's count, whatever it shows.
                same = [number > 0 and chain[number - 1].name == one.name for number, one in enumerate(chain)]
                parts = [
                    one.with_columns(goes_on=np.append(goes_on, one.goes_on[1:])[: len(one.unix_ms)])
                    for one, goes_on in zip(chain, same, strict=True)
                ]
                yield windows, together(parts)
