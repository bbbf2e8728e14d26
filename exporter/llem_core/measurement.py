"""What a measurement is: joules with their coverage, bounds and warnings."""

from dataclasses import dataclass
from enum import StrEnum

from llem_core.backend import Backend


class WarningCode(StrEnum):
    """The closed list of what can make a measurement less than it seems."""

    SHORT_WINDOW = "short_window"
    FEW_SAMPLES = "few_samples"
    SAMPLE_GAP = "sample_gap"
    NEWEST_MISSING = "newest_missing"
    COUNTER_RESET = "counter_reset"
    COUNTER_LATE = "counter_late"
    COUNTER_STUCK = "counter_stuck"
    CONFLICTING_SAMPLES = "conflicting_samples"
    BAD_SAMPLES = "bad_samples"
    BACKENDS_DISAGREE = "backends_disagree"
    ENERGY_UNAVAILABLE = "energy_unavailable"
    EMISSIONS_UNAVAILABLE = "emissions_unavailable"
    GPU_LOST = "gpu_lost"
    PERSISTENCE_MODE_OFF = "persistence_mode_off"
    THERMAL_DRIFT = "thermal_drift"
    MIG_SLICE = "mig_slice"
    SOURCE_WARNING = "source_warning"


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """One thing to know of a measurement; `uuid` is the GPU's, or None where it concerns all."""

    code: WarningCode
    message: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class EnergyMeasurement:
    """Energy between two instants.

    Joules are None where nothing was measured, never 0. `per_gpu_j` and `per_gpu_bounds_j` (low,
    high, joules; high is infinite where nothing bounds it) are keyed by NVML index, or None where the
    backend cannot split by GPU. Times are unix seconds; `coverage` is the covered share of the time,
    from 0 to 1, of the worst GPU; `scope` is "gpu", "module" or "node"; `emissions_g` are grams of CO2
    equivalent, where the backend knows the country. `per_gpu_coverage` and `per_gpu_peak_watts` (the
    highest power sample) are keyed by NVML index, and None where the backend does not know them.
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
