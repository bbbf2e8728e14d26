"""What each backend measured of one GPU in each window, by the best of its series."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llem_core.backend import Backend
from llem_integrator.energy.counters.cut import Counter
from llem_integrator.energy.counters.rises import rises
from llem_integrator.energy.counters.traces import CounterTrace
from llem_integrator.energy.gauge import gauge_energy
from llem_integrator.energy.measuring import GpuMeasuring
from llem_integrator.energy.power.running_sums import RunningSums
from llem_integrator.energy.power.traces import MARGIN_MS as TRACE_MARGIN_MS
from llem_integrator.energy.power.traces import READ_MS as TRACE_READ_MS
from llem_integrator.energy.readings import (
    CounterReadings,
    GpuReadings,
    counter_of,
    hardware_covered,
    integrated_covered,
)
from llem_integrator.energy.window_energy import Integrals, better, joined, placed
from llem_integrator.series.samples import Flags, Floats, Times
from llem_integrator.series.spans import Index, Spans, distinct
from llem_integrator.series.table import NVML, ZEUS

MEASURING: Final = (Backend.ZEUS, Backend.NVML)
_NEAR_TRACE_MS: Final = 2100
"""An energy counter is read at least once a second; its values are at most 2 s old."""


def measure(measuring: GpuMeasuring) -> dict[Backend, Integrals]:
    """Return what zeus and nvml measured of a GPU; a backend without any samples is absent."""
    found = {Backend.ZEUS: measure_zeus(measuring), Backend.NVML: _nvml(measuring)}
    return {backend: integrals for backend, integrals in found.items() if integrals is not None}


def counter_edges_us(gpu: GpuReadings, spans: Spans) -> Times:
    """Return the times of the first and the last reading of the exporter's counter in each window.

    From there to the window's edges, the trace is closer than an interpolation.
    """
    found: list[Times] = []
    for windows, readings in gpu.counters(NVML, spans, integrated_covered):
        first, last, enough = _inner(readings.unix_ms * 1000, spans.take(windows))
        found += [first[enough], last[enough]]
    return distinct(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _inner(times_us: Times, spans: Spans) -> tuple[Times, Times, Flags]:
    """Return the first and the last time in each window, and whether there are two."""
    first = np.searchsorted(times_us, spans.start_us, "left")
    stop = np.searchsorted(times_us, spans.end_us, "right")
    return times_us[np.minimum(first, len(times_us) - 1)], times_us[stop - 1], stop - first >= 2


def _rises(measuring: GpuMeasuring, counter: Counter) -> Integrals:
    found = rises(counter, measuring.spans, measuring.facts.limit_watts, measuring.margin_ms)
    return replace(found, skewed=measuring.gpu.is_skewed(measuring.spans))


def measure_zeus(measuring: GpuMeasuring) -> Integrals | None:
    """Return what the hardware's counter rose by; of the same windows it is worked out once."""
    gpu, spans = measuring.gpu, measuring.spans
    if gpu.zeus_risen is None or gpu.zeus_risen[0] is not spans:
        gpu.zeus_risen = spans, _zeus(measuring)
    return gpu.zeus_risen[1]


def _zeus(measuring: GpuMeasuring) -> Integrals | None:
    """Scraped and traced values are readings of one register."""
    gpu, spans, trace = measuring.gpu, measuring.spans, measuring.gpu.zeus
    # If the exporter's clock is off, its trace and its scrapes are not at the same time.
    traced = trace.near(spans) & ~gpu.is_skewed(spans) if trace else np.zeros(len(spans), np.bool_)
    lags_ms = gpu.lags_ms(spans)
    parts: list[tuple[Index, Integrals]] = []
    alone = np.ones(len(spans), np.bool_)  # windows without any scraped value

    def add(windows: Index, readings: CounterReadings | None) -> None:
        for with_trace in (True, False):
            rows = windows[traced[windows] == with_trace]
            scraped = None if readings is None else counter_of(readings, hardware_covered, lags_ms[rows])
            counter = scraped
            if trace and with_trace:
                lag_ms = np.maximum(lags_ms[rows], trace.lags_ms(spans.take(rows)))
                counter = _merged(trace, scraped, lag_ms)
            if len(rows) and counter:
                counter = replace(counter, max_gap_ms=measuring.max_gap_ms)
                parts.append((rows, _rises(measuring.take(rows), counter)))

    for windows, readings in gpu.counters(ZEUS, spans, hardware_covered):
        alone[windows] = False
        add(windows, readings)
    add(np.flatnonzero(alone), None)
    return placed(parts, len(spans))


def _merged(trace: CounterTrace, scraped: Counter | None, lag_ms: Floats) -> Counter:
    """Return the trace and the scraped values, each time once; of equal times the trace's value."""
    trace_ms, joules, unread, power = trace.rows()
    if scraped is None:
        times = (trace_ms,)
        return Counter(trace_ms, joules, lag_ms=lag_ms, unread=unread, power_joules=power, scrapes=times)
    power_ms, power_joules = scraped.unix_ms, scraped.power_joules
    scraped = _away_from(trace_ms, scraped)
    unix_ms, first = np.unique(np.concatenate([trace_ms, scraped.unix_ms]), return_index=True)

    def column(of_trace: NDArray[Any], of_scrapes: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([of_trace, of_scrapes])[first]

    if power_joules is not None:
        running = np.interp(unix_ms, power_ms, np.cumsum(power_joules))
        power_joules = np.diff(running, prepend=running[:1])
    return Counter(
        unix_ms,
        column(joules, scraped.joules),
        lag_ms=lag_ms,
        blur_ms=column(np.zeros(len(trace_ms)), np.broadcast_to(scraped.blur_ms, len(scraped.unix_ms))),
        unread=column(unread, np.zeros(1) if scraped.unread is None else scraped.unread),
        power_joules=power_joules,
        scrapes=(trace_ms, *scraped.scrapes),
    )


def _away_from(trace_ms: Times, scraped: Counter) -> Counter:
    """Return the scraped values without those near a reading of the trace, which is the same register.

    A slow counter is read once a second, and the page shows it with the time of the power sample.
    """
    after = np.searchsorted(trace_ms, scraped.unix_ms)
    times_ms = np.concatenate([[-(2**61)], trace_ms, [2**61]])
    is_away = (scraped.unix_ms - times_ms[after] > _NEAR_TRACE_MS) & (
        times_ms[after + 1] - scraped.unix_ms > _NEAR_TRACE_MS
    )
    rows = np.flatnonzero(is_away)

    def column(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[rows]

    return replace(
        scraped,
        unix_ms=scraped.unix_ms[rows],
        joules=scraped.joules[rows],
        blur_ms=np.broadcast_to(scraped.blur_ms, len(scraped.unix_ms))[rows],
        reset=column(scraped.reset),
        unread=column(scraped.unread),
        power_joules=None,
    )


def _nvml(measuring: GpuMeasuring) -> Integrals | None:
    """The trace where it covers, else the exporter's counter, with the trace at its edges where that helps.

    The scraped gauge serves only where neither exists.
    """
    trace, every = measuring.gpu.power, len(measuring.spans)
    limits = measuring.facts.limit_watts
    traced = trace.sums.integrals(measuring.spans, limits, measuring.trace_margin_ms) if trace else None
    enough = np.zeros(every, np.bool_)
    if traced is not None:
        skewed = measuring.gpu.is_skewed(measuring.spans)
        traced = replace(traced, skewed=skewed)
        enough = traced.known & (traced.coverage >= measuring.min_coverage) & measuring.is_whole & ~skewed
        if enough.all():
            return traced
    parts = [(np.flatnonzero(enough), traced.take(enough))] if traced is not None else []
    intervals_ms = measuring.interval_ms()
    for interval_ms in np.unique(intervals_ms[~enough]).tolist():
        rows = np.flatnonzero(~enough & (intervals_ms == interval_ms))
        few = traced.take(rows) if traced is not None else None
        if (rest := _without_trace(measuring.take(rows), few, interval_ms)) is not None:
            parts.append((rows, rest))
    return placed(parts, every)


def _without_trace(measuring: GpuMeasuring, traced: Integrals | None, interval_ms: float) -> Integrals | None:
    """What the exporter's counter gives where the trace is not enough, and the gauge where neither is."""
    parts: list[tuple[Index, Integrals]] = []
    edged: list[tuple[Index, Integrals]] = []
    trace = measuring.gpu.power
    for windows, readings in measuring.gpu.counters(NVML, measuring.spans, integrated_covered):
        counter = counter_of(readings, integrated_covered)
        counter = replace(counter, interval_ms=interval_ms, max_gap_ms=measuring.max_gap_ms)
        few = measuring.take(windows)
        found = _rises(few, counter)
        parts.append((windows, found))
        if traced is not None:
            near = np.flatnonzero(traced.present[windows] & found.present & ~found.skewed)
            if len(near) and trace is not None:
                edged.append((windows[near], _edged(few.take(near), counter, trace.sums)))
    every = len(measuring.spans)
    # Of equals, better() keeps the first: a traced edge is closer than an interpolated one.
    best = better(placed(edged, every), placed(parts, every))
    if traced is not None:
        best = better(best, replace(traced, present=traced.present & measuring.is_whole))
    missing = np.flatnonzero(~best.present) if best is not None else np.arange(every)
    gauge = gauge_energy(measuring.take(missing)) if len(missing) else None
    if gauge is None or best is None or not len(missing):
        return best if gauge is None else gauge
    kept = np.flatnonzero(best.present)
    return placed([(kept, best.take(kept)), (missing, gauge)], every)


def _edged(measuring: GpuMeasuring, counter: Counter, sums: RunningSums) -> Integrals:
    """The counter from its first to its last reading in each window, the trace from there to the edges."""
    spans, limits = measuring.spans, measuring.facts.limit_watts
    first_us, last_us, enough = _inner(counter.unix_ms * 1000, spans)
    # Further from an edge, the trace was not read for this window.
    farthest_us = np.maximum(first_us - spans.start_us, spans.end_us - last_us)
    enough &= measuring.is_whole | (farthest_us <= (TRACE_READ_MS - TRACE_MARGIN_MS) * 1000)
    first_us, last_us = np.where(enough, first_us, spans.start_us), np.where(enough, last_us, spans.end_us)
    head, middle, tail = (
        Spans(spans.start_us, first_us),
        Spans(first_us, last_us),
        Spans(last_us, spans.end_us),
    )
    parts = [
        sums.integrals(head, limits, measuring.trace_margin_ms),
        _rises(replace(measuring, spans=middle), counter),
        sums.integrals(tail, limits, measuring.trace_margin_ms),
    ]
    used = [head.end_us > head.start_us, enough, tail.end_us > tail.start_us]
    found = joined(parts, used)
    return replace(found, present=found.present & enough)
