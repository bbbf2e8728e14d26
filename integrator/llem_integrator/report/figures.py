"""The figures beside the joules: corrected joules, emissions, price, idle and active energy."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.report import About
from llem_integrator.results.fields import GpuEnergy, WindowResult
from llem_integrator.results.request import Request

_JOULES_PER_KWH: Final = 3.6e6


def about(source: str, request: Request) -> About:
    """Return what a report says about all results: the source, the figures, and what each figure is."""
    notes: dict[str, str] = {}
    added: list[str] = []
    pue = f"PUE {request.pue:g}"
    if request.emissions:
        by_node, grams = request.emissions_by_codecarbon, request.grams_per_kwh
        rate = "the node's grams per joule according to CodeCarbon" if by_node else f"{grams:g} g/kWh"
        notes["emissions_g"] = f"operational, location-based, only of the GPU; {rate}, {pue}"
    if request.price_per_kwh is not None:
        added += ["price"]
        notes["price"] = f"only of the GPU; {request.price_per_kwh:g} per kWh, {pue}"
    if request.idle_watts is not None:
        added += ["idle_j", "active_j"]
        notes["idle_j"] = f"{request.idle_watts:g} W x covered time, at most the joules; active_j is the rest"
    if request.calibration is not None:
        added += ["calibrated"]
        notes["calibrated"] = "true = gain x reading + offset; joules_by_backend are not corrected"
    return About(source, tuple(added), notes)


def with_figures(result: WindowResult, request: Request) -> WindowResult:
    """Return the result with the figures of the request."""
    if not about("", request).notes:
        return result
    if not result.gpus and result.total_j is not None:
        text = "emissions, price and other figures are per GPU, and the window has no GPU"
        warning = MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, text)
        return replace(result, warnings=(*result.warnings, warning))
    gpus = tuple(_gpu(gpu, request) for gpu in result.gpus)
    return replace(
        result,
        gpus=gpus,
        per_gpu_j={gpu.uuid: gpu.joules for gpu in gpus},
        total_j=result.total_j if request.calibration is None else _total(result, gpus),
    )


def _gpu(read: GpuEnergy, request: Request) -> GpuEnergy:
    gpu = read
    if request.calibration is not None:
        correction = request.calibration.get(gpu.uuid)
        gpu = (correction.of(gpu) if correction else gpu)._replace(calibrated=correction is not None)
    joules = gpu.joules
    kwh = None if joules is None else joules * request.pue / _JOULES_PER_KWH
    if request.price_per_kwh is not None and kwh is not None:
        gpu = gpu._replace(price=kwh * request.price_per_kwh)
    if request.emissions:
        gpu = gpu._replace(emissions_g=_grams(read, joules, kwh, request))
    if request.idle_watts is not None and joules is not None:
        idle_j = min(request.idle_watts * gpu.covered_s, joules)
        gpu = gpu._replace(idle_j=idle_j, active_j=joules - idle_j)
    return gpu


def _grams(read: GpuEnergy, joules: float | None, kwh: float | None, request: Request) -> float | None:
    if request.grams_per_kwh is not None:
        return None if kwh is None else kwh * request.grams_per_kwh
    if read.emissions_g is None or joules == read.joules:
        return None if read.emissions_g is None else read.emissions_g * request.pue
    if not read.joules or joules is None:  # 0 J give no rate
        return None
    return read.emissions_g * (joules / read.joules) * request.pue


def _total(result: WindowResult, gpus: Sequence[GpuEnergy]) -> float | None:
    """Return the corrected total. A part of the total that belongs to no GPU is not corrected."""
    if result.total_j is None:
        return None
    corrected = [gpu.joules for gpu in gpus if gpu.joules is not None]
    if gpus and len(corrected) == len(gpus):
        return math.fsum(corrected)
    read = (-gpu.joules for gpu in result.gpus if gpu.joules is not None)
    return math.fsum([result.total_j, *read, *corrected])
