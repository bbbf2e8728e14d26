"""What CodeCarbon's counters say of a node: joules without a split by GPU, and grams per joule."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_integrator.energy.counter import Counter, rises
from llem_integrator.energy.gaps import Gaps
from llem_integrator.energy.integral import Floats, Integrals, added, placed
from llem_integrator.energy.readings import NodeReadings
from llem_integrator.plain import MARGIN_MS
from llem_integrator.windows.spans import Index, Spans

GPU: Final = ("gpu",)
REST: Final = ("cpu", "ram")
ALL: Final = (*REST, *GPU)


@dataclass(frozen=True, slots=True, eq=False)
class NodeEnergy:
    """A node's joules in windows (w,), of its GPUs and the rest; grams of CO2 equivalent a joule, or NaN."""

    grams_per_joule: Floats
    gpu: Integrals | None = None
    rest: Integrals | None = None


def measure(node: NodeReadings, spans: Spans, gaps: Gaps, limit_watts: Floats) -> NodeEnergy:
    """The node's energy in windows; the limit (w,) is that of all its GPUs together."""
    unknown = np.full(len(spans), np.nan)
    if not node.series:
        return NodeEnergy(unknown)

    def total(parts: Iterable[str], limit_watts: Floats) -> Integrals | None:
        found: Integrals | None = None
        for part in parts:
            found = added(found, _rises(node.name, node.joules(part, spans), spans, gaps, limit_watts))
        return found

    grams = _rises(node.name, node.grams(spans), spans, gaps, unknown)
    return NodeEnergy(
        _rate(grams, total(ALL, unknown), unknown), total(GPU, limit_watts), total(REST, unknown)
    )


def _rate(grams: Integrals | None, energy: Integrals | None, unknown: Floats) -> Floats:
    """Grams per joule of the same windows."""
    if grams is None or energy is None:
        return unknown
    known = grams.known & energy.known & (energy.joules > 0)
    return np.where(known, grams.joules / np.where(known, energy.joules, 1.0), np.nan)


def _rises(
    node: str, counters: Iterable[tuple[Index, Counter]], spans: Spans, gaps: Gaps, limit_watts: Floats
) -> Integrals | None:
    parts: list[tuple[Index, Integrals]] = []
    for windows, counter in counters:
        max_gap_ms = gaps.of(f"{node} codecarbon", counter.unix_ms)
        if max_gap_ms is not None:
            few = spans.take(windows)
            parts.append((windows, rises(counter, few, max_gap_ms, limit_watts[windows], MARGIN_MS)))
    return placed(parts, len(spans))
