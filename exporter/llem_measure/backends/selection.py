"""The backends by name, and the choice of one: what really works, in the order of priority."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from llem_core.backend import PRIORITY, Backend, Candidate, choose
from llem_core.errors import ConfigError
from llem_measure.backends.base import Checked, EnergyBackend
from llem_measure.backends.codecarbon import CodeCarbonBackend
from llem_measure.backends.nvml import NVMLBackend
from llem_measure.backends.zeus import ZeusBackend

AUTO: Final = "auto"

_log = logging.getLogger(__name__)

_makers: Final[dict[str, Callable[..., EnergyBackend]]] = {
    Backend.ZEUS: ZeusBackend,
    Backend.NVML: NVMLBackend,
    Backend.CODECARBON: CodeCarbonBackend,
}


def register_backend(name: str, make: Callable[..., EnergyBackend]) -> None:
    """Let `name` stand for what `make(**kwargs)` returns; `gpu_indices` is among them where GPUs are named.

    "auto" never takes it. Raises ConfigError for a name that is taken.
    """
    if name in _makers or name in {AUTO, Backend.NONE}:
        raise ConfigError(f"there is a backend {name!r} already")
    _makers[name] = make


def list_backends() -> list[str]:
    """Names of all backends: ours in their order, then those registered."""
    return [str(name) for name in _makers]


def get_backend(name: str, **kwargs: Any) -> EnergyBackend:
    """A new backend, whether it works here or not. Raises ConfigError for an unknown name."""
    if name not in _makers:
        raise ConfigError(f"there is no backend {name!r}; there are {', '.join(list_backends())}")
    return _makers[name](**kwargs)


def select_energy_backend(
    explicit: str | None, *, gpu_indices: Sequence[int] | None = None
) -> EnergyBackend | None:
    """The backend to measure these GPUs with (NVML's indices; None: the visible ones).

    None (or "none") is off: returns None. "auto" is the first that really works here, else None, and the
    log says why; `probe_backends` has every reason. A name is that backend, or ConfigError says why not.
    """
    if explicit is None or explicit == Backend.NONE:
        return None
    if explicit != AUTO:
        return _named(explicit, gpu_indices)
    chosen, candidates = choose_backend(gpu_indices)
    if chosen is None:
        _log.warning("no energy backend works here: %s", "; ".join(reasons_of(candidates)))
    return chosen


def choose_backend(
    gpu_indices: Sequence[int] | None = None,
) -> tuple[EnergyBackend | None, tuple[Candidate, ...]]:
    """The first backend that works, and those tried up to it, each with its reason."""
    candidates: list[Candidate] = []
    for backend, candidate in _probed(gpu_indices):
        candidates.append(candidate)
        if choose(candidates) is candidate:
            return backend, tuple(candidates)
    return None, tuple(candidates)


def start_first(
    gpu_indices: Sequence[int] | None = None,
) -> tuple[EnergyBackend | None, Any, tuple[Candidate, ...]]:
    """The first backend that works and also starts, its tracker, and those tried up to it."""
    candidates: list[Candidate] = []
    for backend, candidate in _probed(gpu_indices):
        tracker = None
        if candidate.usable:
            try:
                tracker = backend.start_tracking()
            except ConfigError as exc:
                candidate = Candidate(candidate.backend, 0.0, str(exc))
        candidates.append(candidate)
        if choose(candidates) is candidate:
            return backend, tracker, tuple(candidates)
    return None, None, tuple(candidates)


def probe_backends(gpu_indices: Sequence[int] | None = None) -> tuple[Candidate, ...]:
    """What each of our backends can do here for these GPUs, and why. Trying them all takes seconds."""
    return tuple(candidate for _, candidate in _probed(gpu_indices))


def reasons_of(candidates: Sequence[Candidate]) -> list[str]:
    return [f"{candidate.backend}: {candidate.reason}" for candidate in candidates]


def _probed(gpu_indices: Sequence[int] | None) -> Iterator[tuple[EnergyBackend, Candidate]]:
    for name in PRIORITY:
        if name is not Backend.NONE:
            backend = _made(name, gpu_indices)
            yield backend, _candidate(name, backend)


def _candidate(name: Backend, backend: EnergyBackend) -> Candidate:
    try:
        return Candidate(name, 1.0, _checked(backend))
    except ConfigError as exc:
        return Candidate(name, 0.0, str(exc))


def _named(name: str, gpu_indices: Sequence[int] | None) -> EnergyBackend:
    backend = _made(name, gpu_indices)
    try:
        _checked(backend)
    except ConfigError as exc:
        raise ConfigError(f"backend {name} cannot measure here: {exc}") from exc
    return backend


def _made(name: str, gpu_indices: Sequence[int] | None) -> EnergyBackend:
    if gpu_indices is not None:
        return get_backend(name, gpu_indices=gpu_indices)
    return NVMLBackend.of_visible_gpus() if name == Backend.NVML else get_backend(name)


def _checked(backend: EnergyBackend) -> str:
    """What the backend measures. Raises ConfigError."""
    if isinstance(backend, Checked):
        return backend.check()
    if not backend.is_available():
        raise ConfigError("it says that it is not available")
    return "it says that it is available"
