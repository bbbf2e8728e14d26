"""The result of a measurement: joules with their coverage, bounds and warnings."""

from dataclasses import dataclass
from enum import StrEnum

from llem_core.backend import Backend


class WarningCode(StrEnum):
    """The reasons why a measurement may be inaccurate or incomplete."""

    SHORT_WINDOW = "short_window"
    FEW_SAMPLES = "few_samples"
    SAMPLE_GAP = "sample_gap"
    NEWEST_MISSING = "newest_missing"
    COUNTER_RESET = "counter_reset"
    COUNTER_LATE = "counter_late"
    COUNTER_STUCK = "counter_stuck"
    CLOCK_SKEW = "clock_skew"
    CONFLICTING_SAMPLES = "conflicting_samples"
    BAD_SAMPLES = "bad_samples"
    BACKENDS_DISAGREE = "backends_disagree"
    ENERGY_UNAVAILABLE = "energy_unavailable"
    EMISSIONS_UNAVAILABLE = "emissions_unavailable"
    GPU_LOST = "gpu_lost"
    GPU_SHARED = "gpu_shared"
    PERSISTENCE_MODE_OFF = "persistence_mode_off"
    THERMAL_DRIFT = "thermal_drift"
    MIG_SLICE = "mig_slice"
    SOURCE_WARNING = "source_warning"


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """A warning about a measurement. `uuid` is that of the GPU, or None if the warning concerns all GPUs."""

    code: WarningCode
    message: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class EnergyMeasurement:
    """Energy between two instants.

    Joules are None if nothing was measured, never 0. `per_gpu_j` and `per_gpu_bounds_j` (low and high, in
    joules; high is infinite if there is no upper bound) are keyed by NVML index. They are None if the backend
    cannot divide the energy among the GPUs. Times are unix seconds. `coverage` is the lowest covered fraction
    of the time of any GPU, from 0 to 1. `scope` is "gpu", "module" or "node". `emissions_g` are grams of CO2
    equivalent, if the backend knows the country. `per_gpu_coverage` and `per_gpu_peak_watts` (the highest
    power sample) are keyed by NVML index. They are None if the backend does not know them.
    """

    total_j: float | None
    duration_sec: float
    samples: int
    per_gpu_j: dict[int, float] | None
    start_unix_s: float
    end_unix_s: float
    coverage: float
    backend: Backend
    scope: str = "gpu"
    per_gpu_bounds_j: dict[int, tuple[float, float]] | None = None
    warnings: tuple[MeasurementWarning, ...] = ()
    emissions_g: float | None = None
    per_gpu_coverage: dict[int, float] | None = None
    per_gpu_peak_watts: dict[int, float] | None = None
