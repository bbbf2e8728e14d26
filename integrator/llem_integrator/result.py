"""What the integrator answers, field by field as the JSON shows it."""

from dataclasses import dataclass, field

from llem_core.backend import Backend
from llem_core.measurement import MeasurementWarning


@dataclass(frozen=True, slots=True)
class GpuEnergy:
    """One GPU's energy in one window.

    Joules are None where nothing was measured; `joules_high` also where nothing bounds it. Seconds
    and watts as named; `coverage` is covered_s over the window's duration. From `price` on, fields
    are None where they were not asked for.
    """

    uuid: str
    gpu: str
    name: str | None
    instances: tuple[str, ...]
    joules: float | None = None
    joules_low: float | None = None
    joules_high: float | None = None
    mean_watts: float | None = None
    peak_watts: float | None = None
    backend: Backend = Backend.NONE
    method: str | None = None
    coverage: float = 0.0
    covered_s: float = 0.0
    gap_s: float = 0.0
    largest_gap_s: float | None = None
    max_gap_s: float | None = None
    sample_count: int = 0
    resets: int = 0
    joules_by_backend: dict[str, float] = field(default_factory=dict)
    emissions_g: float | None = None
    price: float | None = None
    idle_j: float | None = None
    active_j: float | None = None
    calibrated: bool | None = None
    exact_j: float | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """A backend, whether its data could serve the window, and why (not)."""

    backend: Backend
    usable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The energy of one window, [start, end) in unix seconds; `backend` is "mixed" where nodes differ."""

    name: str | None
    start: float
    end: float
    duration_sec: float
    valid: bool
    reasons: tuple[str, ...]
    backend: str
    scope: str
    total_j: float | None
    per_gpu_j: dict[str, float | None]
    gpus: tuple[GpuEnergy, ...]
    considered: tuple[Considered, ...]
    warnings: tuple[MeasurementWarning, ...]

    def _repr_html_(self) -> str:
        """A table, as notebooks show it."""
        from llem_integrator.report import About
        from llem_integrator.report.html_table import tables

        return tables([self], About(""))
