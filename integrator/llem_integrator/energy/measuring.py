"""One GPU in some windows, and what is known to measure it by."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llem_integrator.energy.identity import Facts
from llem_integrator.energy.power.traces import MARGIN_MS as TRACE_MARGIN_MS
from llem_integrator.energy.readings import (
    GpuReadings,
)
from llem_integrator.series import scrapes
from llem_integrator.series.intervals import Intervals
from llem_integrator.series.samples import Flags, Floats
from llem_integrator.series.spans import Index, Spans


@dataclass(frozen=True, slots=True, eq=False)
class GpuMeasuring:
    """One GPU, the windows, and what is known to measure it by."""

    gpu: GpuReadings
    facts: Facts
    spans: Spans
    is_whole: Flags
    """Whether the power trace was read in the whole of each window (w,), or around its edges only."""

    intervals: Mapping[str, Intervals]
    max_gap_ms: float | None
    min_coverage: float

    @property
    def trace_margin_ms(self) -> int:
        """How far outside a window a trace serves its edges."""
        return max(TRACE_MARGIN_MS, int(self.max_gap_ms or 0))

    @property
    def margin_ms(self) -> int:
        """How far outside a window a scrape serves its edges."""
        return max(scrapes.MARGIN_MS, int(self.max_gap_ms or 0))

    def interval_ms(self) -> Floats:
        """Return the time (w,) between the exporter's samples, 0 where it is not known."""
        found = np.zeros(len(self.spans))
        for identity, number in zip(self.facts.identities, range(len(self.facts.identities)), strict=True):
            rows = np.flatnonzero(self.facts.identity == number)
            for instance in identity.instances:
                if instance in self.intervals and len(rows):
                    found[rows] = np.fmax(
                        found[rows], self.intervals[instance].longest(self.spans.take(rows))
                    )
        return found

    def take(self, windows: Index) -> "GpuMeasuring":
        """Return the same for some of the windows."""
        if len(windows) == len(self.spans):
            return self
        few = self.facts.take(windows), self.spans.take(windows), self.is_whole[windows]
        return replace(self, facts=few[0], spans=few[1], is_whole=few[2])
