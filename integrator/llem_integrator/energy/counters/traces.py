"""Zeus's traces of GPUs as they come: readings near edges and events are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.energy import LATE_SECONDS, SENSOR_LAG_SECONDS
from llem_integrator.energy.gaps import CONTEXT_STEPS
from llem_integrator.energy.power.traces import MARGIN_MS, Seen, by_uuid, edges_inside, possible
from llem_integrator.series.ceiling import NO_LIMIT, PowerCeiling
from llem_integrator.series.faults import Fault, faults_of
from llem_integrator.series.ranges import range_max
from llem_integrator.series.samples import STALE_MS, Counts, Flags, Floats, Key, Series, Times, Values, merge
from llem_integrator.series.spans import Spans

_BESIDE: Final = CONTEXT_STEPS + 2
_NEAR_MS: Final = 5000
_MOST_LAG_MS: Final = 1000 * SENSOR_LAG_SECONDS
_AFTER_EDGE_MS: Final = round(1000 * max(SENSOR_LAG_SECONDS, LATE_SECONDS)) + 100


@dataclass(slots=True)
class CounterTrace:
    """Zeus's counter of one GPU: readings near edges and where anything happened, and what lies between.

    `unix_ms` (n,) and `joules` (n,); `unread` (n,) counts the readings since the one before that were left
    out, and `power_joules` (n,) is the energy of the power trace since then, if it was read along.
    """

    edges_us: Times
    seen: dict[Key, Seen] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    _parts: list[tuple[Times, Values, Counts, Floats]] = field(default_factory=list)
    has_power: bool = False
    _newest_power: Series | None = None
    _power_total: float = 0.0
    _power_at_newest: float = 0.0

    def add(self, series: Sequence[Series], power: Series | None) -> None:
        """Add the next readings of all label sets, and the power samples of the same time."""
        series = [one for one in series if len(one)]
        for one in series:
            if one.key not in self.seen:
                self.seen[one.key] = Seen(one.labels, self.edges_us)
            self.seen[one.key].add(one.unix_ms)
        merged = series[0] if len(series) == 1 else merge(series)
        if merged is None or not len(merged):
            return
        self.faults += faults_of(merged)
        unix_ms = merged.unix_ms
        joules = self._power_joules(unix_ms, power)
        rows = np.flatnonzero(self._kept(unix_ms, merged.values))
        starts = np.concatenate([[0], rows[:-1] + 1])
        unread = np.diff(rows, prepend=-1) - 1
        self._parts.append((unix_ms[rows], merged.values[rows], unread, np.add.reduceat(joules, starts)))

    def _power_joules(self, unix_ms: Times, power: Series | None) -> Floats:
        """Return the energy (n,) by power samples since the reading before, 0 where there are none."""
        if power is None or not len(power):
            return np.zeros(len(unix_ms))
        if self._newest_power is not None:
            power = power.after(self._newest_power)
        running = self._power_total + np.concatenate([[0.0], np.cumsum(_trapezoids(power))])
        at_readings = np.interp(unix_ms, power.unix_ms, running)
        begin = self._power_at_newest if self.has_power else at_readings[0]
        self.has_power, self._power_at_newest = True, float(at_readings[-1])
        self._newest_power, self._power_total = power.part(len(power) - 1, len(power)), float(running[-1])
        return np.diff(at_readings, prepend=begin)

    def _kept(self, unix_ms: Times, values: Values) -> Flags:
        """Return the readings (n,) near edges, near falls, where a rise begins or ends, and the ends."""
        edges_ms = self.edges_us // 1000
        at = np.searchsorted(unix_ms, edges_ms)
        after = np.searchsorted(unix_ms, edges_ms + _AFTER_EDGE_MS)
        falls = np.flatnonzero(np.diff(values) < 0)
        after_falls = np.searchsorted(unix_ms, unix_ms[falls] + _AFTER_EDGE_MS, "right")
        marks = np.zeros(len(unix_ms) + 1, np.int64)
        np.add.at(marks, np.maximum(np.append(at - _BESIDE, falls), 0), 1)
        stops = np.append(np.maximum(after, at) + _BESIDE, after_falls + 1)
        np.add.at(marks, np.minimum(stops, len(unix_ms)), -1)
        kept: Flags = np.cumsum(marks[:-1]) > 0
        long_flat = _long_flat(unix_ms, values)
        kept[:1] = kept[-1:] = True
        kept[long_flat] = True
        return kept

    def rows(self) -> tuple[Times, Values, Counts, Floats | None]:
        """Return times, joules, how many readings were left out before each, and the energy by power."""
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        return columns[0], columns[1], columns[2], columns[3] if self.has_power else None

    def lags_ms(self, spans: Spans) -> Floats:
        """Return how long (w,) the counter stood still near the edges, at most half a second.

        Readings that came late show in it.
        """
        unix_ms, joules, _, _ = self.rows()
        changes_ms = unix_ms[np.flatnonzero(np.diff(joules)) + 1]
        stood_ms = np.diff(changes_ms).astype(np.float64)
        longest_ms = np.zeros(len(spans))
        for edges_ms in (spans.start_ms, spans.end_ms):
            first = np.searchsorted(changes_ms, edges_ms - _NEAR_MS) - 1
            stop = np.searchsorted(changes_ms, edges_ms + _NEAR_MS, "right")
            near_ms = range_max(stood_ms, first, stop, _MOST_LAG_MS)
            longest_ms = np.maximum(longest_ms, near_ms)
        return np.minimum(longest_ms, _MOST_LAG_MS)

    def near(self, spans: Spans) -> Flags:
        """Return whether it has readings in or around each window (w,)."""
        unix_ms = np.concatenate([part[0] for part in self._parts])
        first = np.searchsorted(unix_ms, spans.start_ms - MARGIN_MS)
        return np.searchsorted(unix_ms, spans.end_ms + MARGIN_MS, "right") > first

    def extend(self, later: "CounterTrace") -> None:
        """Add the next readings, gathered elsewhere."""
        for key, seen in later.seen.items():
            if key not in self.seen:
                self.seen[key] = Seen(seen.labels, self.edges_us)
            self.seen[key].extend(seen)
        self.faults += later.faults
        self.has_power |= later.has_power
        self._parts += later._parts


_LONG_FLAT_MS: Final = 5000


def _long_flat(unix_ms: Times, values: Values) -> Counts:
    """Return the first and last readings of stretches in which the counter stood still for long."""
    changes = np.flatnonzero(np.diff(values)) + 1
    starts, stops = np.append(0, changes), np.append(changes, len(values)) - 1
    long = unix_ms[stops] - unix_ms[starts] >= _LONG_FLAT_MS
    long[:1] = long[-1:] = True  # they may go on in what was read before, or is read next
    return np.concatenate([starts[long], stops[long]])


def _trapezoids(power: Series) -> Floats:
    """Return the joules (n - 1,) of each pair of power samples that are near each other."""
    steps_ms = np.diff(power.unix_ms)
    near = steps_ms <= STALE_MS
    joules: Floats = (power.values[1:] + power.values[:-1]) * steps_ms * near / 2000
    return joules


class CounterTraces:
    """Zeus's traces of GPUs by uuid, for windows with edges (e,)."""

    def __init__(self, edges_us: Times, ceilings: Mapping[str, PowerCeiling]) -> None:
        self._edges_us, self._ceilings = edges_us, ceilings
        self.by_uuid: dict[str, CounterTrace] = {}

    def fresh(self, stretch: tuple[int, int]) -> "CounterTraces":
        """Return the same without samples, with the edges in a stretch."""
        return CounterTraces(edges_inside(self._edges_us, stretch), self._ceilings)

    def _of(self, uuid: str) -> CounterTrace:
        return self.by_uuid.setdefault(uuid, CounterTrace(self._edges_us))

    def add(self, series: Sequence[Series]) -> None:
        """Add the next samples of zeus's traces, and of the power traces of the same time."""
        power = by_uuid([one for one in series if one.metric == metrics.GPU_POWER_TRACE.name])
        counters = by_uuid([one for one in series if one.metric == metrics.GPU_ZEUS_TRACE.name])
        for uuid, of_gpu in counters.items():
            watts = possible(power.get(uuid, []), self._ceilings.get(uuid, NO_LIMIT))
            self._of(uuid).add(of_gpu, watts[0] if len(watts) == 1 else merge(watts))

    def extend(self, later: "CounterTraces") -> None:
        """Add the next samples, gathered elsewhere."""
        for uuid, trace in later.by_uuid.items():
            self._of(uuid).extend(trace)
