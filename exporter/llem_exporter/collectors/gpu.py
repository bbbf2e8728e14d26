"""Ledger pages -> metric families: no arithmetic, no NVML."""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.registry import Collector

from llem_core import __version__, metrics
from llem_core.backend import Backend, Candidate, choose
from llem_core.metrics import MetricSpec
from llem_exporter.collectors.builder import Family, MetricBuilder
from llem_exporter.collectors.registry import SharedFamiliesRegistry
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.ledger import Page
from llem_measure.sampling.sampler import Observe, Sampler

LATENESS_BUCKETS: Final = tuple(
    ms / 1000 for ms in (0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 20, 50, 100, 300, 1000)
)
CALL_BUCKETS: Final = tuple(
    us / 1e6 for us in (10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 3e5, 1e6)
)

_GPU_VALUES: Final[tuple[tuple[MetricSpec, Callable[[Page], float | None]], ...]] = (
    (metrics.GPU_POWER, lambda page: page.watts),
    (metrics.GPU_POWER_PEAK, lambda page: page.peak_watts),
    (metrics.GPU_POWER_LIMIT, lambda page: page.status.limit_watts),
    (metrics.GPU_NVML_ENERGY, lambda page: page.nvml_joules),
    (metrics.GPU_ZEUS_ENERGY, lambda page: page.joules),
    (metrics.GPU_SAMPLE_TIMESTAMP, lambda page: page.sample_unix_s),
    (metrics.GPU_INTEGRATED, lambda page: page.integrated_s),
    (metrics.GPU_GAP, lambda page: page.gap_s),
    (metrics.GPU_SAMPLES, lambda page: page.samples),
    (metrics.GPU_TEMPERATURE, lambda page: page.status.temperature_celsius),
    (metrics.GPU_MEMORY_USED, lambda page: page.status.memory_used_bytes),
    (metrics.GPU_MEMORY_TOTAL, lambda page: page.status.memory_total_bytes),
    (metrics.GPU_UTILIZATION, lambda page: page.status.utilization_ratio),
)


class Histograms(NamedTuple):
    """What the sampler observes."""

    lateness: Observe
    call: Observe


def new_registry() -> tuple[CollectorRegistry, Histograms]:
    """A registry with the process's own metrics and the sampler's histograms, without `_created` series."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = SharedFamiliesRegistry()
    ProcessCollector(registry=registry)
    lateness, call = metrics.SAMPLER_LATENESS, metrics.NVML_CALL
    return registry, Histograms(
        Histogram(lateness.name, lateness.help, registry=registry, buckets=LATENESS_BUCKETS).observe,
        Histogram(call.name, call.help, registry=registry, buckets=CALL_BUCKETS).observe,
    )


class LedgerCollector(Collector):
    """The metrics page, out of one snapshot per GPU.

    `source` names where power comes from, "nvml" or "replay". `candidates` returns the backends beside
    those of the GPUs. `others` add what is
    theirs to the page. `missing` says how many GPUs should be read and are not open, `energy_fails` whether
    a counter that should be read cannot be opened.
    """

    def __init__(
        self,
        sampler: Sampler,
        source: str,
        candidates: Callable[[], Iterable[Candidate]],
        others: Sequence[Callable[["MetricBuilder"], None]] = (),
        missing: Callable[[], int] = lambda: 0,
        energy_fails: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sampler, self._source, self._candidates = sampler, source, candidates
        self._others, self._missing, self._energy_fails = others, missing, energy_fails

    def collect(self) -> Iterator[Family]:
        pages = _pages(self._sampler)
        families = MetricBuilder(metrics.METRICS_PAGE)
        _add_gpus(families, pages)
        self._add_sampler(families, pages)
        reads = self._add_collectors(families, [page for _, page in pages])
        for add_to in self._others:
            add_to(families)
        candidates = [*reads, *self._candidates()]
        chosen = choose(candidates)
        for candidate in candidates:
            families.add(metrics.BACKEND_AVAILABLE, (candidate.backend,), candidate.usable)
            families.add(metrics.BACKEND_SELECTED, (candidate.backend,), candidate is chosen)
        families.add(metrics.BUILD_INFO, (__version__, platform.python_version()), 1)
        return families.metrics()

    def _add_sampler(self, families: "MetricBuilder", pages: Iterable[tuple[DeviceInfo, Page]]) -> None:
        sampler = self._sampler
        families.add(metrics.SAMPLER_INTERVAL, (), sampler.interval_ms / 1000)
        ticks_ms = [page.tick_ms for _, page in pages if page.tick_ms is not None]
        families.add(metrics.SAMPLER_LAST_TICK, (), max(ticks_ms) / 1000 if ticks_ms else None)
        families.add(metrics.HISTORY_HELD, (), sum(gpu.ledger.held_samples for gpu in sampler.gpus))
        families.add(metrics.CLOCK_STEPS, (), sampler.clock.mapping.steps)

    def _add_collectors(self, families: "MetricBuilder", pages: list[Page]) -> list[Candidate]:
        """What Zeus and NVML can do now: to count, a backend must read every GPU."""
        whole = bool(pages) and self._missing() == 0
        energy_ok = whole and all(page.fresh and page.joules is not None for page in pages)
        power_ok = whole and all(page.fresh and page.watts is not None for page in pages)
        fresh = [page for page in pages if page.fresh]
        if pages:
            power_s = max((page.watts_call_s for page in fresh), default=None)
            families.add(metrics.COLLECTOR_SUCCESS, (self._source,), power_ok)
            families.add(metrics.COLLECTOR_DURATION, (self._source,), power_s)
        if pages and (self._sampler.reads_energy or self._energy_fails()):
            energy_s = max((page.joules_call_s for page in fresh), default=None)
            families.add(metrics.COLLECTOR_SUCCESS, (Backend.ZEUS,), energy_ok)
            families.add(metrics.COLLECTOR_DURATION, (Backend.ZEUS,), energy_s)
        ways = ((Backend.ZEUS, energy_ok), (Backend.NVML, power_ok))
        return [
            Candidate(backend, float(ok), "reads every GPU" if ok else "does not read every GPU")
            for backend, ok in ways
        ]


class HistoryCollector(Collector):
    """What stands beside the traces on /history: info, limits and the sample interval."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def collect(self) -> Iterator[Family]:
        families = MetricBuilder(metrics.HISTORY_PAGE)
        _add_gpus(families, _pages(self._sampler))
        families.add(metrics.SAMPLER_INTERVAL, (), self._sampler.interval_ms / 1000)
        return families.metrics()


def _pages(sampler: Sampler) -> list[tuple[DeviceInfo, Page]]:
    clock = sampler.clock
    monotonic_s, now_ms = clock.monotonic_s(), clock.now_ms()
    return [(gpu.device.info, gpu.ledger.page(now_ms, monotonic_s)) for gpu in sampler.gpus]


def _add_gpus(families: MetricBuilder, pages: Iterable[tuple[DeviceInfo, Page]]) -> None:
    for info, page in pages:
        gpu = (str(info.index), info.uuid)
        families.add(metrics.GPU_INFO, (*gpu, *_details(info)), 1)
        for spec, value in _GPU_VALUES:
            families.add(spec, gpu, value(page))
        for error, count in page.errors.items():
            families.add(metrics.GPU_READ_ERRORS, (*gpu, error), count)
        for reason, active in page.status.throttle.items():
            families.add(metrics.GPU_THROTTLE, (*gpu, reason), active)
        for part in page.status.slices:
            families.add(metrics.GPU_MIG_INFO, (*gpu, part.uuid, part.profile), 1)


def _details(info: DeviceInfo) -> tuple[str, ...]:
    """The labels of llem_gpu_info after gpu and uuid, in its order."""
    return (
        info.name,
        info.driver_version,
        info.pci_bus_id,
        info.minor_number,
        info.power_source,
        info.scope,
    )
