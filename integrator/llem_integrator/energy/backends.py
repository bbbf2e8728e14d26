"""What each backend measured of one GPU in each window, by the best of its series."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.backend import Backend
from llem_integrator.energy.chains import chains
from llem_integrator.energy.counter import Counter, rises
from llem_integrator.energy.gaps import Gaps
from llem_integrator.energy.integral import Floats, Integrals, better, joined, placed
from llem_integrator.energy.joules import RunningSums, trapezoids
from llem_integrator.energy.readings import GpuReadings
from llem_integrator.plain import MARGIN_MS
from llem_integrator.series.facts import Facts
from llem_integrator.series.samples import Series
from llem_integrator.traces import MARGIN_MS as TRACE_MARGIN_MS
from llem_integrator.traces import CounterTrace
from llem_integrator.windows.spans import Index, Spans

MEASURING: Final = (Backend.ZEUS, Backend.NVML)


@dataclass(frozen=True, slots=True, eq=False)
class Again:
    """Reads one GPU's samples once more, for the few windows that need them: its trace around their edges,
    its gauge in the whole of them.
    """

    trace: Callable[[str, Spans], RunningSums | None]
    gauge: Callable[[str, Spans], list[Series]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One GPU, the windows, and what is known to measure it by."""

    gpu: GpuReadings
    facts: Facts
    spans: Spans
    min_coverage: float
    gaps: Gaps
    again: Again

    @property
    def trace_margin_ms(self) -> int:
        return max(TRACE_MARGIN_MS, int(self.gaps.given_ms or 0))

    @property
    def margin_ms(self) -> int:
        return max(MARGIN_MS, int(self.gaps.given_ms or 0))

    @property
    def interval_ms(self) -> Floats:
        """The time (w,) between the exporter's samples, 0 where it is not known."""
        known = self.gaps.interval_ms
        found = [
            next((known[one] for one in reversed(identity.instances) if one in known), 0.0)
            for identity in self.facts.identities
        ]
        return np.array([*found, 0.0])[self.facts.identity]

    def take(self, windows: Index) -> "Asked":
        facts = self.facts
        few = replace(facts, limit_watts=facts.limit_watts[windows], identity=facts.identity[windows])
        return replace(self, facts=few, spans=self.spans.take(windows))


def measure(asked: Asked) -> dict[Backend, Integrals]:
    """What zeus and nvml measured of a GPU; a backend without any samples is absent."""
    found = {Backend.ZEUS: _zeus(asked), Backend.NVML: _nvml(asked)}
    return {backend: integrals for backend, integrals in found.items() if integrals is not None}


def _risen(asked: Asked, counter: Counter, max_gap_ms: float | None) -> Integrals | None:
    if max_gap_ms is None:
        return None
    return rises(counter, asked.spans, max_gap_ms, asked.facts.limit_watts, asked.margin_ms)


def _zeus(asked: Asked) -> Integrals | None:
    """The hardware's counter: scraped and traced values are readings of one register, and go together."""
    gpu, spans, trace = asked.gpu, asked.spans, asked.gpu.zeus
    traced = trace.near(spans) if trace else np.zeros(len(spans), np.bool_)
    parts: list[tuple[Index, Integrals]] = []
    alone = np.ones(len(spans), np.bool_)  # windows without any scraped value

    def add(windows: Index, counter: Counter | None, max_gap_ms: float | None) -> None:
        for with_trace in (True, False):
            rows = windows[traced[windows] == with_trace]
            part, gaps = counter, [max_gap_ms]
            if trace and with_trace:
                part = _merged(trace, counter, trace.lag_ms(spans.take(rows)))
                gaps.append(trace.max_gap_ms)
            known = max((gap for gap in gaps if gap is not None), default=None)
            if part and len(rows) and (found := _risen(asked.take(rows), part, known)):
                parts.append((rows, found))

    for windows, counter in gpu.counters(metrics.GPU_ZEUS_ENERGY, spans, integrated=False):
        alone[windows] = False
        add(windows, counter, asked.gaps.of(f"{gpu.uuid} zeus", counter.unix_ms))
    add(np.flatnonzero(alone), None, None)
    return placed(parts, len(spans))


def _merged(trace: CounterTrace, counter: Counter | None, lag_ms: Floats) -> Counter:
    """The trace and the scraped values, each time once; of equal times the trace's value."""
    if counter is None:
        return Counter(trace.unix_ms, trace.joules, lag_ms=lag_ms, unread=trace.unread, skipped=trace.skipped)
    unix_ms, first = np.unique(np.concatenate([trace.unix_ms, counter.unix_ms]), return_index=True)
    columns = []
    for mine, other in (
        (trace.joules, counter.joules),
        (trace.unread, counter.unread),
        (np.zeros(len(trace.unix_ms), np.bool_), counter.skipped),
    ):
        columns.append(
            np.concatenate([mine, np.zeros(len(counter.unix_ms)) if other is None else other])[first]
        )
    return Counter(
        unix_ms,
        columns[0],
        lag_ms=lag_ms,
        unread=columns[1].astype(np.int64),
        skipped=columns[2].astype(np.bool_),
    )


def _nvml(asked: Asked) -> Integrals | None:
    """The trace where it covers, else the exporter's counter, with the trace at its edges where that helps.

    The scraped gauge serves only where neither exists.
    """
    sums, every = asked.gpu.power.sums, len(asked.spans)
    limits = asked.facts.limit_watts
    traced = sums.integrals(asked.spans, limits, asked.trace_margin_ms) if sums else None
    enough = np.zeros(every, np.bool_)
    if traced is not None:
        enough = traced.known & (traced.coverage >= asked.min_coverage)
        if enough.all():
            return traced
    parts = [(np.flatnonzero(enough), traced.take(enough))] if traced is not None else []
    intervals_ms = asked.interval_ms
    for interval_ms in np.unique(intervals_ms[~enough]).tolist():
        rows = np.flatnonzero(~enough & (intervals_ms == interval_ms))
        few = traced.take(rows) if traced is not None else None
        if (rest := _without_trace(asked.take(rows), few, interval_ms)) is not None:
            parts.append((rows, rest))
    return placed(parts, every)


def _without_trace(asked: Asked, traced: Integrals | None, interval_ms: float) -> Integrals | None:
    """What the exporter's counter gives where the trace is not enough, and the gauge where neither is."""
    parts: list[tuple[Index, Integrals]] = []
    edged: list[tuple[Index, Integrals]] = []
    counters = asked.gpu.counters(
        metrics.GPU_NVML_ENERGY, asked.spans, integrated=True, interval_ms=interval_ms
    )
    for windows, counter in counters:
        max_gap_ms = asked.gaps.of(f"{asked.gpu.uuid} nvml", counter.unix_ms)
        few = asked.take(windows)
        found = _risen(few, counter, max_gap_ms)
        if found is None or max_gap_ms is None:
            continue
        parts.append((windows, found))
        if traced is not None:
            near = np.flatnonzero(traced.present[windows] & found.present)
            closer = _edged(few.take(near), counter, max_gap_ms) if len(near) else None
            if closer is not None:
                edged.append((windows[near], closer))
    every = len(asked.spans)
    # Of equals, better() keeps the first: a traced edge is closer than an interpolated one.
    best = better(better(placed(edged, every), placed(parts, every)), traced)
    missing = np.flatnonzero(~best.present) if best is not None else np.arange(every)
    gauge = _gauge(asked.take(missing)) if len(missing) else None
    if gauge is None or best is None or not len(missing):
        return best if gauge is None else gauge
    kept = np.flatnonzero(best.present)
    return placed([(kept, best.take(kept)), (missing, gauge)], every)


def _edged(asked: Asked, counter: Counter, max_gap_ms: float) -> Integrals | None:
    """The counter from its first to its last reading in each window, the trace from there to the edges."""
    spans, last = asked.spans, len(counter.unix_ms) - 1
    times_us = counter.unix_ms * 1000
    first = np.searchsorted(times_us, spans.start_us, "left")
    stop = np.searchsorted(times_us, spans.end_us, "right")
    enough = stop - first >= 2
    head = Spans(spans.start_us, np.where(enough, times_us[np.minimum(first, last)], spans.start_us))
    tail = Spans(np.where(enough, times_us[stop - 1], spans.end_us), spans.end_us)
    middle = Spans(
        np.where(enough, head.end_us, spans.start_us), np.where(enough, tail.start_us, spans.end_us)
    )
    sums = asked.again.trace(
        asked.gpu.uuid,
        Spans(
            *(np.concatenate([getattr(one, name) for one in (head, tail)]) for name in ("start_us", "end_us"))
        ),
    )
    if sums is None:
        return None
    limits = asked.facts.limit_watts
    parts = [
        sums.integrals(head, limits, asked.trace_margin_ms),
        rises(counter, middle, max_gap_ms, limits, asked.margin_ms),
        sums.integrals(tail, limits, asked.trace_margin_ms),
    ]
    used = [head.end_us > head.start_us, enough, tail.end_us > tail.start_us]
    found = joined(parts, used)
    return replace(found, present=found.present & enough)


def _gauge(asked: Asked) -> Integrals | None:
    """The scraped gauge's trapezoid, over the label sets that follow each other."""
    gpu, again = asked.gpu, asked.again.gauge
    series = gpu.of(metrics.GPU_POWER)
    if series and again is not None:
        series = again(gpu.uuid, asked.spans)
    parts: list[tuple[Index, Integrals]] = []
    for windows, chain in chains(series, asked.spans):
        if not chain:
            continue
        unix_ms = np.concatenate([one.unix_ms for one in chain])
        watts = np.concatenate([one.values for one in chain])
        if max_gap_ms := asked.gaps.of(f"{gpu.uuid} gauge", unix_ms):
            few = asked.take(windows)
            limits = few.facts.limit_watts
            found = trapezoids(unix_ms, watts, few.spans, max_gap_ms, limits, asked.margin_ms)
            parts.append((windows, found))
    return placed(parts, len(asked.spans))
