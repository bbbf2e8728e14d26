"""The llem_gpu_* metrics of /metrics, and the metrics beside the traces on /history."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.registry import Collector

from llem_core import metrics
from llem_core.backend import Backend
from llem_core.metrics import MetricSpec
from llem_exporter.collectors.builder import Family, MetricBuilder
from llem_measure.sampling.gpu_sampler import GpuSampler
from llem_measure.sampling.ledger import GpuSnapshot
from llem_measure.sampling.sampler import Sampler

GpuState = tuple[GpuSampler, GpuSnapshot]

_VALUES: Final[tuple[tuple[MetricSpec, Callable[[GpuSnapshot], float | None]], ...]] = (
    (metrics.GPU_POWER, lambda gpu: gpu.watts),
    (metrics.GPU_POWER_PEAK, lambda gpu: gpu.peak_watts),
    (metrics.GPU_POWER_LIMIT, lambda gpu: gpu.status.limit_watts),
    (metrics.GPU_NVML_ENERGY, lambda gpu: gpu.nvml_joules),
    (metrics.GPU_ZEUS_ENERGY, lambda gpu: gpu.joules),
    (metrics.GPU_SAMPLE_TIMESTAMP, lambda gpu: gpu.sample_unix_s),
    (metrics.GPU_INTEGRATED, lambda gpu: gpu.integrated_s),
    (metrics.GPU_GAP, lambda gpu: gpu.gap_s),
    (metrics.GPU_SAMPLES, lambda gpu: gpu.samples),
    (metrics.GPU_TEMPERATURE, lambda gpu: gpu.status.temperature_celsius),
    (metrics.GPU_MEMORY_USED, lambda gpu: gpu.status.memory_used_bytes),
    (metrics.GPU_MEMORY_TOTAL, lambda gpu: gpu.status.memory_total_bytes),
    (metrics.GPU_UTILIZATION, lambda gpu: gpu.status.utilization_ratio),
    (metrics.GPU_SM_CLOCK, lambda gpu: gpu.status.sm_clock_hertz),
)


def states_of(sampler: Sampler) -> list[GpuState]:
    """Return a consistent snapshot of each GPU."""
    now_s = sampler.clock.monotonic_s()
    return [(gpu, gpu.ledger.snapshot(now_s)) for gpu in sampler.gpus]


class GpuCollector(Collector):
    """The metrics of every GPU. GPUs that have not been opened yet have only error counts, without a UUID."""

    def __init__(self, sampler: Sampler, specs: Sequence[MetricSpec] = metrics.METRICS_PAGE) -> None:
        self._sampler, self._specs = sampler, specs

    def collect(self) -> Iterator[Family]:
        builder = MetricBuilder(self._specs)
        module_watts: dict[str, float | None] = {}
        for gpu, shown in states_of(self._sampler):
            info = gpu.device.info
            labels = (str(info.index), info.uuid)
            for error, count in shown.errors.items():
                builder.add(metrics.GPU_READ_ERRORS, (*labels, error), count)
            if gpu.is_open:
                _add_gpu(builder, labels, gpu, shown)
            if info.module and shown.status.module_watts is not None:
                module_watts[info.module] = shown.status.module_watts  # each GPU of a module reads it
        for module, watts in module_watts.items():
            builder.add(metrics.GPU_MODULE_POWER, (module,), watts)
        return builder.metrics()


def _add_gpu(builder: MetricBuilder, labels: tuple[str, str], gpu: GpuSampler, shown: GpuSnapshot) -> None:
    info = gpu.device.info
    identity = (info.name, info.driver_version, info.pci_bus_id, info.minor_number, info.power_source)
    scopes = (info.module, "" if info.power_source == "none" else "gpu", gpu.counter.scope)
    builder.add(metrics.GPU_INFO, (*labels, *identity, *scopes), 1)
    for spec, value_of in _VALUES:
        builder.add(spec, labels, value_of(shown))
    source = gpu.counter.source
    joules = shown.joules if source is Backend.ZEUS else shown.nvml_joules
    builder.add(metrics.GPU_ENERGY, (*labels, source or ""), joules if source else None)
    if shown.fresh:
        builder.add(metrics.GPU_POWER_UPDATE, labels, gpu.power_period.seconds)
        builder.add(metrics.GPU_ENERGY_UPDATE, labels, gpu.counter.period.seconds)
    for reason, active in shown.status.throttle.items():
        builder.add(metrics.GPU_THROTTLE, (*labels, reason), active)
    for part in shown.status.slices:
        builder.add(metrics.GPU_MIG_INFO, (*labels, part.uuid, part.profile), 1)
