"""The results of one node in each window: its GPUs, their total, and why it may not be valid."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llem_core.backend import PRIORITY, Backend, Candidate
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.energy.backends import MEASURING
from llem_integrator.energy.codecarbon import NodeEnergy
from llem_integrator.energy.window_energy import nothing
from llem_integrator.results.choice import Choice, choose_backends
from llem_integrator.results.fields import GpuEnergy
from llem_integrator.results.gpu_rows import GpuColumns, MeasuredGpu, columns_of
from llem_integrator.results.gpu_warnings import gpu_warnings
from llem_integrator.results.request import Request
from llem_integrator.series.spans import Spans


class NodeResult(NamedTuple):
    """A node's GPUs in a window, and its joules, None if any part of them is not known.

    `reasons` say why the result is not valid. `scope` is "gpu" or "node".
    """

    choice: Choice
    scope: str
    joules: float | None
    gpus: tuple[GpuEnergy, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()


def of_gpus(
    gpus: Sequence[MeasuredGpu], carbon: NodeEnergy, spans: Spans, request: Request, *, are_all: bool
) -> list[NodeResult]:
    """Return the results of a node's GPUs in windows (w,); `are_all` says that the node has no others."""
    choices, number = choose_backends(gpus, carbon, request, len(spans))
    chosen = np.array([PRIORITY.index(choice.backend) for choice in choices])[number]
    is_split = len(gpus) == 1
    columns = [columns_of(gpu, chosen, carbon, spans, request, is_split=is_split) for gpu in gpus]
    warnings = _warnings(columns, carbon, request)
    rows = zip(*(column.rows() for column in columns), strict=True)
    totals = [math.nan] * len(spans) if carbon.gpu is None or not are_all else carbon.gpu.joules.tolist()
    results = []
    for row, (energies, total) in enumerate(zip(rows, totals, strict=True)):
        choice = choices[number[row]]
        joules, reasons = _total(energies, choice.backend, total)
        if any(0 < gpu.coverage < request.min_coverage for gpu in energies):
            reasons = (*reasons, "coverage")
        results.append(NodeResult(choice, "gpu", joules, energies, reasons, warnings.get(row, ())))
    return results


def _total(
    gpus: Sequence[GpuEnergy], backend: Backend, codecarbon_j: float
) -> tuple[float | None, tuple[str, ...]]:
    """Return the joules of all GPUs, if all are known, and why they are not valid."""
    known = [gpu.joules for gpu in gpus if gpu.joules is not None]
    if len(known) == len(gpus):
        return math.fsum(known), ()
    if backend is Backend.CODECARBON and len(gpus) > 1:
        return None if math.isnan(codecarbon_j) else codecarbon_j, ("no_gpu_split",)
    return None, ("no_data",)


def _warnings(
    columns: Sequence[GpuColumns], carbon: NodeEnergy, request: Request
) -> dict[int, tuple[MeasurementWarning, ...]]:
    """Return the warnings of the GPUs in their order, then of the node, by the number of the window."""
    warnings: dict[int, tuple[MeasurementWarning, ...]] = {}
    for column in columns:
        for row, of_gpu in gpu_warnings(column, request.min_coverage).items():
            warnings[row] = (*warnings.get(row, ()), *of_gpu)
    if request.emissions_by_codecarbon:
        node = columns[0].gpu.identity.node or "the node"
        text = (
            f"{node}: no CodeCarbon emissions for this window: CodeCarbon was not running, or the exporter "
            "has no --codecarbon.country-iso-code (use --carbon-intensity)"
        )
        warning = MeasurementWarning(WarningCode.EMISSIONS_UNAVAILABLE, text)
        for row in np.flatnonzero(np.isnan(carbon.grams_per_joule)).tolist():
            warnings[row] = (*warnings.get(row, ()), warning)
    return warnings


def without_gpus(carbon: NodeEnergy, spans: Spans, request: Request) -> list[NodeResult]:
    """Return the results of a node that has no GPU: the joules of its CPUs and memory by CodeCarbon."""
    rest = nothing("", spans, 0.0, present=False) if carbon.rest is None else carbon.rest
    rows = zip(rest.coverage.tolist(), rest.joules.tolist(), rest.gap_s.tolist(), strict=True)
    return [_of_rest(*row, request) for row in rows]


def _of_rest(coverage: float, joules: float, gap_s: float, request: Request) -> NodeResult:
    candidates = [Candidate(backend, 0.0, "no GPU in the window") for backend in MEASURING]
    reason = f"covers {coverage:.4f} of the window, CPU and memory"
    candidates.append(Candidate(Backend.CODECARBON, coverage, reason))
    offered = tuple(each for each in candidates if request.backend in (None, each.backend))
    if not coverage or request.backend not in (None, Backend.CODECARBON):
        return NodeResult(Choice(Backend.NONE, offered), "node", None, reasons=("no_data",))
    reasons = ("coverage",) if coverage < request.min_coverage else ()
    text = f"{gap_s:.3f} s of the window are not covered, and the joules exclude them"
    warnings = (MeasurementWarning(WarningCode.SAMPLE_GAP, text),) if gap_s > 0 else ()
    return NodeResult(Choice(Backend.CODECARBON, offered), "node", joules, (), reasons, warnings)
