"""measure(): the energy of a with-block."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llem_core.backend import Candidate
from llem_core.measurement import EnergyMeasurement, MeasurementWarning
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import EnergyBackend
from llem_measure.backends.selection import AUTO, first_that_works, reasons_of, select_energy_backend
from llem_measure.nvml.calls import DRIVER_SECONDS


@dataclass(slots=True)
class Measured:
    """The result of a block. It is filled in when the block ends, even if the block raises an exception.

    `measurement` is None if measuring is off or not possible here. Then `warnings` says why, and `considered`
    lists what "auto" tried. `duration_sec` is the duration of the block; it is always set.
    """

    measurement: EnergyMeasurement | None = None
    duration_sec: float | None = None
    considered: tuple[Candidate, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()


@contextmanager
def measure(
    backend: str | EnergyBackend | None = AUTO,
    gpu_indices: Sequence[int] | None = None,
    *,
    driver_timeout_s: float = DRIVER_SECONDS,
) -> Iterator[Measured]:
    """Measure the energy of a block. `backend` is a name, as in select_energy_backend, or a backend.

        with measure() as measured:
            train()
        print(measured.measurement.total_j if measured.measurement else measured.warnings)

    `gpu_indices` are NVML's; None means the GPUs that CUDA_VISIBLE_DEVICES leaves visible. GPU work is
    asynchronous. Call torch.cuda.synchronize() at the end of the block, so that the measurement includes
    queued work. A GPU's first call may take `driver_timeout_s`, later ones 2 s. Raises ConfigError if a named
    backend does not work here; "auto" never raises.
    """
    measured = Measured()
    chosen, tracker = _start(backend, gpu_indices, driver_timeout_s, measured)
    start_s = time.monotonic()
    try:
        yield measured
    finally:
        measured.duration_sec = time.monotonic() - start_s
        if chosen is not None:
            _stop(chosen, tracker, measured)


def _start(
    backend: str | EnergyBackend | None,
    gpu_indices: Sequence[int] | None,
    driver_timeout_s: float,
    measured: Measured,
) -> tuple[EnergyBackend | None, Any]:
    if backend == AUTO:
        chosen, tracker, measured.considered = first_that_works(gpu_indices, driver_timeout_s, start=True)
        if chosen is None:
            measured.warnings = (measurement_warnings.unavailable(reasons_of(measured.considered)),)
        return chosen, tracker
    if backend is None or isinstance(backend, str):
        backend = select_energy_backend(backend, gpu_indices=gpu_indices, driver_timeout_s=driver_timeout_s)
    return backend, backend.start_tracking() if backend is not None else None


def _stop(chosen: EnergyBackend, tracker: Any, measured: Measured) -> None:
    """Fill in the measurement. A failure becomes a warning, and never hides the block's own exception."""
    try:
        measured.measurement = chosen.stop_tracking(tracker)
        measured.warnings = measured.measurement.warnings
    except Exception as exc:  # noqa: BLE001 - a fault of a backend must not lose the block's work
        reason = f"{chosen.name}: {measurement_warnings.describe(exc)}"
        measured.warnings = (measurement_warnings.unavailable([reason]),)
