"""The backends by name, and the choice of the first that works, in the order of priority."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError
from llem_measure.backends.base import EnergyBackend, GpuBackend
from llem_measure.backends.codecarbon import CodeCarbonBackend
from llem_measure.backends.nvml import NVMLBackend
from llem_measure.backends.zeus import ZeusBackend
from llem_measure.nvml.calls import DRIVER_SECONDS

AUTO: Final = "auto"

_log = logging.getLogger(__name__)

_OURS: Final = (Backend.ZEUS, Backend.NVML, Backend.CODECARBON)
"""Our backends by priority."""

_makers: Final[dict[str, Callable[..., EnergyBackend]]] = {
    Backend.ZEUS: ZeusBackend,
    Backend.NVML: NVMLBackend,
    Backend.CODECARBON: CodeCarbonBackend,
}


def register_backend(name: str, make: Callable[..., EnergyBackend]) -> None:
    """Register `make(**kwargs)` under a name. `kwargs` contains `gpu_indices` if GPUs are named.

    "auto" never chooses it. Raises ConfigError for a name that is taken.
    """
    if name in _makers or name in {AUTO, Backend.NONE}:
        raise ConfigError(f"a backend {name!r} is registered already")
    _makers[name] = make


def list_backends() -> list[str]:
    """Return the names of all backends: ours by priority, then registered ones."""
    return [str(name) for name in _makers]


def get_backend(name: str, **kwargs: Any) -> EnergyBackend:
    """Return a new backend, whether it works here or not. Raises ConfigError for an unknown name."""
    if name not in _makers:
        raise ConfigError(f"unknown backend {name!r}; known are {', '.join(list_backends())}")
    return _makers[name](**kwargs)


def select_energy_backend(
    explicit: str | None,
    *,
    gpu_indices: Sequence[int] | None = None,
    driver_timeout_s: float = DRIVER_SECONDS,
) -> EnergyBackend | None:
    """Return the backend for these GPUs (NVML's indices; None means the visible ones).

    For None or "none", return None: measuring is off. For "auto", return the first backend that works here,
    or None, and log why; `probe_backends` returns all reasons. For a name, return that backend. Raises
    ConfigError if a named backend does not work here. A GPU's first call may take `driver_timeout_s`, later
    ones 2 s.
    """
    if explicit is None or explicit == Backend.NONE:
        return None
    if explicit != AUTO:
        backend = _new(explicit, gpu_indices, driver_timeout_s)
        try:
            _checked(backend)
        except ConfigError as exc:
            raise ConfigError(f"backend {explicit} cannot measure here: {exc}") from exc
        return backend
    chosen, _, candidates = first_that_works(gpu_indices, driver_timeout_s, start=False)
    if chosen is None:
        _log.warning("no energy backend works here: %s", "; ".join(reasons_of(candidates)))
    return chosen


def first_that_works(
    gpu_indices: Sequence[int] | None, driver_timeout_s: float, *, start: bool
) -> tuple[EnergyBackend | None, Any, tuple[Candidate, ...]]:
    """Return the first backend that works, its tracker if it is to start, and those tried up to it."""
    candidates: list[Candidate] = []
    for name in _OURS:
        backend, tracker, candidate = _try(name, gpu_indices, driver_timeout_s, start=start)
        candidates.append(candidate)
        if candidate.usable:
            return backend, tracker, tuple(candidates)
    return None, None, tuple(candidates)


def probe_backends(gpu_indices: Sequence[int] | None = None) -> tuple[Candidate, ...]:
    """Return what each of our backends can measure here, or why it cannot. Trying them all takes seconds."""
    return tuple(_try(name, gpu_indices, DRIVER_SECONDS, start=False)[2] for name in _OURS)


def reasons_of(candidates: Sequence[Candidate]) -> list[str]:
    """Return a text for each candidate: its name and its reason."""
    return [f"{candidate.backend}: {candidate.reason}" for candidate in candidates]


def _try(
    name: Backend, gpu_indices: Sequence[int] | None, driver_timeout_s: float, *, start: bool
) -> tuple[EnergyBackend, Any, Candidate]:
    backend = _new(name, gpu_indices, driver_timeout_s)
    try:
        reason = _checked(backend)
        tracker = backend.start_tracking() if start else None
    except ConfigError as exc:
        return backend, None, Candidate(name, 0.0, str(exc))
    return backend, tracker, Candidate(name, 1.0, reason)


def _new(name: str, gpu_indices: Sequence[int] | None, driver_timeout_s: float) -> EnergyBackend:
    kwargs: dict[str, Any] = {} if gpu_indices is None else {"gpu_indices": gpu_indices}
    if name in _OURS:
        kwargs["driver_timeout_s"] = driver_timeout_s
    if name == Backend.NVML and gpu_indices is None:
        kwargs["device_index"] = None
    return get_backend(name, **kwargs)


def _checked(backend: EnergyBackend) -> str:
    """Return what the backend measures. Raises ConfigError."""
    if isinstance(backend, GpuBackend):
        return backend.check()
    if not backend.is_available():
        raise ConfigError("the backend reports that it is not available here")
    return "the backend reports that it is available here"
