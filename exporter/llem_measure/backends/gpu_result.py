"""The result of a backend for each GPU, and the measurement of all GPUs together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llem_core.backend import Backend
from llem_core.measurement import EnergyMeasurement, MeasurementWarning
from llem_measure.backends import measurement_warnings
from llem_measure.nvml.discovery import Gpu


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
