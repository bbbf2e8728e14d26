"""The GPUs of a measurement: how they are opened, what is read at both ends, and their joint result."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from llem_core.backend import Backend
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning
from llem_measure.backends import measurement_warnings
from llem_measure.nvml.calls import call
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.discovery import Gpu
from llem_measure.sampling.devices import Status

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class GpuState:
    """The status and the power of a GPU at one end of a measurement. Power is None if it cannot be read."""

    status: Status
    watts: float | None


class OpenGpu:
    """A GPU of a measurement, and its first state. The methods call the driver."""

    def __init__(self, gpu: Gpu) -> None:
        """Open the GPU. Raises DeviceError."""
        self.gpu, self.device = gpu, NvmlDevice(gpu.index)
        self.device.open()
        self.persistence_mode = self.device.persistence_mode()
        self.first = self.read_state()

    def read_state(self) -> GpuState:
        """Return the present state."""
        try:
            watts = self.device.read_watts(0)
        except DeviceError:
            watts = None
        return GpuState(self.device.read_status(), watts)

    def warnings(self, last: GpuState | Exception | None) -> list[MeasurementWarning]:
        """Return the warnings. `last` is an exception if the last reading failed, and None if it hangs."""
        if isinstance(last, GpuState):
            celsius = (self.first.status.temperature_celsius, last.status.temperature_celsius)
            return [*measurement_warnings.of_gpu(self.gpu, self.persistence_mode, celsius)]
        lost = measurement_warnings.lost(self.gpu, measurement_warnings.why_lost(self.gpu, last))
        return [*measurement_warnings.of_gpu(self.gpu, self.persistence_mode, ()), lost]


@dataclass(frozen=True, slots=True)
class GpuResult:
    """The energy of one GPU. `joules` is None if nothing was measured; `reason` says why."""

    gpu: Gpu
    joules: float | None
    bounds_j: tuple[float, float]
    coverage: float
    samples: int
    warnings: Sequence[MeasurementWarning]
    reason: str
    peak_watts: float | None = None


def measurement_of(
    backend: Backend,
    unix_s: tuple[float, float],
    gpus: Sequence[GpuResult],
    warnings: Iterable[MeasurementWarning],
) -> EnergyMeasurement:
    """Return the measurement of these GPUs from a start to an end, with the warnings of all."""
    start_s, end_s = unix_s
    measured = {result.gpu.index: result for result in gpus if result.joules is not None}
    per_gpu_j = {index: result.joules for index, result in measured.items() if result.joules is not None}
    peaks = {index: r.peak_watts for index, r in measured.items() if r.peak_watts is not None}
    all_warnings = [*warnings, *(warning for result in gpus for warning in result.warnings)]
    if not measured:
        all_warnings.append(measurement_warnings.unavailable(result.reason for result in gpus))
    return EnergyMeasurement(
        total_j=math.fsum(per_gpu_j.values()) if per_gpu_j else None,
        duration_sec=end_s - start_s,
        samples=sum(result.samples for result in gpus),
        per_gpu_j=per_gpu_j or None,
        per_gpu_bounds_j={index: result.bounds_j for index, result in measured.items()} or None,
        start_unix_s=start_s,
        end_unix_s=end_s,
        coverage=min(result.coverage for result in gpus),
        backend=backend,
        warnings=tuple(all_warnings),
        per_gpu_coverage={result.gpu.index: result.coverage for result in gpus},
        per_gpu_peak_watts=peaks or None,
    )


def for_each(
    gpus: Sequence[Gpu],
    function: Callable[[Gpu], Result],
    driver_timeout_s: float,
    problem: str = "GPU {} cannot be opened",
) -> list[Result]:
    """Return the results of a function that calls the driver, for one GPU after the other.

    Raises ConfigError with the problem and its reason if it fails, or does not return in time.
    """
    results: list[Result] = []
    for gpu in gpus:
        try:
            results.append(call(gpu.index, partial(function, gpu), driver_timeout_s))
        except DeviceError as exc:
            raise ConfigError(f"{problem.format(gpu.index)}: {exc}") from exc
    return results


def list_indices(gpus: Iterable[Gpu]) -> str:
    """Return the indices of GPUs, for example "0, 1"."""
    return ", ".join(str(gpu.index) for gpu in gpus)
