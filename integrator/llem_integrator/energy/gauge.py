"""The power gauge as it was scraped, where there is neither a counter nor a trace."""

from dataclasses import dataclass, replace

import numpy as np

from llem_integrator.energy.chains import chains
from llem_integrator.energy.gaps import local_gaps_ms, may_be_gaps
from llem_integrator.energy.measuring import GpuMeasuring
from llem_integrator.energy.power.running_sums import trapezoids
from llem_integrator.energy.window_energy import Integrals, placed
from llem_integrator.series.samples import Floats, Times, Values
from llem_integrator.series.spans import Index, distinct
from llem_integrator.series.table import WATTS


@dataclass(frozen=True, slots=True, eq=False)
class _Gauge:
    """Power (n,) that was scraped of one label set."""

    name: str
    unix_ms: Times
    watts: Values
    covers_ms: Floats
    skipped: Index

    def part(self, first: int, stop: int) -> "_Gauge":
        rows = slice(first, stop)
        columns = self.unix_ms[rows], self.watts[rows], self.covers_ms[rows], self.skipped[rows]
        return _Gauge(self.name, *columns)


def gauge_energy(measuring: GpuMeasuring) -> Integrals | None:
    """Return the trapezoid of the scraped power, over the label sets that follow each other.

    Between two scrapes it bounds nothing: the power may have been anything up to the limit.
    """
    gauges: list[_Gauge] = []
    for table in measuring.gpu.tables:
        rows = np.flatnonzero(table.has(WATTS) & table.distinct_readings())
        if len(rows):
            unix_ms, watts = table.unix_ms[rows], table.columns[WATTS][rows]
            steps_ms = np.diff(unix_ms, prepend=unix_ms[:1]).astype(np.float64)
            covers_ms = steps_ms * (steps_ms <= _gauge_gaps_ms(unix_ms, measuring))
            gauges.append(
                _Gauge(str(sorted(table.labels.items())), unix_ms, watts, covers_ms, table.skipped[rows])
            )
    parts: list[tuple[Index, Integrals]] = []
    for windows, chain in chains(gauges, measuring.spans):
        if chain:
            unix_ms = np.concatenate([one.unix_ms for one in chain])
            watts = np.concatenate([one.watts for one in chain])
            few = measuring.take(windows)
            limits = few.facts.limit_watts
            gaps_ms = _gauge_gaps_ms(unix_ms, few)
            found = trapezoids(unix_ms, watts, few.spans, gaps_ms, limits, few.margin_ms)
            # Beside the covered time, what is not covered may have been anything up to the limit, too.
            high = np.where(found.known, few.spans.duration_ms / 1000 * limits, np.nan)
            low = np.where(found.known, 0.0, np.nan)
            parts.append((windows, replace(found, low=low, high=np.maximum(high, found.joules))))
    return placed(parts, len(measuring.spans))


def _gauge_gaps_ms(unix_ms: Times, measuring: GpuMeasuring) -> Floats | float:
    """Return the longest step (n,) that is no gap."""
    if measuring.max_gap_ms is not None:
        return measuring.max_gap_ms
    limits_ms = np.full(len(unix_ms), np.inf)
    at_edges = np.clip(np.searchsorted(unix_ms, measuring.spans.edges_us() // 1000), 1, len(unix_ms) - 1)
    index = distinct(np.concatenate([may_be_gaps(unix_ms), at_edges]))
    if len(unix_ms) > 1:
        limits_ms[index] = local_gaps_ms(unix_ms, index)
        limits_ms[0] = limits_ms[1]
    return limits_ms
