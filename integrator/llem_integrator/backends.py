"""What each backend measured of one GPU in one window, each by the best of its series."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from llem_core import energy, metrics
from llem_core.backend import Backend
from llem_integrator.counter import Counter, counted
from llem_integrator.integral import Integral, joined
from llem_integrator.joules import trapezoid
from llem_integrator.readings import GpuReadings, lag_ms
from llem_integrator.series import Series, Times, auto_max_gap_ms, follow
from llem_integrator.sources import Selector
from llem_integrator.window import Window

MEASURING: Final = (Backend.ZEUS, Backend.NVML)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of each window: None for `backend` is auto, for `max_gap_ms` as the samples say.

    `gpus` are NVML indices or uuids, empty for all; a GPU must match any of `selectors`. With
    `emissions`, grams of CO2 equivalent are asked for, too.
    """

    backend: Backend | None = None
    selectors: tuple[Selector, ...] = ((),)
    gpus: tuple[str, ...] = ()
    max_gap_ms: float | None = None
    min_coverage: float = 0.99
    emissions: bool = False
    settled_ms: dict[str, float] = field(default_factory=dict)

    def max_gap_of(self, series: str, unix_ms: Times) -> float | None:
        """The longest step to bridge in a series, in ms: as given, or settled once for a run by its steps."""
        if self.max_gap_ms is not None:
            return self.max_gap_ms
        if series not in self.settled_ms and (found := auto_max_gap_ms(unix_ms)) is not None:
            self.settled_ms[series] = found
        return self.settled_ms.get(series)


@dataclass(frozen=True, slots=True)
class Measured:
    """One GPU and what each backend measured of it; a backend without samples is absent."""

    gpu: GpuReadings
    by_backend: dict[Backend, Integral]

    def coverage(self, backend: Backend) -> float:
        return covered(self.by_backend.get(backend))


def covered(integral: Integral | None) -> float:
    """The share of the window that there are joules for, from 0 to 1."""
    return integral.coverage if integral and integral.joules is not None else 0.0


def measure(gpu: GpuReadings, window: Window, request: Request) -> Measured:
    """What zeus and nvml measured of a GPU, each by the best of its series."""
    found = {Backend.ZEUS: _zeus(gpu, window, request), Backend.NVML: _nvml(gpu, window, request)}
    return Measured(gpu, {backend: integral for backend, integral in found.items() if integral})


def _trace_gap_ms(gpu: GpuReadings, trace: Series, request: Request) -> float | None:
    if request.max_gap_ms is None and gpu.interval_ms:
        return energy.GAP_INTERVALS * gpu.interval_ms
    return request.max_gap_of(f"{gpu.uuid} trace", trace.unix_ms)


def _zeus(gpu: GpuReadings, window: Window, request: Request) -> Integral | None:
    """The hardware's counter: scraped and traced values are readings of one register, and go together."""
    counter = gpu.counter(metrics.GPU_ZEUS_ENERGY, window, integrated=False)
    trace = gpu.trace(metrics.GPU_ZEUS_TRACE)
    gaps = [request.max_gap_of(f"{gpu.uuid} zeus", counter.unix_ms)] if counter else []
    if trace:
        gaps.append(_trace_gap_ms(gpu, trace, request))
        unix_ms, joules = trace.unix_ms, trace.values
        if counter:
            unix_ms, first = np.unique(np.concatenate([unix_ms, counter.unix_ms]), return_index=True)
            joules = np.concatenate([joules, counter.joules])[first]
        counter = Counter(unix_ms, joules, lag_ms=lag_ms(trace))
    max_gap_ms = max((gap for gap in gaps if gap is not None), default=None)
    if counter is None or max_gap_ms is None:
        return None
    return counted(counter, window, max_gap_ms, gpu.limit_watts)


def _nvml(gpu: GpuReadings, window: Window, request: Request) -> Integral | None:
    """The trace where it covers, else the exporter's counter, with the trace at its edges where that helps.

    The scraped gauge serves only where neither exists.
    """
    traced = _traced(gpu, window, request)
    if traced and traced.coverage >= request.min_coverage:
        return traced
    counter = gpu.counter(metrics.GPU_NVML_ENERGY, window, integrated=True)
    max_gap_ms = request.max_gap_of(f"{gpu.uuid} nvml", counter.unix_ms) if counter else None
    found = [traced] if traced else []
    if counter and max_gap_ms is not None:
        whole = counted(counter, window, max_gap_ms, gpu.limit_watts)
        edged = _edged(gpu, counter, window, request, max_gap_ms)
        # Of equals, max() keeps the first: a traced edge is closer than an interpolated one.
        found = [*([edged] if edged else []), whole, *found]
    if not found:
        found += _gauge(gpu, window, request)
    return max(found, key=lambda integral: integral.coverage, default=None)


def _traced(gpu: GpuReadings, window: Window, request: Request) -> Integral | None:
    trace = gpu.trace(metrics.GPU_POWER_TRACE)
    max_gap_ms = _trace_gap_ms(gpu, trace, request) if trace else None
    if trace is None or max_gap_ms is None:
        return None
    return trapezoid(trace.unix_ms, trace.values, window, max_gap_ms, gpu.limit_watts)


def _edged(
    gpu: GpuReadings, counter: Counter, window: Window, request: Request, max_gap_ms: float
) -> Integral | None:
    """The counter between its first and last reading in the window, and the trace from there to the edges."""
    inside = counter.unix_ms[
        (counter.unix_ms * 1000 >= window.start_us) & (counter.unix_ms * 1000 <= window.end_us)
    ]
    if len(inside) < 2:
        return None
    cuts_us = [window.start_us, int(inside[0]) * 1000, int(inside[-1]) * 1000, window.end_us]
    parts: list[Integral] = []
    for start_us, end_us in pairwise(cuts_us):
        if start_us == end_us:
            continue
        part = Window(start_us, end_us)
        if (start_us, end_us) == (cuts_us[1], cuts_us[2]):
            parts.append(counted(counter, part, max_gap_ms, gpu.limit_watts))
        elif traced := _traced(gpu, part, request):
            parts.append(traced)
        else:
            return None
    return joined(parts)


def _gauge(gpu: GpuReadings, window: Window, request: Request) -> list[Integral]:
    """The scraped gauge's trapezoid, over the label sets that follow each other."""
    chain = follow(gpu.of(metrics.GPU_POWER), window.start_us // 1000, window.end_us // 1000)
    if not chain:
        return []
    unix_ms = np.concatenate([one.unix_ms for one in chain])
    watts = np.concatenate([one.values for one in chain])
    max_gap_ms = request.max_gap_of(f"{gpu.uuid} gauge", unix_ms)
    return [trapezoid(unix_ms, watts, window, max_gap_ms, gpu.limit_watts)] if max_gap_ms else []
