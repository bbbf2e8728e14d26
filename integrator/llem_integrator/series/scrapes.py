"""All that was scraped of GPUs and nodes for some windows, each label set in a table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_core import metrics
from llem_integrator.series.faults import Fault, faults_of
from llem_integrator.series.intervals import CONTEXT_MS, Intervals
from llem_integrator.series.samples import (
    Flags,
    Key,
    Series,
    Times,
    make_series,
)
from llem_integrator.series.table import (
    LIMIT,
    MOST_ROWS,
    NVML,
    PEAK,
    READ_S,
    SECONDS,
    UPDATE_S,
    WATTS,
    ZEUS,
    GrowingTable,
    near,
    table_of,
)

GRAMS: Final = metrics.CODECARBON_EMISSIONS.name
SHOWING: Final = (ZEUS, NVML, SECONDS, READ_S, WATTS)
"""Metrics whose samples show that a GPU is there."""

_OF_GPUS: Final = frozenset((*SHOWING, LIMIT, PEAK, UPDATE_S))
_OF_NODES: Final = {
    metrics.CODECARBON_ENERGY.name: "",
    metrics.CODECARBON_EMISSIONS.name: GRAMS,
    metrics.CODECARBON_TIMESTAMP.name: READ_S,
}
_PRESENT: Final = frozenset(
    spec.name for spec in (metrics.GPU_INFO, metrics.GPU_MIG_INFO, metrics.GPU_JOB_INFO)
)
_INTERVAL: Final = metrics.SAMPLER_INTERVAL.name
METRICS: Final = (*_OF_GPUS, *_OF_NODES, *_PRESENT, _INTERVAL)

MARGIN_MS: Final = 300_000
"""How far outside a window a scrape may serve its edges: Prometheus's own lookback."""

READ_MS: Final = CONTEXT_MS + 2 * MARGIN_MS
"""How far around a window scrapes are read: what a gap is follows from an hour of scrapes around it."""


@dataclass(slots=True)
class Presence:
    """The times at which a metric that only says something by its labels was there, near edges."""

    labels: Mapping[str, str]
    unix_ms: Times

    def add(self, unix_ms: Times, edges_ms: Times) -> None:
        """Add the times that follow."""
        self.unix_ms = np.sort(np.concatenate([self.unix_ms, unix_ms]))
        if len(self.unix_ms) > MOST_ROWS:
            kept = near(self.unix_ms, edges_ms)
            kept[:1] = kept[-1:] = True
            self.unix_ms = self.unix_ms[kept]

    def reaches(self, start_ms: Times, end_ms: Times) -> Flags:
        """Return whether it was there in each window (w,)."""
        first = np.searchsorted(self.unix_ms, start_ms)
        return np.searchsorted(self.unix_ms, end_ms, "right") > first


@dataclass(slots=True)
class Scrapes:
    """All that was scraped of GPUs and nodes, for windows with edges `edges_ms` (e,)."""

    edges_ms: Times
    gpus: dict[Key, GrowingTable] = field(default_factory=dict)
    nodes: dict[Key, GrowingTable] = field(default_factory=dict)
    present: dict[tuple[str, Key], Presence] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    _intervals: dict[str, list[Series]] = field(default_factory=dict)

    def add(self, series: Iterable[Series]) -> None:
        """Add the scrapes that follow."""
        gpus: dict[Key, dict[str, Series]] = {}
        nodes: dict[Key, dict[str, Series]] = {}
        for one in series:
            uuid = one.labels.get("uuid")
            if uuid and one.metric in _OF_GPUS:
                gpus.setdefault(one.key, {})[one.metric] = one
                self.faults.setdefault(uuid, []).extend(faults_of(one))
            elif uuid and one.metric in _PRESENT:
                self._add_present(one)
            elif one.metric in _OF_NODES:
                column = _OF_NODES[one.metric] or one.labels.get("component", "")
                key = tuple(pair for pair in one.key if pair[0] != "component")
                nodes.setdefault(key, {})[column] = one
            elif one.metric == _INTERVAL:
                self._intervals.setdefault(one.labels.get("instance", ""), []).append(one)
        for found, growing in ((gpus, self.gpus), (nodes, self.nodes)):
            for key, columns in found.items():
                if any(len(one) for one in columns.values()):
                    growing.setdefault(key, GrowingTable(self.edges_ms)).add(table_of(dict(key), columns))

    def _add_present(self, one: Series) -> None:
        name = one.metric, one.key
        if name not in self.present:
            self.present[name] = Presence(one.labels, one.unix_ms[:0])
        self.present[name].add(one.unix_ms, self.edges_ms)

    def add_timeless(self, facts: Iterable[Series]) -> None:
        """Add values without a time, each as one sample: they hold at any time."""
        edges_ms = self.edges_ms
        every = (
            make_series(one.labels, edges_ms, np.full(len(edges_ms), one.values[0]), one.metric)
            for one in facts
            if len(one)
        )
        self.add(every)

    def extend(self, later: "Scrapes") -> None:
        """Add the scrapes that follow, which were gathered elsewhere."""
        for own, other in ((self.gpus, later.gpus), (self.nodes, later.nodes)):
            for key, table in other.items():
                own.setdefault(key, GrowingTable(self.edges_ms)).extend(table)
        for name, presence in later.present.items():
            own_presence = self.present.setdefault(name, Presence(presence.labels, presence.unix_ms[:0]))
            own_presence.add(presence.unix_ms, self.edges_ms)
        for uuid, faults in later.faults.items():
            self.faults.setdefault(uuid, []).extend(faults)
        for instance, series in later._intervals.items():
            self._intervals.setdefault(instance, []).extend(series)

    def fresh(self, stretch: tuple[int, int]) -> "Scrapes":  # noqa: ARG002 (as of all collectors)
        """Return one of the same windows, without scrapes."""
        return Scrapes(self.edges_ms)

    def intervals(self) -> dict[str, Intervals]:
        """Return the sample intervals that exporters published, by instance."""
        return {instance: _interval(series) for instance, series in self._intervals.items()}

    def of(self, spec: metrics.MetricSpec) -> list[Presence]:
        """Return when each label set of a metric was there."""
        return [presence for (name, _), presence in self.present.items() if name == spec.name]


def _interval(series: Sequence[Series]) -> Intervals:
    """Return the intervals that several label sets of one instance say, by time."""
    unix_ms = np.concatenate([one.unix_ms for one in series])
    unix_ms, first = np.unique(unix_ms, return_index=True)
    return Intervals(unix_ms, np.concatenate([one.values for one in series])[first] * 1000)
