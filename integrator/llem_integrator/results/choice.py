"""Which backend serves all GPUs of a node in each window, and why not the others."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from llem_core.backend import Backend, Candidate, choose
from llem_integrator.energy.backends import MEASURING
from llem_integrator.energy.codecarbon import NodeEnergy
from llem_integrator.energy.window_energy import Integrals
from llem_integrator.results.fields import Considered
from llem_integrator.results.gpu_rows import MeasuredGpu
from llem_integrator.results.request import Request
from llem_integrator.results.selection import short_uuids
from llem_integrator.series.samples import Flags, Floats
from llem_integrator.series.spans import Index, group_alike

_ONE_BACKEND: Final = "; one backend serves all GPUs of a node"
_TOLERANCE: Final = 1e-9


class Choice(NamedTuple):
    """The backend that serves a node, and all that were considered.

    If `is_split` is false, CodeCarbon gives only a total of several GPUs.
    """

    backend: Backend
    candidates: tuple[Candidate, ...]
    is_split: bool = True


class _Coverage(NamedTuple):
    """What a backend covers of a node in windows (w,): the lowest and mean coverage of a GPU.

    `worst` is the number of the GPU with the lowest coverage, and `is_present` says whether it has samples.
    """

    lowest: Floats
    mean: Floats
    worst: Index
    is_present: Flags


def choose_backends(
    gpus: Sequence[MeasuredGpu], carbon: NodeEnergy, request: Request, count: int
) -> tuple[list[Choice], Index]:
    """Return the different choices, and the number (w,) of the choice of each window.

    Windows with the same coverage have the same choice.
    """
    by_backend = {backend: _coverage(gpus, backend, count) for backend in MEASURING}
    total = np.zeros(count) if carbon.gpu is None else carbon.gpu.coverage
    columns = [column for coverage in by_backend.values() for column in coverage]
    examples, number = group_alike([*columns, total])
    choices = []
    for row in examples.tolist():
        candidates = [_candidate(backend, by_backend[backend], gpus, row) for backend in MEASURING]
        candidates.append(_total_candidate(float(total[row])))
        offered = tuple(each for each in candidates if request.backend in (None, each.backend))
        is_split = len(gpus) == 1
        best = _best(offered, request.min_coverage, is_split=is_split)
        choices.append(Choice(best.backend if best else Backend.NONE, offered, is_split))
    return choices, number


def _coverage(gpus: Sequence[MeasuredGpu], backend: Backend, count: int) -> _Coverage:
    absent = np.zeros(count), np.zeros(count, np.bool_)
    measured: list[Integrals | None] = [gpu.by_backend.get(backend) for gpu in gpus]
    coverage = np.stack([absent[0] if energy is None else energy.coverage for energy in measured])
    present = np.stack([absent[1] if energy is None else energy.present for energy in measured])
    worst = np.argmin(coverage, axis=0)
    is_present = present[worst, np.arange(count)]
    return _Coverage(np.min(coverage, axis=0), np.mean(coverage, axis=0), worst, is_present)


def _candidate(backend: Backend, coverage: _Coverage, gpus: Sequence[MeasuredGpu], row: int) -> Candidate:
    lowest, mean = float(coverage.lowest[row]), float(coverage.mean[row])
    worst = gpus[int(coverage.worst[row])]
    gpu = f"GPU {worst.index or '?'} ({short_uuids(gpu.uuid for gpu in gpus)[worst.uuid]})"
    differ = mean - lowest > _TOLERANCE
    if lowest > 0:
        reason = f"covers {lowest:.4f} of the window on {gpu if differ else 'every GPU'}"
    elif coverage.is_present[row]:
        reason = f"covers nothing of the window on {gpu}"
    else:
        reason = f"no samples for {gpu}"
    return Candidate(backend, lowest, reason + (_ONE_BACKEND if differ else ""), mean)


def _total_candidate(coverage: float) -> Candidate:
    reason = f"covers {coverage:.4f} of the window, all GPUs together" if coverage else "no samples"
    return Candidate(Backend.CODECARBON, coverage, reason)


def _best(candidates: Sequence[Candidate], min_coverage: float, *, is_split: bool) -> Candidate | None:
    """Return the choice by priority. A total that cannot be split is used if it covers enough, or last."""
    totals = [each for each in candidates if each.backend is Backend.CODECARBON and not is_split]
    others = [each for each in candidates if each not in totals or each.coverage >= min_coverage]
    return choose(others, min_coverage) or choose(totals, min_coverage)


def considered(choices: Sequence[Choice], min_coverage: float) -> tuple[Considered, ...]:
    """Return each backend that was considered for any of the nodes, as of the node where it covers least."""
    return tuple(_considered(choices, min_coverage))


def _considered(choices: Sequence[Choice], min_coverage: float) -> Iterator[Considered]:
    by_backend: defaultdict[Backend, list[tuple[Candidate, Choice]]] = defaultdict(list)
    for choice in choices:
        for candidate in choice.candidates:
            by_backend[candidate.backend].append((candidate, choice))
    chosen = {choice.backend for choice in choices}
    for backend, candidates in by_backend.items():
        worst, choice = min(candidates, key=lambda pair: pair[0].coverage)
        reason, usable = worst.reason, worst.coverage > 0
        if usable and backend not in chosen:
            reason += f"; {_why_not(worst, choice, min_coverage)}"
        yield Considered(backend, usable, reason)


def _why_not(candidate: Candidate, choice: Choice, min_coverage: float) -> str:
    """Return why another backend was chosen for a node, although this one covers part of the window."""
    if candidate.coverage >= min_coverage:
        return "a backend of higher priority is used"
    if candidate.backend is Backend.CODECARBON and not choice.is_split:
        return "not used, because it covers less than --min-coverage and cannot divide the total among GPUs"
    chosen = next(each for each in choice.candidates if each.backend is choice.backend)
    if chosen.coverage >= min_coverage:
        return "not used, because it covers less than --min-coverage"
    is_less = candidate.covered < chosen.covered
    return (
        "the chosen backend has a higher mean coverage" if is_less else "a backend of higher priority is used"
    )
