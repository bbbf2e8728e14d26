"""From a source and windows to joules: what each backend measured, and which one answers."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from llem_core import metrics
from llem_core.backend import Backend, Candidate, choose
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.backends import MEASURING, Measured, Request, measure
from llem_integrator.readings import GpuReadings, read, share_of
from llem_integrator.result import Considered, GpuEnergy, WindowResult
from llem_integrator.sources import Progress, Source
from llem_integrator.window import Window

_DISAGREEMENT: Final = 0.05


def _quiet(_: float) -> None:
    pass


def integrate(
    source: Source, windows: Iterable[Window], request: Request, progress: Progress = _quiet
) -> Iterator[WindowResult]:
    """The energy of each window; raises SourceError where the source fails.

    `progress` is told how many windows are done, in fractions.
    """
    for done, window in enumerate(windows):
        if request.backend is Backend.NONE:
            yield _result(window, request, [], [], [])
            continue
        readings = read(source, request.selectors, window, share_of(progress, done, 1))
        yield _answer(window, request, readings, source.warnings)


def _answer(
    window: Window, request: Request, readings: dict[str, GpuReadings], said: Sequence[str]
) -> WindowResult:
    asked = [gpu for gpu in readings.values() if _asked_for(gpu, request.gpus)]
    missing = [token for token in request.gpus if not any(_asked_for(gpu, (token,)) for gpu in asked)]
    measured = [measure(gpu, window, request) for gpu in sorted(asked, key=_place)]
    chosen: dict[str, Backend] = {}
    candidates: list[Candidate] = []
    for node in dict.fromkeys(one.gpu.node for one in measured):
        of_node = [one for one in measured if one.gpu.node == node]
        offered = _candidates(of_node, request.backend)
        best = choose(offered, request.min_coverage)
        chosen[node] = best.backend if best else Backend.NONE
        candidates += offered
    warnings = [MeasurementWarning(WarningCode.SOURCE_WARNING, text) for text in said]
    gpus: list[GpuEnergy] = []
    for one in measured:
        gpus.append(_energy(one, chosen[one.gpu.node], window))
        warnings += _warnings(one, chosen[one.gpu.node], request.min_coverage)
    for token in missing:
        warnings.append(MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, f"no GPU {token} in the window"))
    result = _result(window, request, gpus, _considered(candidates, chosen, request), warnings)
    scopes = {one.gpu.labels.get("scope", "gpu") for one in measured} or {"gpu"}
    result = replace(result, scope=scopes.pop() if len(scopes) == 1 else "mixed")
    return replace(result, valid=False, reasons=("no_data",), total_j=None) if missing else result


def _asked_for(gpu: GpuReadings, tokens: Sequence[str]) -> bool:
    return not tokens or gpu.uuid in tokens or gpu.labels.get("gpu") in tokens


def _place(gpu: GpuReadings) -> tuple[str, int, str]:
    index = gpu.labels.get("gpu", "")
    return gpu.node, int(index) if index.isdecimal() else 0, gpu.uuid


def _candidates(measured: Sequence[Measured], named: Backend | None) -> list[Candidate]:
    """What each backend covers of the GPUs of a node."""
    offered = []
    for backend in MEASURING if named is None else (named,):
        worst = min(measured, key=lambda one: one.coverage(backend))
        coverage = worst.coverage(backend)
        mean_coverage = math.fsum(one.coverage(backend) for one in measured) / len(measured)
        where = f"GPU {worst.gpu.labels.get('gpu', '?')} ({worst.gpu.uuid})"
        if coverage > 0:
            reason = f"covers at least {coverage:.4f} of the window on every GPU"
        elif backend in worst.by_backend:
            reason = f"covers nothing of the window on {where}"
        else:
            reason = f"no samples of it for {where}"
        offered.append(Candidate(backend, coverage, reason, mean_coverage))
    return offered


def _considered(
    candidates: Sequence[Candidate], chosen: dict[str, Backend], request: Request
) -> list[Considered]:
    """One line a backend, that of the node where it covers least."""
    lines = []
    for backend in dict.fromkeys(candidate.backend for candidate in candidates):
        worst = min((one for one in candidates if one.backend is backend), key=lambda one: one.coverage)
        reason = worst.reason
        usable = worst.coverage > 0
        if usable and backend not in chosen.values():
            short = worst.coverage < request.min_coverage
            reason += ": less than another" if short else ": passed over for one of higher priority"
        lines.append(Considered(backend, usable, reason))
    return lines


def _energy(one: Measured, backend: Backend, window: Window) -> GpuEnergy:
    integral = one.by_backend.get(backend)
    gpu = one.gpu
    result = GpuEnergy(
        uuid=gpu.uuid,
        gpu=gpu.labels.get("gpu", ""),
        name=gpu.labels.get("name"),
        instances=tuple(sorted(gpu.instances - {""})),
        backend=backend,
        gap_s=window.duration_s,
        joules_by_backend={
            str(other): found.joules for other, found in one.by_backend.items() if found.joules is not None
        },
    )
    if integral is None:
        return result
    nvml = one.by_backend.get(Backend.NVML)
    return replace(
        result,
        joules=integral.joules,
        joules_low=integral.low,
        joules_high=integral.high,
        mean_watts=None if integral.joules is None else integral.joules / integral.covered_s,
        peak_watts=nvml.peak_watts if nvml and nvml.peak_watts is not None else gpu.peak_watts,
        method=integral.method,
        coverage=integral.coverage,
        covered_s=integral.covered_s,
        gap_s=integral.gap_s,
        largest_gap_s=integral.largest_gap_s,
        max_gap_s=integral.max_gap_s,
        sample_count=integral.sample_count,
        resets=integral.resets,
    )


def _warnings(one: Measured, backend: Backend, min_coverage: float) -> Iterator[MeasurementWarning]:
    uuid, integral = one.gpu.uuid, one.by_backend.get(backend)

    def warn(code: WarningCode, message: str) -> MeasurementWarning:
        return MeasurementWarning(code, message, uuid)

    if integral is None or integral.joules is None:
        return
    total_s = integral.covered_s + integral.gap_s
    if integral.gap_s > 0:
        yield warn(
            WarningCode.SAMPLE_GAP,
            f"{integral.gap_s:.3f} s of {total_s:.3f} s are not covered, "
            f"{integral.largest_gap_s:.3f} s at a stretch",
        )
    if 0 < integral.gap_s <= integral.tail_gap_s * (1 + 1e-9):
        text = f"the source's newest sample is {integral.tail_gap_s:.3f} s before the window's end"
        yield warn(WarningCode.NEWEST_MISSING, text)
    if integral.resets:
        yield warn(WarningCode.COUNTER_RESET, f"the energy counter restarted {integral.resets} times")
    if integral.late:
        yield warn(WarningCode.COUNTER_LATE, f"{integral.late} counter values fell a little, and were held")
    yield from (warn(*found) for found in _sample_faults(one.gpu))
    joules = [found.joules for found in one.by_backend.values() if found.coverage >= min_coverage]
    known = [value for value in joules if value is not None]
    if len(known) > 1 and max(known) - min(known) > _DISAGREEMENT * max(known):
        text = ", ".join(f"{name} {found.joules}" for name, found in one.by_backend.items())
        yield warn(WarningCode.BACKENDS_DISAGREE, f"joules differ by more than 5 %: {text}")


def _sample_faults(gpu: GpuReadings) -> Iterator[tuple[WarningCode, str]]:
    series = [one for found in gpu.series.values() for one in found]
    series += [
        trace for spec in (metrics.GPU_POWER_TRACE, metrics.GPU_ZEUS_TRACE) if (trace := gpu.trace(spec))
    ]
    if conflicts := max((one.conflicts for one in series), default=0):
        yield WarningCode.CONFLICTING_SAMPLES, f"{conflicts} times carry unlike values; the larger was kept"
    if bad := sum(one.bad for found in gpu.series.values() for one in found):
        yield WarningCode.BAD_SAMPLES, f"{bad} readings are no samples (NaN, infinite or negative)"


def _result(
    window: Window,
    request: Request,
    gpus: Sequence[GpuEnergy],
    considered: Sequence[Considered],
    warnings: Sequence[MeasurementWarning],
) -> WindowResult:
    measured = [gpu.joules for gpu in gpus if gpu.joules is not None]
    complete = bool(gpus) and len(measured) == len(gpus)
    reasons = []
    if not complete and request.backend is not Backend.NONE:
        reasons.append("no_data")
    if any(gpu.joules is not None and gpu.coverage < request.min_coverage for gpu in gpus):
        reasons.append("coverage")
    backends = {gpu.backend for gpu in gpus} or {Backend.NONE}
    return WindowResult(
        name=window.name,
        start=window.start_us / 1e6,
        end=window.end_us / 1e6,
        duration_sec=window.duration_s,
        valid=not reasons,
        reasons=tuple(reasons),
        backend=str(backends.pop()) if len(backends) == 1 else "mixed",
        scope="gpu",
        total_j=math.fsum(measured) if complete else None,
        per_gpu_j={gpu.uuid: gpu.joules for gpu in gpus},
        gpus=tuple(gpus),
        considered=tuple(considered),
        warnings=tuple(warnings),
    )
