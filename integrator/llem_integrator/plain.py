"""Scraped series around the edges of windows; what lies between them the store sums up where it is quiet.

A counter needs its edges only, if it neither restarted nor moved in between. Where it did, the place is found
by halving, and read.
"""

from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.metrics import MetricSpec
from llem_integrator import plan
from llem_integrator.asking import answers
from llem_integrator.energy.faults import Fault, faults_of
from llem_integrator.fetch import Key, fetch, key_of, quiet, summary
from llem_integrator.plan import Stretch
from llem_integrator.series.samples import Series, Times, make_series
from llem_integrator.stores import Piece, Selector, Source, Summary
from llem_integrator.windows.spans import distinct

MARGIN_MS: Final = 300_000
"""How far outside a window plain samples are read: Prometheus's own lookback."""

_LEAF_MS: Final = 1_800_000
"""A stretch as short as this is read rather than halved again."""

_COUNTERS: Final = (
    metrics.GPU_ZEUS_ENERGY,
    metrics.GPU_NVML_ENERGY,
    metrics.GPU_INTEGRATED,
    metrics.CODECARBON_ENERGY,
    metrics.CODECARBON_EMISSIONS,
)
_COUNTED: Final = (metrics.GPU_ZEUS_ENERGY, metrics.GPU_NVML_ENERGY, metrics.CODECARBON_ENERGY)
"""Whose samples are counted, too: all others are as many."""

_HIGHEST: Final = (metrics.GPU_POWER_LIMIT, metrics.GPU_POWER_PEAK)
"""Whose highest values are asked for. The gauge itself tells nothing more where there is its peak."""

_READ: Final = (
    metrics.GPU_ZEUS_ENERGY,
    metrics.GPU_NVML_ENERGY,
    metrics.GPU_INTEGRATED,
    metrics.GPU_SAMPLE_TIMESTAMP,
    metrics.GPU_POWER,
    metrics.CODECARBON_ENERGY,
    metrics.CODECARBON_EMISSIONS,
    metrics.CODECARBON_TIMESTAMP,
    metrics.GPU_INFO,
    metrics.GPU_MIG_INFO,
    metrics.GPU_POWER_LIMIT,
    metrics.GPU_POWER_PEAK,
)
_TIMELESS: Final = {metrics.GPU_INFO: Summary.LAST, metrics.GPU_POWER_LIMIT: Summary.MAX}


@dataclass(slots=True)
class Plain:
    """Series by metric and label set; stretches that only the store looked into; those it sent us to read."""

    series: dict[str, dict[Key, Series]] = field(default_factory=dict)
    skipped: list[Stretch] = field(default_factory=list)
    restless: list[Stretch] = field(default_factory=list)
    faults: defaultdict[tuple[str, Key], list[Fault]] = field(default_factory=lambda: defaultdict(list))

    def of(self, spec: MetricSpec) -> list[Series]:
        return list(self.series.get(spec.name, {}).values())


def read(source: Source, selectors: Sequence[Selector], edges_us: Times, margin_ms: int) -> Plain:
    """The plain series of any selector, for windows with these edges."""
    reader = _Reader(source, selectors)
    stretches = plan.around(edges_us, margin_ms)
    for stretch in stretches:
        reader.read(stretch)
    for skip in plan.between(stretches):
        reader.look_into(skip)
    found = reader.result()
    edges_ms = distinct(np.concatenate([edges_us // 1000, -(-edges_us // 1000)]))
    for spec, kind in _TIMELESS.items():
        # A page without timestamps says what holds at any time.
        for key, one in summary(source, spec, selectors, *stretches[0], kind).items():
            if one.unix_ms[0] == 0:
                values = np.full(len(edges_ms), one.values[0])
                found.series.setdefault(spec.name, {})[key] = make_series(one.labels, edges_ms, values)
    return found


@dataclass(slots=True)
class _Reader:
    """Gathers stretches in any order, and what the store says of those between."""

    source: Source
    selectors: Sequence[Selector]
    parts: dict[str, defaultdict[Key, list[Series]]] = field(default_factory=dict)
    skips: list[tuple[Stretch, dict[tuple[str, Key], int]]] = field(default_factory=list)
    found: Plain = field(default_factory=Plain)

    def read(self, stretch: Stretch) -> None:
        def pieces(spec: MetricSpec) -> list[Piece]:
            return list(fetch(self.source, spec, self.selectors, *stretch, quiet))

        with answers(self.source, [partial(pieces, spec) for spec in _READ]) as found:
            for spec, of_spec in zip(_READ, found, strict=True):
                parts = self.parts.setdefault(spec.name, defaultdict(list))
                for piece in of_spec:
                    self._add(spec, piece, parts)

    def _add(self, spec: MetricSpec, piece: Piece, parts: defaultdict[Key, list[Series]]) -> None:
        for one in piece.series:
            key = key_of(one)
            if len(one):
                parts[key].append(one)
            if wrong := faults_of(one, piece.start_ms, piece.end_ms):
                self.found.faults[spec.name, key] += wrong

    def look_into(self, skip: Stretch) -> None:
        """Leaves a quiet stretch to the store; reads one that is not, or its restless parts."""
        first, last = skip
        if last - first <= _LEAF_MS:
            self.read(skip)
            self.found.restless.append(skip)
            return
        counts = self._counts(skip)
        if counts is not None:
            self.skips.append((skip, counts))
            self._add_facts(skip)
            return
        middle = (first + last) // 2
        centre = middle - MARGIN_MS, middle + MARGIN_MS
        self.read(centre)
        self.look_into((first, centre[0] - 1))
        self.look_into((centre[1] + 1, last))

    def _counts(self, skip: Stretch) -> dict[tuple[str, Key], int] | None:
        """How many samples the store holds of each counter; None where one fell, or came or went."""
        first, last = skip
        # From the last samples that were read to the first: a fall may be on either side.
        wide = max(0, first - MARGIN_MS), last + MARGIN_MS
        keys: dict[MetricSpec, set[Key]] = {}
        with self._summaries(_COUNTERS, wide, Summary.RESETS) as every:
            for spec, falls in zip(_COUNTERS, every, strict=True):
                if any(one.values[0] > 0 for one in falls.values()):
                    return None
                sides = self._near(spec, first - MARGIN_MS, first), self._near(spec, last, last + MARGIN_MS)
                if not set(falls) == sides[0] == sides[1]:
                    return None
                keys[spec] = set(falls)
        counted = [spec for spec in _COUNTED if keys[spec]]
        counts: dict[tuple[str, Key], int] = {}
        with self._summaries(counted, skip, Summary.COUNT) as every:
            for spec, found in zip(counted, every, strict=True):
                if set(found) != keys[spec]:
                    return None
                counts |= {(spec.name, key): int(one.values[0]) for key, one in found.items()}
        return counts

    def _summaries(
        self, specs: Sequence[MetricSpec], stretch: Stretch, kind: Summary
    ) -> "closing[Generator[dict[Key, Series], None, None]]":
        """One value a label set of each metric."""
        asked = self.source, self.selectors
        return answers(
            self.source, [partial(summary, asked[0], spec, asked[1], *stretch, kind) for spec in specs]
        )

    def _near(self, spec: MetricSpec, first: int, last: int) -> set[Key]:
        """The label sets that were read in a stretch."""

        def inside(one: Series) -> bool:
            return bool(np.searchsorted(one.unix_ms, last, "right") > np.searchsorted(one.unix_ms, first))

        return {key for key, parts in self.parts[spec.name].items() if any(map(inside, parts))}

    def _add_facts(self, skip: Stretch) -> None:
        """One sample a label set in the middle, of the highest value: no edge is near."""
        middle = np.array([(skip[0] + skip[1]) // 2])
        peaked: set[Key] = set()
        with self._summaries(_HIGHEST, skip, Summary.MAX) as every:
            for spec, found in zip(_HIGHEST, every, strict=True):
                if spec is metrics.GPU_POWER_PEAK:
                    peaked = set(found)
                self._add_highest(spec, found, middle)
        if not peaked >= set(self.parts[metrics.GPU_POWER.name]):
            found = summary(self.source, metrics.GPU_POWER, self.selectors, *skip, Summary.MAX)
            self._add_highest(metrics.GPU_POWER, found, middle)

    def _add_highest(self, spec: MetricSpec, found: dict[Key, Series], middle: Times) -> None:
        for key, one in found.items():
            if one.unix_ms[0] > 0:
                self.parts[spec.name][key].append(make_series(one.labels, middle, one.values[-1:]))

    def result(self) -> Plain:
        """All that was read, each label set in one series."""
        self.found.skipped = sorted(skip for skip, _ in self.skips)
        for name, parts in self.parts.items():
            self.found.series[name] = {key: self._whole(name, key, found) for key, found in parts.items()}
        return self.found

    def _whole(self, name: str, key: Key, parts: list[Series]) -> Series:
        parts = sorted(parts, key=lambda part: int(part.unix_ms[0]))
        unix_ms = np.concatenate([part.unix_ms for part in parts])
        values = np.concatenate([part.values for part in parts])
        unread = np.zeros(len(unix_ms), np.int64)
        for (_, last), counts in self.skips:
            at = int(np.searchsorted(unix_ms, last, "right"))
            if at < len(unread):
                unread[at] += counts.get((name, key), 0)
        return Series(parts[-1].labels, unix_ms, values, unread=unread if unread.any() else None)
