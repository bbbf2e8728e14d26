"""One MetricSpec per metric.

The exporter publishes from this list, the integrator queries by it, and the README's table and the
dashboards are tested against it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric's full name, help, kind, labels in order, and the unit of its values ("" for none)."""

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()
    unit: str = ""


GPU: Final = ("gpu", "uuid")

GPU_INFO: Final = MetricSpec(
    "llem_gpu_info",
    "A GPU: its name, driver, addresses, and how its power is read (power_source) and of what (scope).",
    Kind.GAUGE,
    (*GPU, "name", "driver_version", "pci_bus_id", "minor_number", "power_source", "scope"),
)
GPU_POWER: Final = MetricSpec(
    "llem_gpu_power_watts",
    "Power of the newest sample; absent when that is older than 1 s.",
    Kind.GAUGE,
    GPU,
    "watts",
)
GPU_POWER_PEAK: Final = MetricSpec(
    "llem_gpu_power_peak_watts", "Highest power sample of the last 60 s.", Kind.GAUGE, GPU, "watts"
)
GPU_POWER_LIMIT: Final = MetricSpec(
    "llem_gpu_power_limit_watts", "Enforced power limit.", Kind.GAUGE, GPU, "watts"
)
GPU_NVML_ENERGY: Final = MetricSpec(
    "llem_gpu_nvml_energy_joules_total",
    "Energy: the trapezoid over the power samples. Covers what llem_gpu_integrated_seconds_total counts.",
    Kind.COUNTER,
    GPU,
    "joules",
)
GPU_ZEUS_ENERGY: Final = MetricSpec(
    "llem_gpu_zeus_energy_joules_total",
    "Energy since the driver was loaded: the hardware's own counter, read through Zeus.",
    Kind.COUNTER,
    GPU,
    "joules",
)
GPU_SAMPLE_TIMESTAMP: Final = MetricSpec(
    "llem_gpu_sample_timestamp_seconds",
    "When the values of this GPU on this page were read, in unix seconds.",
    Kind.GAUGE,
    GPU,
    "seconds",
)
GPU_INTEGRATED: Final = MetricSpec(
    "llem_gpu_integrated_seconds_total",
    "Time that llem_gpu_nvml_energy_joules_total covers.",
    Kind.COUNTER,
    GPU,
    "seconds",
)
GPU_GAP: Final = MetricSpec(
    "llem_gpu_gap_seconds_total",
    "Time since the first sample that llem_gpu_nvml_energy_joules_total does not cover.",
    Kind.COUNTER,
    GPU,
    "seconds",
)
GPU_SAMPLES: Final = MetricSpec("llem_gpu_samples_total", "Power samples taken.", Kind.COUNTER, GPU)
GPU_READ_ERRORS: Final = MetricSpec(
    "llem_gpu_read_errors_total",
    "Readings that failed or cannot be, by the driver's name of the error or one of ours.",
    Kind.COUNTER,
    (*GPU, "error"),
)
GPU_TEMPERATURE: Final = MetricSpec(
    "llem_gpu_temperature_celsius", "Temperature of the GPU die.", Kind.GAUGE, GPU, "celsius"
)
GPU_MEMORY_USED: Final = MetricSpec("llem_gpu_memory_used_bytes", "Memory in use.", Kind.GAUGE, GPU, "bytes")
GPU_MEMORY_TOTAL: Final = MetricSpec(
    "llem_gpu_memory_total_bytes", "Memory in all.", Kind.GAUGE, GPU, "bytes"
)
GPU_UTILIZATION: Final = MetricSpec(
    "llem_gpu_utilization_ratio",
    "Share of the driver's last sampling period in which a kernel ran, from 0 to 1.",
    Kind.GAUGE,
    GPU,
    "ratio",
)
GPU_THROTTLE: Final = MetricSpec(
    "llem_gpu_throttle_active",
    "Whether clocks are held down for this reason (1) or not (0).",
    Kind.GAUGE,
    (*GPU, "reason"),
)
GPU_MIG_INFO: Final = MetricSpec(
    "llem_gpu_mig_info",
    "A MIG slice of this GPU. A slice has no power of its own: all joules and watts are the whole GPU's.",
    Kind.GAUGE,
    (*GPU, "mig_uuid", "profile"),
)
GPU_JOB_INFO: Final = MetricSpec(
    "llem_gpu_job_info",
    "A job on this GPU, from the files in --jobs.dir, until its file is removed.",
    Kind.GAUGE,
    (*GPU, "job_id", "user", "account", "partition"),
)
CODECARBON_EMISSIONS: Final = MetricSpec(
    "llem_codecarbon_emissions_grams_total",
    "CO2-equivalent emissions as estimated by CodeCarbon, PUE 1. Absent without a country.",
    Kind.COUNTER,
    (),
    "grams",
)
CODECARBON_ENERGY: Final = MetricSpec(
    "llem_codecarbon_energy_joules_total",
    "Energy of this node's components (cpu, gpu, ram) as estimated by CodeCarbon, PUE 1.",
    Kind.COUNTER,
    ("component",),
    "joules",
)
CODECARBON_TIMESTAMP: Final = MetricSpec(
    "llem_codecarbon_sample_timestamp_seconds",
    "Unix time at which CodeCarbon took its newest measurement.",
    Kind.GAUGE,
    (),
    "seconds",
)
CODECARBON_INFO: Final = MetricSpec(
    "llem_codecarbon_info",
    "Version of CodeCarbon, and the country, region and PUE that its emissions are computed for.",
    Kind.GAUGE,
    ("version", "country_iso_code", "cc_region", "pue"),
)
BACKEND_AVAILABLE: Final = MetricSpec(
    "llem_backend_available",
    "Whether this energy backend works here (1) or not (0).",
    Kind.GAUGE,
    ("backend",),
)
BACKEND_SELECTED: Final = MetricSpec(
    "llem_backend_selected",
    "Whether this is the energy backend chosen here (1) or not (0).",
    Kind.GAUGE,
    ("backend",),
)
COLLECTOR_SUCCESS: Final = MetricSpec(
    "llem_collector_success",
    "Whether the collector's last reading of every GPU succeeded (1) or not (0).",
    Kind.GAUGE,
    ("collector",),
)
COLLECTOR_DURATION: Final = MetricSpec(
    "llem_collector_duration_seconds",
    "Longest time that the collector's last reading of a GPU took.",
    Kind.GAUGE,
    ("collector",),
    "seconds",
)
SAMPLER_INTERVAL: Final = MetricSpec(
    "llem_sampler_interval_seconds", "Time between power samples.", Kind.GAUGE, (), "seconds"
)
SAMPLER_LAST_TICK: Final = MetricSpec(
    "llem_sampler_last_tick_timestamp_seconds",
    "The newest tick that a GPU was read for, in unix seconds.",
    Kind.GAUGE,
    (),
    "seconds",
)
SAMPLER_LATENESS: Final = MetricSpec(
    "llem_sampler_lateness_seconds", "Each GPU's read minus its tick.", Kind.HISTOGRAM, (), "seconds"
)
NVML_CALL: Final = MetricSpec(
    "llem_nvml_call_seconds", "Time of each NVML call for power.", Kind.HISTOGRAM, (), "seconds"
)
HISTORY_HELD: Final = MetricSpec(
    "llem_history_held_samples",
    "Readings that /history holds, over all GPUs; each is watts, joules or both.",
    Kind.GAUGE,
)
HISTORY_SCRAPERS: Final = MetricSpec(
    "llem_history_scrapers", "Scrapers of /history that are known by their ID.", Kind.GAUGE
)
HISTORY_OFFERED: Final = MetricSpec(
    "llem_history_offered_samples_total",
    "Readings that answers to scrapers of /history carried, repeated ones included.",
    Kind.COUNTER,
)
HISTORY_CONFIRMED: Final = MetricSpec(
    "llem_history_confirmed_samples_total",
    "Readings whose answer was read to its end, or that were offered twice.",
    Kind.COUNTER,
)
HISTORY_EVICTED: Final = MetricSpec(
    "llem_history_evicted_samples_total",
    "Readings that went out of the history before a known scraper had them.",
    Kind.COUNTER,
)
HISTORY_CONFLICTS: Final = MetricSpec(
    "llem_history_conflicts_total",
    "Requests refused because another address uses the same scraper ID.",
    Kind.COUNTER,
)
CLOCK_STEPS: Final = MetricSpec(
    "llem_clock_steps_total", "Times that the wall clock was set, forward or back.", Kind.COUNTER
)
BUILD_INFO: Final = MetricSpec(
    "llem_exporter_build_info", "The exporter's version and its Python's.", Kind.GAUGE, ("version", "python")
)

GPU_POWER_TRACE: Final = MetricSpec(
    "llem_gpu_power_trace_watts", "Every power sample, with its own timestamp.", Kind.GAUGE, GPU, "watts"
)
GPU_ZEUS_TRACE: Final = MetricSpec(
    "llem_gpu_zeus_energy_trace_joules_total",
    "Every reading of the hardware's energy counter, with its own timestamp.",
    Kind.COUNTER,
    GPU,
    "joules",
)

METRICS_PAGE: Final = (
    GPU_INFO,
    GPU_POWER,
    GPU_POWER_PEAK,
    GPU_POWER_LIMIT,
    GPU_NVML_ENERGY,
    GPU_ZEUS_ENERGY,
    GPU_SAMPLE_TIMESTAMP,
    GPU_INTEGRATED,
    GPU_GAP,
    GPU_SAMPLES,
    GPU_READ_ERRORS,
    GPU_TEMPERATURE,
    GPU_MEMORY_USED,
    GPU_MEMORY_TOTAL,
    GPU_UTILIZATION,
    GPU_THROTTLE,
    GPU_MIG_INFO,
    GPU_JOB_INFO,
    CODECARBON_EMISSIONS,
    CODECARBON_ENERGY,
    CODECARBON_TIMESTAMP,
    CODECARBON_INFO,
    BACKEND_AVAILABLE,
    BACKEND_SELECTED,
    COLLECTOR_SUCCESS,
    COLLECTOR_DURATION,
    SAMPLER_INTERVAL,
    SAMPLER_LAST_TICK,
    SAMPLER_LATENESS,
    NVML_CALL,
    HISTORY_HELD,
    HISTORY_SCRAPERS,
    HISTORY_OFFERED,
    HISTORY_CONFIRMED,
    HISTORY_EVICTED,
    HISTORY_CONFLICTS,
    CLOCK_STEPS,
    BUILD_INFO,
)
"""What /metrics carries, in the order of the README's table (beside process_*)."""

HISTORY_PAGE: Final = (GPU_POWER_TRACE, GPU_ZEUS_TRACE, GPU_INFO, GPU_POWER_LIMIT, SAMPLER_INTERVAL)
"""What /history carries."""
