"""The llem_sampler_*, llem_nvml_* and clock metrics: how well the sampler works."""

import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.registry import Collector

from llem_core import __version__, metrics
from llem_core.metrics import MetricSpec
from llem_exporter.collectors.builder import Family, MetricBuilder
from llem_exporter.collectors.gpu import states_of
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


class SamplerHistograms(Collector):
    """Histograms of the delay of readings and of the duration of each type of call.

    Measurements are collected and observed many at a time, since observing one after a sleep costs ten times
    as much.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        lateness, call = metrics.SAMPLER_LATENESS, metrics.NVML_CALL
        self._lateness = Histogram(lateness.name, lateness.help, registry=None, buckets=LATENESS_BUCKETS)
        self._calls = Histogram(call.name, call.help, call.labels, registry=None, buckets=CALL_BUCKETS)
        self._observers = {kind: self._calls.labels(kind).observe for kind in CALLS}
        self._observers["lateness"] = self._lateness.observe
        self._waiting = deque[tuple[Callable[[float], None], float]]()
        registry.register(self)

    def add(self, what: str, seconds: float) -> None:
        """Add a measurement: a "lateness", or the duration of one of CALLS."""
        self._waiting.append((self._observers[what], seconds))
        if len(self._waiting) >= MAX_WAITING:
            self._observe_waiting()

    def collect(self) -> Iterator[Metric]:
        self._observe_waiting()
        yield from self._lateness.collect()
        yield from self._calls.collect()

    def _observe_waiting(self) -> None:
        with suppress(IndexError):  # another thread may take the last one
            while self._waiting:
                observe, seconds = self._waiting.popleft()
                observe(seconds)


class SamplerCollector(Collector):
    """The sample interval, the newest tick, and the state of the clock and of the history."""

    def __init__(self, sampler: Sampler, specs: Sequence[MetricSpec] = metrics.METRICS_PAGE) -> None:
        self._sampler, self._specs = sampler, specs

    def collect(self) -> Iterator[Family]:
        sampler = self._sampler
        newest_ms = max((shown.reading.tick_ms for _, shown in states_of(sampler)), default=None)
        builder = MetricBuilder(self._specs)
        builder.add(metrics.SAMPLER_INTERVAL, (), sampler.interval_ms / 1000)
        builder.add(metrics.SAMPLER_LAST_TICK, (), newest_ms / 1000 if newest_ms else None)
        builder.add(metrics.HISTORY_PAUSED, (), any(gpu.ledger.trace_paused for gpu in sampler.gpus))
        builder.add(metrics.CLOCK_STEPS, (), sampler.clock.mapping.steps)
        builder.add(metrics.BUILD_INFO, (__version__, platform.python_version()), 1)
        return builder.metrics()
