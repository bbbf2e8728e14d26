"""The warnings about one GPU in windows: what is missing, what was corrected, and what to do."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from llem_core.backend import Backend
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.energy.backends import MEASURING
from llem_integrator.energy.window_energy import Integral
from llem_integrator.results.gpu_rows import GpuColumns, MeasuredGpu
from llem_integrator.series.samples import Flags

_DISAGREEMENT: Final = 0.05
_STUCK: Final = (
    "the hardware energy counter did not change while the GPU drew power, so zeus does not cover that part "
    "of the window (if this lasts, reload the driver when the node is idle)"
)
_SKEWED: Final = (
    "the clock of the exporter differs from that of the scraper by more than 5 s: the times of the scrapes "
    "are used (synchronise the clocks, for example with chrony)"
)

_Text = tuple[WarningCode, str]


def gpu_warnings(columns: GpuColumns, min_coverage: float) -> dict[int, list[MeasurementWarning]]:
    """Return the warnings of each window by its number. Most windows have none."""
    gpu, energy = columns.gpu, columns.energy
    zeus = gpu.by_backend.get(Backend.ZEUS)
    is_stuck = np.zeros(len(energy), np.bool_) if zeus is None else zeus.stuck
    is_apart = _are_apart(gpu, min_coverage)
    concerned = (energy.gap_s > 0) | (energy.resets > 0) | (energy.late > 0) | energy.skewed
    concerned |= is_apart | (gpu.bad > 0) | (gpu.conflicts > 0)
    warnings = defaultdict[int, list[MeasurementWarning]](list)
    for row in np.flatnonzero((concerned & energy.known) | is_stuck).tolist():
        texts: list[_Text] = []
        if energy.known[row]:
            texts += [*_of_energy(energy.row(row)), *_of_samples(gpu, row)]
        if is_stuck[row]:
            texts.append((WarningCode.COUNTER_STUCK, _STUCK))
        if is_apart[row]:
            texts.append(_disagreement(gpu, row))
        warnings[row] += [MeasurementWarning(code, text, gpu.uuid) for code, text in texts]
    return warnings


def _of_energy(energy: Integral) -> Iterator[_Text]:
    """Yield what limits the energy of one window."""
    if energy.gap_s > 0:
        total_s, longest_s = energy.covered_s + energy.gap_s, energy.largest_gap_s
        longest = "" if longest_s is None else f" (longest gap {longest_s:.3f} s)"
        text = (
            f"{energy.gap_s:.3f} s of {total_s:.3f} s are not covered{longest}, and the joules exclude them"
        )
        yield WarningCode.SAMPLE_GAP, text
    if 0 < energy.gap_s <= energy.tail_gap_s * (1 + 1e-9):
        text = (
            f"the newest sample of this GPU is {energy.tail_gap_s:.3f} s before the end of the window (the "
            "file or the GPU's data ends there; for a live server try again later, or use --wait)"
        )
        yield WarningCode.NEWEST_MISSING, text
    if energy.resets:
        restarts = _count(energy.resets, "time")
        text = f"the energy counter restarted {restarts} (restart of the exporter, the driver or the node)"
        yield WarningCode.COUNTER_RESET, text
    if energy.late:
        times = _count(energy.late, "time")
        text = f"the energy counter went back slightly {times} and recovered"
        yield WarningCode.COUNTER_LATE, f"{text}; these falls were ignored, no action is needed"
    if energy.skewed:
        yield WarningCode.CLOCK_SKEW, _SKEWED


def _of_samples(gpu: MeasuredGpu, row: int) -> Iterator[_Text]:
    """Yield what was wrong with the samples in one window."""
    if conflicts := int(gpu.conflicts[row]):
        has = "has" if conflicts == 1 else "have"
        text = (
            f"{_count(conflicts, 'timestamp')} {has} two different values; the larger value was used. "
            "Two targets probably have the same labels: make their labels unique"
        )
        yield WarningCode.CONFLICTING_SAMPLES, text
    if bad := int(gpu.bad[row]):
        text = f"ignored {_count(bad, 'invalid sample')} (NaN, infinite, negative or impossibly high)"
        yield WarningCode.BAD_SAMPLES, text


def _are_apart(gpu: MeasuredGpu, min_coverage: float) -> Flags:
    """Return the windows (w,) in which zeus and nvml both cover enough and differ too much."""
    if not all(backend in gpu.by_backend for backend in MEASURING):
        return np.zeros(len(gpu.bad), np.bool_)
    zeus, nvml = (gpu.by_backend[backend] for backend in MEASURING)
    enough = (zeus.coverage >= min_coverage) & (nvml.coverage >= min_coverage) & zeus.known & nvml.known
    with np.errstate(invalid="ignore"):
        larger = np.maximum(zeus.joules, nvml.joules)
        is_apart: Flags = enough & (np.abs(zeus.joules - nvml.joules) > _DISAGREEMENT * larger)
    return is_apart


def _disagreement(gpu: MeasuredGpu, row: int) -> _Text:
    joules = ", ".join(f"{backend} {gpu.by_backend[backend].joules[row]:.1f} J" for backend in MEASURING)
    text = f"the backends differ by more than 5 %: {joules} (short window, slow sensor or faulty counter)"
    return WarningCode.BACKENDS_DISAGREE, text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
