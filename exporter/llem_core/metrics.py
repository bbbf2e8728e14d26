"""The metrics of llem.

The exporter publishes them, and the integrator queries them by these specs. The README's table and the
dashboards are tested against them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_UNITS: Final = ("bytes", "celsius", "grams", "hertz", "joules", "ratio", "seconds", "watts")


class Kind(StrEnum):
    """The kinds of metrics."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric's full name, kind, help text, and labels in order."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The unit of the values: the last word of the name before _total, or "" if there is none."""
        word = self.name.removesuffix("_total").rpartition("_")[2]
        return word if word in _UNITS else ""


def _gauge(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, Kind.GAUGE, text, labels)


def _counter(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, Kind.COUNTER, text, labels)


GPU: Final = ("gpu", "uuid")

GPU_INFO: Final = _gauge(
    "llem_gpu_info",
    "GPU model, driver version, addresses, source and scope of power, and scope of the energy counter.",
    *GPU,
    "name",
    "driver_version",
    "pci_bus_id",
    "minor_number",
    "power_source",
    "module",
    "power_scope",
    "energy_scope",
)
GPU_POWER: Final = _gauge("llem_gpu_power_watts", "GPU power, as sampled within the last second.", *GPU)
GPU_POWER_PEAK: Final = _gauge("llem_gpu_power_peak_watts", "Highest power sample of the last 60 s.", *GPU)
GPU_POWER_LIMIT: Final = _gauge("llem_gpu_power_limit_watts", "Enforced power limit.", *GPU)
GPU_MODULE_POWER: Final = _gauge(
    "llem_gpu_module_power_watts", "Power of a superchip module: its GPUs, CPU and memory together.", "module"
)
GPU_ENERGY: Final = _counter(
    "llem_gpu_energy_joules_total",
    "GPU energy from the best source: the hardware counter (zeus), or the integrated power samples (nvml).",
    *GPU,
    "source",
)
GPU_NVML_ENERGY: Final = _counter(
    "llem_gpu_nvml_energy_joules_total",
    "GPU energy integrated from the power samples by the trapezoidal rule. Gaps add no energy.",
    *GPU,
)
GPU_ZEUS_ENERGY: Final = _counter(
    "llem_gpu_zeus_energy_joules_total",
    "GPU energy since the driver was loaded, by the hardware counter, read through Zeus.",
    *GPU,
)
GPU_SAMPLE_TIMESTAMP: Final = _gauge(
    "llem_gpu_sample_timestamp_seconds",
    "Unix time at which this GPU's power and energy on this page were read.",
    *GPU,
)
GPU_INTEGRATED: Final = _counter(
    "llem_gpu_integrated_seconds_total", "Total time that llem_gpu_nvml_energy_joules_total covers.", *GPU
)
GPU_GAP: Final = _counter(
    "llem_gpu_gap_seconds_total",
    "Total time that is missing from llem_gpu_nvml_energy_joules_total since the first sample.",
    *GPU,
)
GPU_SAMPLES: Final = _counter("llem_gpu_samples_total", "Total number of power samples.", *GPU)
GPU_READ_ERRORS: Final = _counter(
    "llem_gpu_read_errors_total",
    "Total number of failed or invalid readings, by NVML's or the exporter's name of the error.",
    *GPU,
    "error",
)
GPU_POWER_UPDATE: Final = _gauge(
    "llem_gpu_power_update_seconds",
    "Measured update period of the power sensor; the sample interval if the sensor is faster.",
    *GPU,
)
GPU_ENERGY_UPDATE: Final = _gauge(
    "llem_gpu_energy_update_seconds",
    "Measured update period of the energy counter; the sample interval if the counter is faster.",
    *GPU,
)
GPU_TEMPERATURE: Final = _gauge("llem_gpu_temperature_celsius", "Temperature of the GPU die.", *GPU)
GPU_MEMORY_USED: Final = _gauge("llem_gpu_memory_used_bytes", "GPU memory in use.", *GPU)
GPU_MEMORY_TOTAL: Final = _gauge("llem_gpu_memory_total_bytes", "Total GPU memory.", *GPU)
GPU_UTILIZATION: Final = _gauge(
    "llem_gpu_utilization_ratio",
    "Share of the driver's last sampling period in which a kernel ran, from 0 to 1.",
    *GPU,
)
GPU_SM_CLOCK: Final = _gauge(
    "llem_gpu_sm_clock_hertz", "Clock frequency of the streaming multiprocessors.", *GPU
)
GPU_THROTTLE: Final = _gauge(
    "llem_gpu_throttle_active",
    "Whether the clocks are reduced for this reason (1) or not (0).",
    *GPU,
    "reason",
)
GPU_MIG_INFO: Final = _gauge(
    "llem_gpu_mig_info",
    "A MIG slice of this GPU. A slice has no power sensor: watts and joules are those of the whole GPU.",
    *GPU,
    "mig_uuid",
    "profile",
)
GPU_JOB_INFO: Final = _gauge(
    "llem_gpu_job_info",
    "A job on this GPU, from the files in --jobs.dir, until its file is removed.",
    *GPU,
    "job_id",
    "user",
    "account",
    "partition",
)
CODECARBON_EMISSIONS: Final = _counter(
    "llem_codecarbon_emissions_grams_total",
    "CO2e emissions estimated by CodeCarbon with a PUE of 1. --codecarbon.country-iso-code is required.",
)
CODECARBON_ENERGY: Final = _counter(
    "llem_codecarbon_energy_joules_total",
    "Energy of this node's components (cpu, gpu, ram), estimated by CodeCarbon with a PUE of 1.",
    "component",
)
CODECARBON_TIMESTAMP: Final = _gauge(
    "llem_codecarbon_sample_timestamp_seconds", "Unix time at which CodeCarbon took its newest measurement."
)
CODECARBON_INFO: Final = _gauge(
    "llem_codecarbon_info",
    "Version of CodeCarbon, and the country, region and PUE that its emissions are computed for.",
    "version",
    "country_iso_code",
    "cc_region",
    "pue",
)
BACKEND_AVAILABLE: Final = _gauge(
    "llem_backend_available",
    "Whether this energy backend can measure every GPU now (1) or not (0).",
    "backend",
)
BACKEND_SELECTED: Final = _gauge(
    "llem_backend_selected",
    "Whether this is the best energy backend that is available now (1) or not (0).",
    "backend",
)
COLLECTOR_SUCCESS: Final = _gauge(
    "llem_collector_success", "Whether the collector's last reading succeeded (1) or not (0).", "collector"
)
COLLECTOR_DURATION: Final = _gauge(
    "llem_collector_duration_seconds",
    "Duration of the collector's last reading. For GPUs, that of the slowest GPU.",
    "collector",
)
SAMPLER_INTERVAL: Final = _gauge("llem_sampler_interval_seconds", "Time between two power samples.")
SAMPLER_LAST_TICK: Final = _gauge(
    "llem_sampler_last_tick_timestamp_seconds", "Unix time for which the newest reading was scheduled."
)
SAMPLER_LATENESS: Final = MetricSpec(
    "llem_sampler_lateness_seconds", Kind.HISTOGRAM, "Delay of each reading after its scheduled time."
)
NVML_CALL: Final = MetricSpec(
    "llem_nvml_call_seconds",
    Kind.HISTOGRAM,
    "Duration of driver calls by type: power, energy, or status (all values that are read once a second).",
    ("call",),
)
HISTORY_HELD: Final = _gauge(
    "llem_history_held_samples", "Number of samples of all GPUs that /history holds."
)
HISTORY_PAUSED: Final = _gauge(
    "llem_history_paused",
    "Whether /history is paused (1) or not (0). It pauses after the system clock was set back.",
)
HISTORY_SCRAPERS: Final = _gauge(
    "llem_history_scrapers", "Number of scraper IDs that have used /history within the retention."
)
HISTORY_OFFERED: Final = _counter(
    "llem_history_offered_samples_total",
    "Total number of samples in responses to scrapers of /history, including repeated ones.",
)
HISTORY_CONFIRMED: Final = _counter(
    "llem_history_confirmed_samples_total",
    "Total number of delivered samples: the client read the whole response, or they were sent twice.",
)
HISTORY_EVICTED: Final = _counter(
    "llem_history_evicted_samples_total",
    "Total number of samples that were dropped before a registered scraper ID received them.",
)
HISTORY_CONFLICTS: Final = _counter(
    "llem_history_conflicts_total",
    "Total number of requests refused because another address uses the same scraper ID.",
)
CLOCK_STEPS: Final = _counter(
    "llem_clock_steps_total", "Total number of times that the system clock was set forward or back."
)
BUILD_INFO: Final = _gauge(
    "llem_exporter_build_info", "Version of the exporter and of Python.", "version", "python"
)
METRICS_PAGE: Final = tuple(spec for spec in globals().values() if isinstance(spec, MetricSpec))
"""The metrics of /metrics: all above, in the order of the README's table (beside process_*)."""

GPU_POWER_TRACE: Final = _gauge(
    "llem_gpu_power_trace_watts", "Every power sample, with its own timestamp.", *GPU
)
GPU_ZEUS_TRACE: Final = _counter(
    "llem_gpu_zeus_energy_trace_joules_total",
    "Every reading of the hardware energy counter, with its own timestamp.",
    *GPU,
)

HISTORY_PAGE: Final = (GPU_POWER_TRACE, GPU_ZEUS_TRACE, GPU_INFO, GPU_POWER_LIMIT, SAMPLER_INTERVAL)
"""The metrics of /history."""
