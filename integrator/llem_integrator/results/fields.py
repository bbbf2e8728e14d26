"""The fields of results, with the names and the order of the JSON document."""

from dataclasses import dataclass
from typing import NamedTuple

from llem_core.backend import Backend
from llem_core.measurement import MeasurementWarning


class GpuEnergy(NamedTuple):
    """One GPU's energy in one window.

    Joules are None if nothing was measured. `joules_high` is also None if there is no upper bound. `coverage`
    is covered_s divided by the duration of the window. The fields from `emissions_g` on are None if they were
    not requested. It is a tuple because there may be millions, and a tuple is created five times faster.
    """

    uuid: str
    gpu: str
    name: str | None
    instances: tuple[str, ...]
    joules: float | None
    joules_low: float | None
    joules_high: float | None
    mean_watts: float | None
    peak_watts: float | None
    backend: Backend
    method: str | None
    coverage: float
    covered_s: float
    gap_s: float
    largest_gap_s: float | None
    max_gap_s: float | None
    sample_count: int
    resets: int
    joules_by_backend: dict[str, float]
    emissions_g: float | None = None
    price: float | None = None
    idle_j: float | None = None
    active_j: float | None = None
    calibrated: bool | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """A backend, whether its data could be used for the window, and the reason."""

    backend: Backend
    usable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The energy of one window, [start, end) in unix seconds.

    `backend` is "mixed" if nodes use different backends. `scope` is "gpu", or "node" if the joules are those
    of CPUs and memory.
    """

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
        """Return a table for notebooks."""
        from llem_integrator.report import About
        from llem_integrator.report.html_table import tables

        return tables([self], About(""))
