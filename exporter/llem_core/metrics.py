"""The metrics of llem: one MetricSpec each.

The exporter publishes them, the integrator queries them by these specs, and the README's table and the
dashboards are tested against them.
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
    """A metric's full name, help text, kind, labels in order, and the unit of its values ("" for none)."""

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()
    unit: str = ""


GPU: Final = ("gpu", "uuid")

GPU_INFO: Final = MetricSpec(
    "llem_gpu_info",
    "GPU model, driver and addresses; the source and scope of power, and what the energy counter counts.",
    Kind.GAUGE,
    (
        *GPU,
        "name",
        "driver_version",
        "pci_bus_id",
        "minor_number",
        "power_source",
        "module",
        "power_scope",
        "energy_scope",
    ),
)
GPU_POWER: Final = MetricSpec(
    "llem_gpu_power_watts", "GPU power, as sampled within the last second.", Kind.GAUGE, GPU, "watts"
)
GPU_POWER_PEAK: Final = MetricSpec(
    "llem_gpu_power_peak_watts", "Highest power sample of the last 60 s.", Kind.GAUGE, GPU, "watts"
)
GPU_POWER_LIMIT: Final = MetricSpec(
    "llem_gpu_power_limit_watts", "Enforced power limit.", Kind.GAUGE, GPU, "watts"
)
GPU_MODULE_POWER: Final = MetricSpec(
    "llem_gpu_module_power_watts",
    "Power of a superchip module: its GPUs, CPU and memory together.",
    Kind.GAUGE,
    ("module",),
    "watts",
)
GPU_ENERGY: Final = MetricSpec(
    "llem_gpu_energy_joules_total",
    "GPU energy from the best source: the hardware counter (zeus), or the integrated power samples (nvml).",
    Kind.COUNTER,
    (*GPU, "source"),
    "joules",
)
GPU_NVML_ENERGY: Final = MetricSpec(
    "llem_gpu_nvml_energy_joules_total",
    "GPU energy integrated from the power samples by the trapezoidal rule, without gaps.",
    Kind.COUNTER,
    GPU,
    "joules",
)
GPU_ZEUS_ENERGY: Final = MetricSpec(
    "llem_gpu_zeus_energy_joules_total",
    "GPU energy since the driver was loaded, by the hardware counter, read through Zeus.",
    Kind.COUNTER,
    GPU,
    "joules",
)
GPU_SAMPLE_TIMESTAMP: Final = MetricSpec(
    "llem_gpu_sample_timestamp_seconds",
    "Unix time at which this GPU's power and energy on this page were read.",
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
GPU_SAMPLES: Final = MetricSpec("llem_gpu_samples_total", "Number of power samples.", Kind.COUNTER, GPU)
GPU_READ_ERRORS: Final = MetricSpec(
    "llem_gpu_read_errors_total",
    "Number of failed or invalid readings, by the driver's name of the error or llem's own.",
    Kind.COUNTER,
    (*GPU, "error"),
)
GPU_POWER_UPDATE: Final = MetricSpec(
    "llem_gpu_power_update_seconds",
    "Measured update period of the power sensor. At most the sample interval if it updates faster.",
    Kind.GAUGE,
    GPU,
    "seconds",
)
GPU_ENERGY_UPDATE: Final = MetricSpec(
    "llem_gpu_energy_update_seconds",
    "Measured update period of the energy counter. At most the sample interval if it updates faster.",
    Kind.GAUGE,
    GPU,
    "seconds",
)
GPU_TEMPERATURE: Final = MetricSpec(
    "llem_gpu_temperature_celsius", "Temperature of the GPU die.", Kind.GAUGE, GPU, "celsius"
)
GPU_MEMORY_USED: Final = MetricSpec(
    "llem_gpu_memory_used_bytes", "GPU memory in use.", Kind.GAUGE, GPU, "bytes"
)
GPU_MEMORY_TOTAL: Final = MetricSpec(
    "llem_gpu_memory_total_bytes", "Total GPU memory.", Kind.GAUGE, GPU, "bytes"
)
GPU_UTILIZATION: Final = MetricSpec(
    "llem_gpu_utilization_ratio",
    "Share of the driver's last sampling period in which a kernel ran, from 0 to 1.",
    Kind.GAUGE,
    GPU,
    "ratio",
)
GPU_SM_CLOCK: Final = MetricSpec(
    "llem_gpu_sm_clock_hertz", "Clock frequency of the streaming multiprocessors.", Kind.GAUGE, GPU, "hertz"
)
GPU_THROTTLE: Final = MetricSpec(
    "llem_gpu_throttle_active",
    "Whether clocks are held down for this reason (1) or not (0).",
    Kind.GAUGE,
    (*GPU, "reason"),
)
GPU_MIG_INFO: Final = MetricSpec(
    "llem_gpu_mig_info",
    "A MIG slice of this GPU. A slice has no power sensor: watts and joules are those of the whole GPU.",
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
    "Whether this energy backend can measure every GPU now (1) or not (0).",
    Kind.GAUGE,
    ("backend",),
)
BACKEND_SELECTED: Final = MetricSpec(
    "llem_backend_selected",
    "Whether this is the best energy backend that is available now (1) or not (0).",
    Kind.GAUGE,
    ("backend",),
)
COLLECTOR_SUCCESS: Final = MetricSpec(
    "llem_collector_success",
    "Whether the collector's last reading succeeded (1) or not (0).",
    Kind.GAUGE,
    ("collector",),
)
COLLECTOR_DURATION: Final = MetricSpec(
    "llem_collector_duration_seconds",
    "Duration of the collector's last reading, for GPUs that of the slowest.",
    Kind.GAUGE,
    ("collector",),
    "seconds",
)
SAMPLER_INTERVAL: Final = MetricSpec(
    "llem_sampler_interval_seconds", "Time between two power samples.", Kind.GAUGE, (), "seconds"
)
SAMPLER_LAST_TICK: Final = MetricSpec(
    "llem_sampler_last_tick_timestamp_seconds",
    "Unix time of the newest tick for which a GPU was read.",
    Kind.GAUGE,
    (),
    "seconds",
)
SAMPLER_LATENESS: Final = MetricSpec(
    "llem_sampler_lateness_seconds", "Time of each reading minus its tick.", Kind.HISTOGRAM, (), "seconds"
)
NVML_CALL: Final = MetricSpec(
    "llem_nvml_call_seconds",
    "Duration of driver calls: for power, for the energy counter, and for all slow readings (status).",
    Kind.HISTOGRAM,
    ("call",),
    "seconds",
)
HISTORY_HELD: Final = MetricSpec(
    "llem_history_held_samples", "Number of samples that /history holds of all GPUs.", Kind.GAUGE
)
HISTORY_PAUSED: Final = MetricSpec(
    "llem_history_paused",
    "Whether no samples are added to /history (1) because the wall clock was stepped back.",
    Kind.GAUGE,
)
HISTORY_SCRAPERS: Final = MetricSpec(
    "llem_history_scrapers", "Number of scraper IDs that have used /history recently.", Kind.GAUGE
)
HISTORY_OFFERED: Final = MetricSpec(
    "llem_history_offered_samples_total",
    "Number of samples in responses to scrapers of /history, including repeated ones.",
    Kind.COUNTER,
)
HISTORY_CONFIRMED: Final = MetricSpec(
    "llem_history_confirmed_samples_total",
    "Number of samples whose response was read to its end, or that were offered twice.",
    Kind.COUNTER,
)
HISTORY_EVICTED: Final = MetricSpec(
    "llem_history_evicted_samples_total",
    "Number of samples that were dropped before a known scraper received them.",
    Kind.COUNTER,
)
HISTORY_CONFLICTS: Final = MetricSpec(
    "llem_history_conflicts_total",
    "Number of requests refused because another address uses the same scraper ID.",
    Kind.COUNTER,
)
CLOCK_STEPS: Final = MetricSpec(
    "llem_clock_steps_total", "Number of steps of the wall clock, forward or back.", Kind.COUNTER
)
BUILD_INFO: Final = MetricSpec(
    "llem_exporter_build_info", "Version of the exporter and of Python.", Kind.GAUGE, ("version", "python")
)

GPU_POWER_TRACE: Final = MetricSpec(
    "llem_gpu_power_trace_watts", "Every power sample, with its own timestamp.", Kind.GAUGE, GPU, "watts"
)
GPU_ZEUS_TRACE: Final = MetricSpec(
    "llem_gpu_zeus_energy_trace_joules_total",
    "Every reading of the hardware energy counter, with its own timestamp.",
    Kind.COUNTER,
    GPU,
    "joules",
)

METRICS_PAGE: Final = (
    GPU_INFO,
    GPU_POWER,
    GPU_POWER_PEAK,
    GPU_POWER_LIMIT,
    GPU_MODULE_POWER,
    GPU_ENERGY,
    GPU_NVML_ENERGY,
    GPU_ZEUS_ENERGY,
    GPU_SAMPLE_TIMESTAMP,
    GPU_INTEGRATED,
    GPU_GAP,
    GPU_SAMPLES,
    GPU_READ_ERRORS,
    GPU_POWER_UPDATE,
    GPU_ENERGY_UPDATE,
    GPU_TEMPERATURE,
    GPU_MEMORY_USED,
    GPU_MEMORY_TOTAL,
    GPU_UTILIZATION,
    GPU_SM_CLOCK,
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
    HISTORY_PAUSED,
    HISTORY_SCRAPERS,
    HISTORY_OFFERED,
    HISTORY_CONFIRMED,
    HISTORY_EVICTED,
    HISTORY_CONFLICTS,
    CLOCK_STEPS,
    BUILD_INFO,
)
"""The metrics of /metrics, in the order of the README's table (beside process_*)."""

HISTORY_PAGE: Final = (GPU_POWER_TRACE, GPU_ZEUS_TRACE, GPU_INFO, GPU_POWER_LIMIT, SAMPLER_INTERVAL)
"""The metrics of /history."""
