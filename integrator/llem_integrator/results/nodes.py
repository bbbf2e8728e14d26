"""One node's answers: which backend serves all of its GPUs in each window, and what that gives in all."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llem_core.backend import PRIORITY, Backend, Candidate, choose
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.energy.backends import MEASURING
from llem_integrator.energy.codecarbon import NodeEnergy
from llem_integrator.energy.integral import nothing
from llem_integrator.results.fields import GpuEnergy
from llem_integrator.results.gpu_rows import Measured, energies, faults
from llem_integrator.results.request import Request
from llem_integrator.series.spans import Index, Spans, group_alike

Candidates = tuple[Candidate, ...]


class NodeAnswer(NamedTuple):
    """A node's GPUs, its joules in all (None: not all known), and how they were come by.

    `reasons` say why the answer is not valid; `scope` is "gpu" or "node".
    """

    backend: str
    scope: str
    joules: float | None
    candidates: Candidates
    per_gpu_j: Mapping[str, float | None] = MappingProxyType({})
    gpus: tuple[GpuEnergy, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()


def of_gpus(
    measured: Sequence[Measured], carbon: NodeEnergy, spans: Spans, request: Request, *, whole: bool
) -> list[NodeAnswer]:
    """An answer a window (w,) for a node's GPUs; `whole` says that they are all that it has."""
    choices, number = _choices(measured, carbon, request, len(spans))
    backends = [choice[0] for choice in choices]
    chosen = np.array([PRIORITY.index(backend) for backend in backends])[number]
    unsplit = len(measured) > 1
    columns = [energies(one, chosen, carbon, spans, request, split=not unsplit) for one in measured]
    said = [faults(one, chosen, request.min_coverage) for one in measured]
    totals = carbon.gpu.joules.tolist() if whole and carbon.gpu is not None else [math.nan] * len(spans)
    joules = list(zip(*[column.joules for column in columns], strict=True))
    short = [(column.shares > 0) & (column.shares < request.min_coverage) for column in columns]
    short_rows = np.logical_or.reduce(short).tolist()
    warnings = _warnings(measured, said, carbon, request)
    uuids = tuple(one.uuid for one in measured)
    gpus = list(zip(*[column.rows() for column in columns], strict=True))
    answers: list[NodeAnswer] = []
    for row, choice in enumerate(number.tolist()):
        backend, candidates = choices[choice]
        total, reasons = _total(joules[row]), ("coverage",) if short_rows[row] else ()
        if total is None and unsplit and backend is Backend.CODECARBON:
            total, reasons = None if math.isnan(totals[row]) else totals[row], ("no_gpu_split", *reasons)
        elif total is None:
            reasons = ("no_data", *reasons)
        per_gpu_j = dict(zip(uuids, joules[row], strict=True))
        said_here = warnings.get(row, ())
        answers.append(
            NodeAnswer(backend, "gpu", total, candidates, per_gpu_j, gpus[row], reasons, said_here)
        )
    return answers


def _total(joules: Sequence[float | None]) -> float | None:
    """The sum of all, if all are known."""
    known = [one for one in joules if one is not None]
    return math.fsum(known) if len(known) == len(joules) else None


def _warnings(
    measured: Sequence[Measured],
    said: Sequence[Mapping[int, Sequence[MeasurementWarning]]],
    carbon: NodeEnergy,
    request: Request,
) -> dict[int, tuple[MeasurementWarning, ...]]:
    """What is said of the GPUs in their order, and of the node, by the window's number; most have nothing."""
    found = {row: tuple([one for of in said for one in of.get(row, ())]) for row in set().union(*said)}
    if request.emissions_by_codecarbon:
        without = _without_grams(measured[0].identity.node)
        for row in np.flatnonzero(np.isnan(carbon.grams_per_joule)).tolist():
            found[row] = (*found.get(row, ()), without)
    return found


def _without_grams(node: str) -> MeasurementWarning:
    text = f"{node or 'the node'}: no grams of CodeCarbon in the window (it needs a country)"
    return MeasurementWarning(WarningCode.EMISSIONS_UNAVAILABLE, text)


def _choices(
    measured: Sequence[Measured], carbon: NodeEnergy, request: Request, count: int
) -> tuple[list[tuple[Backend, Candidates]], Index]:
    """The choice of each window (w,): a number, and by number the backend and all that were weighed.

    Windows that are covered alike are judged once.
    """
    rows: list[NDArray[np.generic]] = []
    for backend in MEASURING:
        coverage = np.stack([one.coverage(backend, count) for one in measured])
        worst = np.argmin(coverage, axis=0)
        there = np.stack([one.present(backend, count) for one in measured])
        rows += [np.min(coverage, axis=0), np.mean(coverage, axis=0), worst, there[worst, np.arange(count)]]
    rows.append(np.zeros(count) if carbon.gpu is None else carbon.gpu.coverage)
    examples, number = group_alike(rows)
    choices = []
    for row in np.stack(rows, axis=1)[examples].tolist():
        candidates = _candidates(measured, row, request.backend)
        best = _chosen(candidates, request.min_coverage, split=len(measured) == 1)
        choices.append((best.backend if best else Backend.NONE, candidates))
    return choices, number


def _candidates(measured: Sequence[Measured], row: Sequence[float], named: Backend | None) -> Candidates:
    """What each backend covers of the GPUs of a node, after one row of `_choices`."""
    offered = []
    for backend, at in zip(MEASURING, (0, 4), strict=True):
        coverage, mean_coverage, worst, there = row[at : at + 4]
        identity = measured[int(worst)].identity
        where = f"GPU {identity.labels.get('gpu', '?')} ({measured[int(worst)].uuid})"
        if coverage > 0:
            reason = f"covers at least {coverage:.4f} of the window on every GPU"
        elif there:
            reason = f"covers nothing of the window on {where}"
        else:
            reason = f"no samples of it for {where}"
        offered.append(Candidate(backend, coverage, reason, mean_coverage))
    coverage = row[-1]
    reason = f"covers {coverage:.4f} of the window, all GPUs together" if coverage else "no samples of it"
    offered.append(Candidate(Backend.CODECARBON, coverage, reason))
    return tuple(candidate for candidate in offered if named in (None, candidate.backend))


def _chosen(candidates: Sequence[Candidate], min_coverage: float, *, split: bool) -> Candidate | None:
    """The choice by priority; a total that cannot be split is taken where it covers enough, or last."""
    unsplit = [one for one in candidates if one.backend is Backend.CODECARBON and not split]
    others = [one for one in candidates if one not in unsplit or one.coverage >= min_coverage]
    return choose(others, min_coverage) or choose(unsplit, min_coverage)


def without_gpus(carbon: NodeEnergy, spans: Spans, request: Request) -> list[NodeAnswer]:
    """The answers for a node that has none: CodeCarbon's cpu and ram, which compare with nothing."""
    rest = nothing("", spans, 0.0, present=False) if carbon.rest is None else carbon.rest
    rows = zip(rest.coverage.tolist(), rest.joules.tolist(), rest.gap_s.tolist(), strict=True)
    return [_of_rest(*row, request) for row in rows]


def _of_rest(coverage: float, joules: float, gap_s: float, request: Request) -> NodeAnswer:
    offered = [Candidate(backend, 0.0, "no GPU in the window") for backend in MEASURING]
    reason = f"covers {coverage:.4f} of the window, cpu and ram"
    offered.append(Candidate(Backend.CODECARBON, coverage, reason))
    candidates = tuple(one for one in offered if request.backend in (None, one.backend))
    if not coverage or request.backend not in (None, Backend.CODECARBON):
        return NodeAnswer(Backend.NONE, "node", None, candidates, reasons=("no_data",))
    reasons = ("coverage",) if coverage < request.min_coverage else ()
    said = MeasurementWarning(WarningCode.SAMPLE_GAP, f"{gap_s:.3f} s of the window are not covered")
    warnings = (said,) if gap_s > 0 else ()
    return NodeAnswer(Backend.CODECARBON, "node", joules, candidates, reasons=reasons, warnings=warnings)
