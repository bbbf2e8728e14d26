"""What is asked of each window."""

from dataclasses import dataclass

from llem_core.backend import Backend
from llem_integrator.series.matchers import Selector


@dataclass(frozen=True, slots=True)
class Request:
    """Options that apply to all windows.

    `backend` is None for auto. `gpus` are NVML indices or UUIDs; if it is empty, all GPUs are wanted. A GPU
    must match any of `selectors`. If `max_gap_ms` is None, it follows from the samples. With `emissions`,
    grams of CO2 equivalent are wanted, too.
    """

    backend: Backend | None = None
    selectors: tuple[Selector, ...] = ((),)
    gpus: tuple[str, ...] = ()
    max_gap_ms: float | None = None
    min_coverage: float = 0.99
    emissions: bool = False
