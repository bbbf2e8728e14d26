"""Traces as they come by: power summed up between the windows' edges, zeus's counter kept around them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_core import energy, metrics
from llem_integrator import plan
from llem_integrator.energy.faults import Fault, faults_of
from llem_integrator.energy.gaps import Gaps
from llem_integrator.energy.integral import Counts, Flags, Floats
from llem_integrator.energy.joules import RunningSums
from llem_integrator.energy.ranges import range_max
from llem_integrator.fetch import Key, fetch, key_of, quiet, summary
from llem_integrator.plan import Stretch
from llem_integrator.series.samples import Series, Times, merge
from llem_integrator.stores import Piece, Selector, Source, Summary
from llem_integrator.windows.spans import Spans

MARGIN_MS: Final = 30_000
"""How far outside a window a trace is read."""

_LONG_AGO: Final = -(2**62)
_NEVER: Final = 2**62
_SLICE_MS: Final = 3_600_000
_SHORTEST_SKIP_MS: Final = 600_000
_BESIDE: Final = 3
"""So many samples on either side of an edge are kept: more than the bounds look at."""

_LONGEST_LAG_MS: Final = energy.SENSOR_LAG_SECONDS * 1000
_AFTER_A_FALL_MS: Final = 2_100


class Seen:
    """The samples of one label set next to each edge (e,): when there was one before, and when after."""

    def __init__(self, labels: Mapping[str, str], edges_us: Times) -> None:
        self.labels = labels
        self._edges_us = edges_us
        self._passed = 0
        self._newest_us = _LONG_AGO
        self._before_us = np.full(len(edges_us), _LONG_AGO)
        self._after_us = np.full(len(edges_us), _NEVER)

    def add(self, unix_ms: Times) -> None:
        newest_us = int(unix_ms[-1]) * 1000
        reached = int(np.searchsorted(self._edges_us, newest_us, "right"))
        if reached == self._passed:
            self._newest_us = newest_us
            return
        edges = slice(self._passed, reached)
        edges_us = self._edges_us[edges]
        after = np.searchsorted(unix_ms, -(-edges_us // 1000), "left")
        self._after_us[edges] = unix_ms[after] * 1000
        before = np.where(unix_ms[after] * 1000 == edges_us, after, after - 1)
        self._before_us[edges] = np.where(before >= 0, unix_ms[before] * 1000, self._newest_us)
        self._passed, self._newest_us = reached, newest_us

    def extend(self, later: "Seen") -> None:
        """The next samples, seen elsewhere, at edges as RunningSums.extend has them."""
        self.add(later._after_us[:1] // 1000)
        begun = int(np.searchsorted(later._edges_us, self._newest_us, "right"))
        mine = slice(self._passed, self._passed + later._passed - begun)
        self._before_us[mine] = later._before_us[begun : later._passed]
        self._after_us[mine] = later._after_us[begun : later._passed]
        self._passed, self._newest_us = mine.stop, later._newest_us

    def at(self, edges_us: Times) -> tuple[Times, Times]:
        """Unix us (w,) of the last sample up to each edge, and of the first from it on."""
        self._before_us[self._passed :] = self._newest_us
        index = np.searchsorted(self._edges_us, edges_us)
        return self._before_us[index], self._after_us[index]


@dataclass(slots=True)
class PowerTrace:
    """One GPU's power: sums over all its label sets together, when each was seen, and its faults."""

    sums: RunningSums | None = None
    seen: dict[Key, Seen] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    waiting: Series | None = None


class PowerTraces:
    """The power traces of all GPUs by uuid, for windows with these edges (e,)."""

    def __init__(self, edges_us: Times, gaps: Gaps) -> None:
        self.edges_us, self.gaps = edges_us, gaps
        self.by_uuid: defaultdict[str, PowerTrace] = defaultdict(PowerTrace)

    def add(self, piece: Piece) -> int:
        """The next piece; returns how many samples it has."""
        for uuid, found in _by_uuid(piece.series).items():
            trace = self.by_uuid[uuid]
            for one in found:
                key = key_of(one)
                if key not in trace.seen:
                    trace.seen[key] = Seen(one.labels, self.edges_us)
                trace.seen[key].add(one.unix_ms)
            merged = found[0] if len(found) == 1 else merge(found)
            if merged is None:
                continue
            trace.faults += faults_of(merged, piece.start_ms, piece.end_ms)
            self._add(uuid, trace, merged)
        return sum(map(len, piece.series))

    def extend(self, later: "PowerTraces") -> None:
        """The next samples, summed up elsewhere, at edges as RunningSums.extend has them."""
        for uuid, theirs in later.by_uuid.items():
            trace = self.by_uuid[uuid]
            for key, seen in theirs.seen.items():
                if key not in trace.seen:
                    trace.seen[key] = Seen(seen.labels, self.edges_us)
                trace.seen[key].extend(seen)
            trace.faults += theirs.faults
            if theirs.waiting is not None:
                self._add(uuid, trace, theirs.waiting)
            if theirs.sums is not None:
                if trace.sums is None:
                    trace.sums = RunningSums(self.edges_us, theirs.sums.max_gap_ms)
                    self.gaps.settle_trace(uuid, theirs.sums.max_gap_ms)
                if trace.waiting is not None:
                    trace.sums.add(trace.waiting.unix_ms, trace.waiting.values)
                    trace.waiting = None
                trace.sums.extend(theirs.sums)

    def unlike(self, later: "PowerTraces") -> bool:
        """Whether the other bridges other gaps than this one has settled on."""
        pairs = [(self.by_uuid[uuid].sums, one.sums) for uuid, one in later.by_uuid.items()]
        return any(mine and theirs and mine.max_gap_ms != theirs.max_gap_ms for mine, theirs in pairs)

    def _add(self, uuid: str, trace: PowerTrace, one: Series) -> None:
        if trace.waiting is not None:  # one sample says nothing of its steps
            one = merge([trace.waiting, one]) or one
            trace.waiting = None
        if trace.sums is None:
            max_gap_ms = self.gaps.of_trace(uuid, one.labels.get("instance", ""), one.unix_ms)
            if max_gap_ms is None:
                trace.waiting = one
                return
            trace.sums = RunningSums(self.edges_us, max_gap_ms)
        trace.sums.add(one.unix_ms, one.values)


def _by_uuid(series: Sequence[Series]) -> dict[str, list[Series]]:
    found: dict[str, list[Series]] = {}
    for one in series:
        if len(one) and (uuid := one.labels.get("uuid")):
            found.setdefault(uuid, []).append(one)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class CounterTrace:
    """Zeus's counter near edges: readings (n,), how many between them are not held, and where a
    stretch was left out; for each edge (e,) how long the counter stood still around it, at most.
    """

    unix_ms: Times
    joules: Floats
    unread: Counts
    skipped: Flags
    edges_us: Times
    lags_ms: Floats
    max_gap_ms: float | None
    seen: list[Seen]
    faults: list[Fault]

    def lag_ms(self, spans: Spans) -> Floats:
        """Its update period (w,), as far as seen around each window's edges."""
        start, end = (np.searchsorted(self.edges_us, edge) for edge in (spans.start_us, spans.end_us))
        return np.maximum(self.lags_ms[start], self.lags_ms[end])

    def near(self, spans: Spans) -> Flags:
        """Whether it has readings in or around each window (w,)."""
        first = np.searchsorted(self.unix_ms, spans.start_ms - MARGIN_MS)
        return np.searchsorted(self.unix_ms, spans.end_ms + MARGIN_MS, "right") > first


def counter_traces(
    source: Source, selectors: Sequence[Selector], edges_us: Times, also: Sequence[Stretch], gaps: Gaps
) -> dict[str, CounterTrace]:
    """Zeus's traces by uuid around edges, and wherever else they are asked for."""
    kept: defaultdict[str, list[tuple[Series, Counts]]] = defaultdict(list)
    lags: dict[str, Floats] = {}
    seen: defaultdict[str, dict[Key, Seen]] = defaultdict(dict)
    faults: defaultdict[str, list[Fault]] = defaultdict(list)
    max_gaps: dict[str, float | None] = {}
    stretches = plan.joined([*plan.around(edges_us, MARGIN_MS, _SHORTEST_SKIP_MS), *also])
    for own, wide in _slices(stretches):
        found: defaultdict[str, list[Series]] = defaultdict(list)
        for piece in fetch(source, metrics.GPU_ZEUS_TRACE, selectors, *wide, quiet):
            for uuid, series in _by_uuid(piece.series).items():
                found[uuid] += series
        for uuid, series in found.items():
            one = merge(series)
            if one is None:
                continue
            faults[uuid] += faults_of(one, *own)
            max_gaps[uuid] = gaps.of_trace(uuid, one.labels.get("instance", ""), one.unix_ms)
            mine = slice(*np.searchsorted(edges_us, [own[0] * 1000, (own[1] + 1) * 1000]).tolist())
            lags.setdefault(uuid, np.full(len(edges_us), _LONGEST_LAG_MS))[mine] = _lags(one, edges_us[mine])
            kept[uuid].append(_thinned(one, own, edges_us))
            for part in series:
                cut = slice(*np.searchsorted(part.unix_ms, [own[0], own[1] + 1]).tolist())
                if len(part.unix_ms[cut]):
                    key = key_of(part)
                    if key not in seen[uuid]:
                        seen[uuid][key] = Seen(part.labels, edges_us)
                    seen[uuid][key].add(part.unix_ms[cut])
    return {
        uuid: CounterTrace(
            np.concatenate([one.unix_ms for one, _ in parts]),
            np.concatenate([one.values for one, _ in parts]),
            np.concatenate([unread for _, unread in parts]),
            _skipped(np.concatenate([one.unix_ms for one, _ in parts]), stretches),
            edges_us,
            lags[uuid],
            max_gaps[uuid],
            list(seen[uuid].values()),
            faults[uuid],
        )
        for uuid, parts in kept.items()
    }


def _slices(stretches: Sequence[Stretch]) -> Iterator[tuple[Stretch, Stretch]]:
    """Slices that follow each other, and each with a margin, of which an edge's surroundings are seen."""
    for first, last in stretches:
        for start in range(first, last + 1, _SLICE_MS):
            stop = min(start + _SLICE_MS - 1, last)
            yield (start, stop), (max(first, start - MARGIN_MS), min(last, stop + MARGIN_MS))


def _lags(one: Series, edges_us: Times) -> Floats:
    """The longest time (e,) for which the counter stood still around each edge, in ms."""
    changes = one.unix_ms[np.flatnonzero(np.diff(one.values)) + 1]
    stood = np.diff(changes).astype(np.float64)
    first = np.searchsorted(changes, edges_us // 1000 - MARGIN_MS)
    stop = np.searchsorted(changes, -(-edges_us // 1000) + MARGIN_MS, "right") - 1
    return np.minimum(_LONGEST_LAG_MS, range_max(stood, first, stop, _LONGEST_LAG_MS))


def _thinned(one: Series, own: Stretch, edges_us: Times) -> tuple[Series, Counts]:
    """The readings of a slice next to edges and after falls, and how many before each were left out."""
    first, stop = np.searchsorted(one.unix_ms, [own[0], own[1] + 1]).tolist()
    edges_ms = edges_us // 1000
    near = np.searchsorted(one.unix_ms, edges_ms), np.searchsorted(one.unix_ms, edges_ms + _LONGEST_LAG_MS)
    falls = np.flatnonzero(np.diff(one.values) < 0)
    marks = np.zeros(len(one) + 1, np.int64)
    np.add.at(marks, np.maximum(near[0] - _BESIDE, 0), 1)
    np.add.at(marks, np.minimum(near[1] + _BESIDE, len(one)), -1)
    after = np.searchsorted(one.unix_ms, one.unix_ms[falls] + _AFTER_A_FALL_MS, "right")
    np.add.at(marks, falls, 1)
    np.add.at(marks, np.minimum(after + 1, len(one)), -1)
    kept = np.flatnonzero(np.cumsum(marks[:-1]) > 0)
    kept = kept[(kept >= first) & (kept < stop)]
    kept = np.unique(np.append(kept, stop - 1)) if stop > first else kept  # the rest is counted there
    unread = np.diff(kept, prepend=first - 1) - 1
    return Series(one.labels, one.unix_ms[kept], one.values[kept]), unread


def _skipped(unix_ms: Times, stretches: Sequence[Stretch]) -> Flags:
    """The readings (n,) before which a stretch was left out."""
    number = np.searchsorted([first for first, _ in stretches], unix_ms, "right")
    return np.diff(number, prepend=number[:1]) > 0


def restless(
    source: Source, selectors: Sequence[Selector], edges_us: Times, also: Sequence[Stretch]
) -> list[Stretch]:
    """Where zeus's traces fall between the edges; of series too long for one question, asked in parts."""
    stretches = plan.joined([*plan.around(edges_us, MARGIN_MS, _SHORTEST_SKIP_MS), *also])
    return [found for hole in plan.between(stretches) for found in _falls(source, selectors, hole)]


def _falls(source: Source, selectors: Sequence[Selector], hole: Stretch) -> Iterator[Stretch]:
    wide = max(0, hole[0] - MARGIN_MS), hole[1] + MARGIN_MS
    found = summary(source, metrics.GPU_ZEUS_TRACE, selectors, *wide, Summary.RESETS)
    if not any(one.values[0] > 0 for one in found.values()):
        return
    if hole[1] - hole[0] <= _SHORTEST_SKIP_MS:
        yield hole
        return
    middle = (hole[0] + hole[1]) // 2
    yield from _falls(source, selectors, (hole[0], middle))
    yield from _falls(source, selectors, (middle + 1, hole[1]))
