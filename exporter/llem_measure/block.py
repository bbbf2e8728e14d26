"""measure(): the energy of a with-block."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llem_core.backend import Candidate
from llem_core.errors import LLEMError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning
from llem_measure.backends import measurement_warnings as doubts
from llem_measure.backends.base import EnergyBackend
from llem_measure.backends.selection import AUTO, reasons_of, select_energy_backend, start_first


@dataclass(slots=True)
class Measured:
    """What a block took; filled in when it ends, by an exception too.

    `measurement` is None where energy is off or cannot be had here: `warnings` then say why, and
    `considered` has what "auto" tried. `duration_sec` is the block's own, known in any case.
    """

    measurement: EnergyMeasurement | None = None
    duration_sec: float | None = None
    considered: tuple[Candidate, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()


@contextmanager
def measure(
    backend: str | EnergyBackend | None = AUTO, gpu_indices: Sequence[int] | None = None
) -> Iterator[Measured]:
    """Measure the energy of a block: `backend` as for select_energy_backend, or one that you made.

        with measure() as measured:
            train()
        print(measured.measurement.total_j if measured.measurement else measured.warnings)

    `gpu_indices` are NVML's; None means the GPUs that CUDA_VISIBLE_DEVICES leaves visible. Work that is
    still queued on a GPU when the block ends is not waited for: torch.cuda.synchronize() first. Raises
    ConfigError where a backend named cannot work here; "auto" never raises.
    """
    measured = Measured()
    chosen, tracker = _started(backend, gpu_indices, measured)
    start_s = time.monotonic()
    try:
        yield measured
    finally:
        measured.duration_sec = time.monotonic() - start_s
        if chosen is not None:
            _stop(chosen, tracker, measured)


def _started(
    backend: str | EnergyBackend | None, gpu_indices: Sequence[int] | None, measured: Measured
) -> tuple[EnergyBackend | None, Any]:
    if backend == AUTO:
        chosen, tracker, measured.considered = start_first(gpu_indices)
        if chosen is None:
            measured.warnings = (doubts.unavailable(reasons_of(measured.considered)),)
        return chosen, tracker
    if backend is None or isinstance(backend, str):
        backend = select_energy_backend(backend, gpu_indices=gpu_indices)
    return backend, backend.start_tracking() if backend is not None else None


def _stop(chosen: EnergyBackend, tracker: Any, measured: Measured) -> None:
    """Fill in the measurement; what fails here is told, and never hides what happened in the block."""
    try:
        measured.measurement = chosen.stop_tracking(tracker)
        measured.warnings = measured.measurement.warnings
    except Exception as exc:  # noqa: BLE001 - a backend's bug must not take the block's work along, either
        reason = str(exc) if isinstance(exc, LLEMError) else f"{type(exc).__name__}: {exc}"
        measured.warnings = (doubts.unavailable([f"{chosen.name}: {reason}"]),)
