"""A node's energy by CodeCarbon's counters: joules of all its GPUs together, and grams per joule."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from llem_integrator.energy.counters.rises import rises
from llem_integrator.energy.readings import CounterReadings, NodeReadings, counter_of, process_covered
from llem_integrator.energy.window_energy import Integrals, added, placed
from llem_integrator.series.samples import Floats
from llem_integrator.series.scrapes import GRAMS, MARGIN_MS
from llem_integrator.series.spans import Index, Spans

GPU: Final = ("gpu",)
REST: Final = ("cpu", "ram")
ALL: Final = (*REST, *GPU)


@dataclass(frozen=True, slots=True, eq=False)
class NodeEnergy:
    """A node's energy in windows (w,): of its GPUs together, and of its CPUs and memory (`rest`).

    `grams_per_joule` are grams of CO2 equivalent, NaN where they are not known.
    """

    grams_per_joule: Floats
    gpu: Integrals | None = None
    rest: Integrals | None = None


def measure(node: NodeReadings, spans: Spans, max_gap_ms: float | None, limit_watts: Floats) -> NodeEnergy:
    """Return the energy of a node in windows; the limit (w,) is that of all its GPUs together."""
    unknown = np.full(len(spans), np.nan)
    if not node.tables:
        return NodeEnergy(unknown)

    def total(components: Iterable[str], limit_watts: Floats) -> Integrals | None:
        joules: Integrals | None = None
        for component in components:
            joules = added(joules, _rises(node.counters(component, spans), spans, max_gap_ms, limit_watts))
        return joules

    grams = _rises(node.counters(GRAMS, spans), spans, max_gap_ms, unknown)
    rate = _rate(grams, total(ALL, unknown), unknown)
    return NodeEnergy(rate, total(GPU, limit_watts), total(REST, unknown))


def _rate(grams: Integrals | None, energy: Integrals | None, unknown: Floats) -> Floats:
    """Return the grams per joule (w,), NaN where either is not known."""
    if grams is None or energy is None:
        return unknown
    known = grams.known & energy.known & (energy.joules > 0)
    return np.where(known, grams.joules / np.where(known, energy.joules, 1.0), np.nan)


def _rises(
    counters: Iterable[tuple[Index, CounterReadings]],
    spans: Spans,
    max_gap_ms: float | None,
    limit_watts: Floats,
) -> Integrals | None:
    parts: list[tuple[Index, Integrals]] = []
    for windows, readings in counters:
        counter = replace(counter_of(readings, process_covered), max_gap_ms=max_gap_ms)
        energy = rises(counter, spans.take(windows), limit_watts[windows], MARGIN_MS)
        parts.append((windows, energy))
    return placed(parts, len(spans))
