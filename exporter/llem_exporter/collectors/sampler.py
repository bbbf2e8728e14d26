"""The llem_sampler_*, llem_nvml_* and clock metrics: how well the sampler works."""

import platform
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.registry import Collector

from llem_core import __version__, metrics
from llem_exporter.collectors.builder import Family, MetricBuilder
from llem_measure.sampling.gpu_sampler import Observers
from llem_measure.sampling.sampler import Sampler

LATENESS_BUCKETS: Final = tuple(
    ms / 1000 for ms in (0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 20, 50, 100, 300, 1000)
)
CALL_BUCKETS: Final = tuple(
    us / 1e6 for us in (10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 3e5, 1e6)
)
CALLS: Final = ("power", "energy", "status")
MAX_WAITING: Final = 240
"""The number of measurements per batch: about one second of eight GPUs."""


class SamplerHistograms(Collector, Observers):
    """Histograms of the delay of readings and of the duration of each type of call.

    Measurements are collected and observed many at a time, since observing one after a sleep costs ten times
    as much.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        lateness, call = metrics.SAMPLER_LATENESS, metrics.NVML_CALL
        self._lateness = Histogram(lateness.name, lateness.help, registry=None, buckets=LATENESS_BUCKETS)
        self._calls = Histogram(call.name, call.help, call.labels, registry=None, buckets=CALL_BUCKETS)
        self._observe_call = {kind: self._calls.labels(kind).observe for kind in CALLS}
        self._observe_lateness = self._lateness.observe
        self._waiting = deque[tuple[Callable[[float], None], float]]()
        registry.register(self)

    def lateness(self, seconds: float) -> None:
        self._add(self._observe_lateness, seconds)

    def call(self, kind: str, seconds: float) -> None:
        self._add(self._observe_call[kind], seconds)

    def collect(self) -> Iterator[Metric]:
        self._observe_waiting()
        yield from self._lateness.collect()
        yield from self._calls.collect()

    def _add(self, observe: Callable[[float], None], seconds: float) -> None:
        self._waiting.append((observe, seconds))
        if len(self._waiting) >= MAX_WAITING:
            self._observe_waiting()

    def _observe_waiting(self) -> None:
        with suppress(IndexError):  # another thread may take the last one
            while self._waiting:
                observe, seconds = self._waiting.popleft()
                observe(seconds)


class SamplerCollector(Collector):
    """The sample interval, the newest tick, and the state of the clock and of the history."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def collect(self) -> Iterator[Family]:
        sampler = self._sampler
        now_s = sampler.clock.monotonic_s()
        ticks_ms = [gpu.ledger.snapshot(now_s).tick_ms for gpu in sampler.gpus]
        newest_ms = max((ms for ms in ticks_ms if ms is not None), default=None)
        values = {
            metrics.SAMPLER_INTERVAL: sampler.interval_ms / 1000,
            metrics.SAMPLER_LAST_TICK: None if newest_ms is None else newest_ms / 1000,
            metrics.HISTORY_PAUSED: any(gpu.ledger.trace_paused for gpu in sampler.gpus),
            metrics.CLOCK_STEPS: sampler.clock.mapping.steps,
        }
        builder = MetricBuilder([*values, metrics.BUILD_INFO])
        for spec, value in values.items():
            builder.add(spec, (), value)
        builder.add(metrics.BUILD_INFO, (__version__, platform.python_version()), 1)
        return builder.metrics()


class HistoryPageCollector(Collector):
    """The other metrics on /history: GPU information, power limits and the sample interval."""

    def __init__(self, gpus: Collector, sampler: Sampler) -> None:
        self._gpus, self._interval_s = gpus, sampler.interval_ms / 1000

    def collect(self) -> Iterator[Family]:
        yield from self._gpus.collect()  # type: ignore[misc]
        builder = MetricBuilder([metrics.SAMPLER_INTERVAL])
        builder.add(metrics.SAMPLER_INTERVAL, (), self._interval_s)
        yield from builder.metrics()
