"""The rows of one GPU in results: its energy in each window by the backend that was chosen for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import repeat, starmap
from typing import Any, Final

import numpy as np

from llem_core.backend import PRIORITY, Backend
from llem_integrator.energy.codecarbon import NodeEnergy
from llem_integrator.energy.identity import Identity
from llem_integrator.energy.window_energy import Integrals, either, nothing
from llem_integrator.results.fields import GpuEnergy
from llem_integrator.results.request import Request
from llem_integrator.series.samples import Counts, Flags, Floats
from llem_integrator.series.spans import Index, Spans

_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredGpu:
    """One GPU and what each backend measured of it in windows (w,); a backend without samples is absent."""

    uuid: str
    identity: Identity
    by_backend: Mapping[Backend, Integrals]
    gauge_watts: Floats
    bad: Counts
    conflicts: Counts

    @property
    def index(self) -> str:
        return self.identity.labels.get("gpu", "")

    def chosen_energy(self, chosen: Index, spans: Spans) -> Integrals:
        """Return the energy by the chosen backend of each window (w,), a place in the order of priority."""
        energy = nothing("", spans, 0.0, present=False)
        for backend, measured in self.by_backend.items():
            is_chosen = chosen == PRIORITY.index(backend)
            if is_chosen.all():
                return measured
            energy = either(measured.present & is_chosen, measured, energy)
        return energy


@dataclass(frozen=True, slots=True, eq=False)
class GpuColumns:
    """One GPU's results in windows (w,) as columns; `chosen` are backends by their order of priority."""

    gpu: MeasuredGpu
    chosen: Index
    energy: Integrals
    coverage: Floats
    grams_per_joule: Floats
    duration_s: Floats

    def rows(self) -> Iterable[GpuEnergy]:
        """Return a row for each window, with the figures that are requested left out."""
        gpu, energy = self.gpu, self.energy
        present, known = energy.present, energy.known
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_watts = energy.joules / energy.covered_s
        columns: dict[str, Iterable[Any]] = {
            "uuid": repeat(gpu.uuid),
            "gpu": repeat(gpu.index),
            "name": repeat(gpu.identity.labels.get("name")),
            "instances": repeat(gpu.identity.instances),
            "joules": _cells(energy.joules, known),
            "joules_low": _cells(energy.low, known),
            "joules_high": _cells(energy.high, known),
            "mean_watts": _cells(mean_watts, known),
            "peak_watts": _cells(self._peak_watts(mean_watts), known),
            "backend": map(PRIORITY.__getitem__, self.chosen.tolist()),
            "method": _cells(energy.method, present),
            "coverage": self.coverage.tolist(),
            "covered_s": np.where(present, energy.covered_s, 0.0).tolist(),
            "gap_s": np.where(present, energy.gap_s, self.duration_s).tolist(),
            "largest_gap_s": _cells(energy.largest_gap_s, present),
            "max_gap_s": _cells(energy.max_gap_s, present),
            "sample_count": np.where(present, energy.sample_count, 0).tolist(),
            "resets": np.where(present, energy.resets, 0).tolist(),
            "joules_by_backend": _joules_by_backend(gpu, len(energy)),
            "emissions_g": _cells(energy.joules * self.grams_per_joule, known),
        }
        in_order = (columns[name] for name in GpuEnergy._fields[: len(columns)])
        return starmap(GpuEnergy, zip(*in_order, strict=False))  # repeat() has no end

    def _peak_watts(self, mean_watts: Floats) -> Floats:
        """Return the highest power sample (w,), of the trace if there is one, otherwise of the gauges.

        It is NaN where it is below the mean: then the samples missed the peak.
        """
        peak_watts = self.gpu.gauge_watts
        trace = self.gpu.by_backend.get(Backend.NVML)
        if trace is not None:
            peak_watts = np.where(trace.present & ~np.isnan(trace.peak_watts), trace.peak_watts, peak_watts)
        with np.errstate(invalid="ignore"):
            is_missed = np.isnan(peak_watts) | (peak_watts < mean_watts * (1 - _TOLERANCE))
        # The mean of constant power may exceed it by a rounding error.
        return np.where(is_missed, np.nan, np.fmax(peak_watts, mean_watts))


def columns_of(
    gpu: MeasuredGpu, chosen: Index, carbon: NodeEnergy, spans: Spans, request: Request, *, is_split: bool
) -> GpuColumns:
    """Return one GPU's results. It has no joules where CodeCarbon does not split the node's by GPU."""
    energy = gpu.chosen_energy(chosen, spans)
    coverage, unknown = energy.coverage, np.full(len(spans), np.nan)
    if not is_split and carbon.gpu is not None:
        is_total = carbon.gpu.present & (chosen == PRIORITY.index(Backend.CODECARBON))
        energy = either(is_total, replace(carbon.gpu, joules=unknown, low=unknown, high=unknown), energy)
        coverage = np.where(is_total, carbon.gpu.coverage, coverage)
    grams_per_joule = carbon.grams_per_joule if request.emissions else unknown
    return GpuColumns(gpu, chosen, energy, coverage, grams_per_joule, spans.duration_ms / 1000)


def _cells(column: Any, known: Flags) -> list[Any]:
    """Return the values of a column, None where they are not known or NaN."""
    if column.dtype.kind == "f":
        known = known & ~np.isnan(column)
    cells = column.astype(object)
    cells[~known] = None
    return list(cells.tolist())


def _joules_by_backend(gpu: MeasuredGpu, count: int) -> list[dict[str, float]]:
    """Return the known joules of each backend, for each window."""
    rows: list[dict[str, float]] = [{} for _ in range(count)]
    for backend, energy in gpu.by_backend.items():
        name, joules = str(backend), energy.joules.tolist()
        for row in np.flatnonzero(energy.known).tolist():
            rows[row][name] = joules[row]
    return rows
