"""One node's answer: which backend serves all of its GPUs, and what that gives for each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from llem_core import metrics
from llem_core.backend import Backend, Candidate, choose
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.backends import MEASURING, Measured, Request, covered
from llem_integrator.codecarbon import NodeEnergy
from llem_integrator.integral import Integral
from llem_integrator.readings import GpuReadings
from llem_integrator.result import GpuEnergy
from llem_integrator.window import Window

_DISAGREEMENT: Final = 0.05


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """A node's GPUs, its joules in all (None: not all known), and how they were come by.

    `reasons` say why the answer is not valid; `scope` is "gpu", "module", "mixed" or "node".
    """

    backend: Backend
    scope: str
    joules: float | None
    candidates: tuple[Candidate, ...]
    gpus: tuple[GpuEnergy, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()


def of_gpus(
    measured: Sequence[Measured], carbon: NodeEnergy, window: Window, request: Request, *, whole: bool
) -> NodeAnswer:
    """The answer for a node's GPUs; `whole` says that they are all that it has."""
    candidates = _candidates(measured, carbon, request.backend)
    best = _chosen(candidates, request.min_coverage, split=len(measured) == 1)
    backend = best.backend if best else Backend.NONE
    gpus = [_energy(one, backend, carbon, window, request) for one in measured]
    warnings = [found for one in measured for found in _warnings(one, backend, request.min_coverage)]
    if request.emissions and carbon.grams_per_joule is None:
        text = (
            f"{measured[0].gpu.node or 'the node'}: no grams of CodeCarbon in the window (it needs a country)"
        )
        warnings.append(MeasurementWarning(WarningCode.EMISSIONS_UNAVAILABLE, text))
    joules = [gpu.joules for gpu in gpus]
    total = None if None in joules else math.fsum(value for value in joules if value is not None)
    unsplit = backend is Backend.CODECARBON and len(measured) > 1
    if unsplit and whole and carbon.gpu:
        total = carbon.gpu.joules
    reasons = ["no_gpu_split" if unsplit else "no_data"] if None in joules else []
    if any(0 < gpu.coverage < request.min_coverage for gpu in gpus):
        reasons.append("coverage")
    scopes = {one.gpu.labels.get("scope", "gpu") for one in measured}
    return NodeAnswer(
        backend=backend,
        scope=scopes.pop() if len(scopes) == 1 else "mixed",
        joules=total,
        candidates=tuple(candidates),
        gpus=tuple(gpus),
        reasons=tuple(reasons),
        warnings=tuple(warnings),
    )


def _chosen(candidates: Sequence[Candidate], min_coverage: float, *, split: bool) -> Candidate | None:
    """The choice by priority; a total that cannot be split is taken where it covers enough, or last."""
    unsplit = [one for one in candidates if one.backend is Backend.CODECARBON and not split]
    others = [one for one in candidates if one not in unsplit or one.coverage >= min_coverage]
    return choose(others, min_coverage) or choose(unsplit, min_coverage)


def without_gpus(carbon: NodeEnergy, request: Request) -> NodeAnswer:
    """The answer for a node that has none: CodeCarbon's cpu and ram, which compare with nothing."""
    coverage = covered(carbon.rest)
    offered = [Candidate(backend, 0.0, "no GPU in the window") for backend in MEASURING]
    reason = f"covers {coverage:.4f} of the window, cpu and ram"
    offered.append(Candidate(Backend.CODECARBON, coverage, reason))
    candidates = tuple(one for one in offered if request.backend in (None, one.backend))
    if not coverage or request.backend not in (None, Backend.CODECARBON):
        return NodeAnswer(Backend.NONE, "node", None, candidates, reasons=("no_data",))
    joules = carbon.rest.joules if carbon.rest else None
    reasons = ("coverage",) if coverage < request.min_coverage else ()
    return NodeAnswer(Backend.CODECARBON, "node", joules, candidates, reasons=reasons)


def _candidates(measured: Sequence[Measured], carbon: NodeEnergy, named: Backend | None) -> list[Candidate]:
    """What each backend covers of the GPUs of a node."""
    offered = []
    for backend in MEASURING:
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
    coverage = covered(carbon.gpu)
    reason = f"covers {coverage:.4f} of the window, all GPUs together" if coverage else "no samples of it"
    offered.append(Candidate(Backend.CODECARBON, coverage, reason))
    return [candidate for candidate in offered if named in (None, candidate.backend)]


def _energy(
    one: Measured, backend: Backend, carbon: NodeEnergy, window: Window, request: Request
) -> GpuEnergy:
    gpu, integral = one.gpu, one.by_backend.get(backend)
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
    if backend is Backend.CODECARBON and integral is None and carbon.gpu:
        return replace(
            _read(result, carbon.gpu), joules=None, joules_low=None, joules_high=None, mean_watts=None
        )
    if integral is None:
        return result
    nvml = one.by_backend.get(Backend.NVML)
    rate = carbon.grams_per_joule if request.emissions else None
    return replace(
        _read(result, integral),
        peak_watts=_peak(integral, nvml, gpu.peak_watts),
        emissions_g=None if rate is None or integral.joules is None else integral.joules * rate,
    )


def _peak(integral: Integral, nvml: Integral | None, gauge_watts: float | None) -> float | None:
    """The highest sample of the trace, else of the gauges; None where these, below the mean, missed it."""
    peak = nvml.peak_watts if nvml and nvml.peak_watts is not None else gauge_watts
    if peak is None or integral.joules is None or peak * integral.covered_s < integral.joules:
        return None
    return peak


def _read(result: GpuEnergy, integral: Integral) -> GpuEnergy:
    return replace(
        result,
        joules=integral.joules,
        joules_low=integral.low,
        joules_high=integral.high,
        mean_watts=None if integral.joules is None else integral.joules / integral.covered_s,
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
    joules = {
        name: found.joules
        for name, found in one.by_backend.items()
        if name in MEASURING and found.joules is not None and found.coverage >= min_coverage
    }
    most, least = max(joules.values(), default=0.0), min(joules.values(), default=0.0)
    if most - least > _DISAGREEMENT * most:
        text = ", ".join(f"{name} {value:.1f} J" for name, value in joules.items())
        yield warn(WarningCode.BACKENDS_DISAGREE, f"more than 5 % apart: {text}")


def _sample_faults(gpu: GpuReadings) -> Iterator[tuple[WarningCode, str]]:
    series = [one for found in gpu.series.values() for one in found]
    series += [
        trace for spec in (metrics.GPU_POWER_TRACE, metrics.GPU_ZEUS_TRACE) if (trace := gpu.trace(spec))
    ]
    if conflicts := max((one.conflicts for one in series), default=0):
        yield WarningCode.CONFLICTING_SAMPLES, f"{conflicts} times carry unlike values; the larger was kept"
    if bad := sum(one.bad for found in gpu.series.values() for one in found):
        yield WarningCode.BAD_SAMPLES, f"{bad} readings are no samples (NaN, infinite or negative)"
