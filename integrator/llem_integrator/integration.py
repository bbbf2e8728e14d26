"""From a source and windows to joules: every node's answer, put together."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from llem_core.backend import Backend, Candidate
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator import codecarbon, node
from llem_integrator.backends import Measured, Request, measure
from llem_integrator.node import NodeAnswer
from llem_integrator.readings import GpuReadings, NodeReadings, Readings, read, share_of
from llem_integrator.result import Considered, WindowResult
from llem_integrator.sources import Progress, Source
from llem_integrator.window import Window


def _quiet(_: float) -> None:
    pass


def integrate(
    source: Source, windows: Iterable[Window], request: Request, progress: Progress = _quiet
) -> Iterator[WindowResult]:
    """The energy of each window; raises SourceError where the source fails.

    `progress` is told how many windows are done, in fractions.
    """
    request = replace(request, settled_ms={})
    for done, window in enumerate(windows):
        if request.backend is Backend.NONE:
            yield _result(window, request, [], [])
            continue
        readings = read(source, request.selectors, window, share_of(progress, done, 1))
        warnings = [MeasurementWarning(WarningCode.SOURCE_WARNING, text) for text in source.warnings]
        missing = _missing(readings, request.gpus)
        warnings += [MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, text) for text in missing]
        yield _result(window, request, _answers(window, request, readings), warnings, complete=not missing)


def _answers(window: Window, request: Request, readings: Readings) -> list[NodeAnswer]:
    """One answer a node: those with GPUs asked for, or where there is no GPU at all, those of CodeCarbon."""
    by_node: defaultdict[str, list[GpuReadings]] = defaultdict(list)
    for gpu in sorted(readings.gpus.values(), key=_place):
        by_node[gpu.node].append(gpu)
    answers = []
    for name, gpus in by_node.items():
        asked = [gpu for gpu in gpus if _asked_for(gpu, request.gpus)]
        if not asked:
            continue
        limits = [gpu.limit_watts for gpu in gpus if gpu.limit_watts is not None]
        limit_watts = math.fsum(limits) if len(limits) == len(gpus) else None
        carbon = codecarbon.measure(
            readings.nodes.get(name, NodeReadings(name)), window, request, limit_watts
        )
        measured = [measure(gpu, window, request) for gpu in asked]
        if len(gpus) == 1 and carbon.gpu:  # the one GPU is all that CodeCarbon counted
            measured = [
                Measured(one.gpu, {**one.by_backend, Backend.CODECARBON: carbon.gpu}) for one in measured
            ]
        answers.append(node.of_gpus(measured, carbon, window, request, whole=len(asked) == len(gpus)))
    if not by_node and not request.gpus:
        for _, found in sorted(readings.nodes.items()):
            answers.append(node.without_gpus(codecarbon.measure(found, window, request, None), request))
    return answers


def _asked_for(gpu: GpuReadings, tokens: Sequence[str]) -> bool:
    return not tokens or gpu.uuid in tokens or gpu.labels.get("gpu") in tokens


def _missing(readings: Readings, tokens: Sequence[str]) -> list[str]:
    gpus = readings.gpus.values()
    missing = (token for token in tokens if not any(_asked_for(gpu, (token,)) for gpu in gpus))
    return [f"no GPU {token} in the window" for token in missing]


def _place(gpu: GpuReadings) -> tuple[str, int, str]:
    index = gpu.labels.get("gpu", "")
    return gpu.node, int(index) if index.isdecimal() else 0, gpu.uuid


def _result(
    window: Window,
    request: Request,
    answers: Sequence[NodeAnswer],
    warnings: Sequence[MeasurementWarning],
    *,
    complete: bool = True,
) -> WindowResult:
    gpus = tuple(gpu for answer in answers for gpu in answer.gpus)
    reasons = dict.fromkeys(reason for answer in answers for reason in answer.reasons)
    if not (answers and complete) and request.backend is not Backend.NONE:
        reasons["no_data"] = None
    joules = [answer.joules for answer in answers if answer.joules is not None]
    known = bool(answers) and complete and len(joules) == len(answers)
    backends = {answer.backend for answer in answers} or {Backend.NONE}
    scopes = {answer.scope for answer in answers} or {"gpu"}
    return WindowResult(
        name=window.name,
        start=window.start_us / 1e6,
        end=window.end_us / 1e6,
        duration_sec=window.duration_s,
        valid=not reasons,
        reasons=tuple(reasons),
        backend=str(backends.pop()) if len(backends) == 1 else "mixed",
        scope=scopes.pop() if len(scopes) == 1 else "mixed",
        total_j=math.fsum(joules) if known else None,
        per_gpu_j={gpu.uuid: gpu.joules for gpu in gpus},
        gpus=gpus,
        considered=tuple(_considered(answers, request)),
        warnings=(*warnings, *(warning for answer in answers for warning in answer.warnings)),
    )


def _considered(answers: Sequence[NodeAnswer], request: Request) -> Iterator[Considered]:
    """One line a backend, that of the node where it covers least."""
    by_backend: defaultdict[Backend, list[Candidate]] = defaultdict(list)
    for answer in answers:
        for candidate in answer.candidates:
            by_backend[candidate.backend].append(candidate)
    chosen = {answer.backend for answer in answers}
    for backend, candidates in by_backend.items():
        worst = min(candidates, key=lambda candidate: candidate.coverage)
        reason, usable = worst.reason, worst.coverage > 0
        if usable and backend not in chosen:
            short = worst.coverage < request.min_coverage
            reason += ": less than another" if short else ": passed over for one of higher priority"
        yield Considered(backend, usable, reason)
