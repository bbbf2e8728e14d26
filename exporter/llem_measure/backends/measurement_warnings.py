"""The warnings of a measurement: thresholds, with their reasons, and messages."""

from collections.abc import Iterable
from typing import Final

from llem_core.energy import SENSOR_LAG_SECONDS
from llem_core.errors import LLEMError
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_measure.backends.counter_window import CounterEnergy
from llem_measure.nvml.discovery import Gpu
from llem_measure.sampling.counter.filter import is_stuck

SHORT_WINDOW_SECONDS: Final = 10 * SENSOR_LAG_SECONDS
"""Sensors and counters update every 20 to 500 ms, depending on the model. A window's edge may be off by one
update: by up to 10 % of a window of this length."""

SHORT_AVERAGED_WINDOW_SECONDS: Final = 20.0
"""A 1 s average loses about 0.6 s of a power step at an edge: on an H100, -57 % of a 1 s window, -12 % of 5
s, -3 % of 20 s."""

FEW_SAMPLES: Final = 10
"""Each edge of a window may lie anywhere between two samples: over 10 % if there are fewer than 10."""

DRIFT_CELSIUS: Final = 10.0
"""Leakage grows with temperature: the same work uses more energy on a GPU that is this much warmer."""


def of_window(duration_s: float, *, averaged: bool = False) -> Iterable[MeasurementWarning]:
    """Warn if the window is so short that its edges matter."""
    least_s = SHORT_AVERAGED_WINDOW_SECONDS if averaged else SHORT_WINDOW_SECONDS
    if duration_s < least_s:
        sensor = "a 1 s average of power" if averaged else "sensors that update up to 0.5 s late"
        text = f"{duration_s:.3g} s is short for {sensor}; measure {least_s:g} s or more"
        yield MeasurementWarning(WarningCode.SHORT_WINDOW, text)


def of_gpu(
    gpu: Gpu, persistence_mode: bool | None, celsius: Iterable[float | None]
) -> Iterable[MeasurementWarning]:
    """Warn of a GPU's configuration that affects its readings, and if it became much warmer or colder."""
    if persistence_mode is False:
        text = (
            "persistence mode is off. The driver may unload when no program uses the GPU, which resets the "
            "energy counter. Run 'nvidia-smi -pm 1' as root."
        )
        yield _warning(WarningCode.PERSISTENCE_MODE_OFF, gpu, text)
    if gpu.mig:
        text = (
            "a MIG slice has no power sensor, so the energy is that of the whole GPU; run nothing else on it"
        )
        yield _warning(WarningCode.MIG_SLICE, gpu, text)
    known = [value for value in celsius if value is not None]
    if known and max(known) - min(known) > DRIFT_CELSIUS:
        change = f"the temperature ranged from {min(known):g} to {max(known):g} °C"
        yield _warning(WarningCode.THERMAL_DRIFT, gpu, f"{change}; compare runs at equal temperatures")


def of_samples(gpu: Gpu, samples: int, gap_s: float, largest_gap_s: float) -> Iterable[MeasurementWarning]:
    """Warn if there are few samples, or gaps between them."""
    if samples < FEW_SAMPLES:
        yield _warning(WarningCode.FEW_SAMPLES, gpu, f"only {samples} power samples; measure longer")
    if gap_s > 0:
        text = (
            f"no power samples for {gap_s:.3g} s in total (longest gap {largest_gap_s:.3g} s). "
            "The energy used in these gaps is not included; measure again, or use the zeus backend."
        )
        yield _warning(WarningCode.SAMPLE_GAP, gpu, text)


def of_counter(
    gpu: Gpu, energy: CounterEnergy, duration_s: float, watts: float
) -> Iterable[MeasurementWarning]:
    """Warn if the counter decreased, or did not change although the GPU used energy."""
    if energy.reset:
        text = (
            "the energy counter was reset during the measurement, for example by a driver reload. "
            "The energy before the reset is not included; measure again."
        )
        yield _warning(WarningCode.COUNTER_RESET, gpu, text)
    elif energy.late:
        text = (
            "the energy counter decreased slightly, which is a late value. "
            "No energy is counted; measure again."
        )
        yield _warning(WarningCode.COUNTER_LATE, gpu, text)
    elif energy.joules is None and is_stuck(duration_s, watts * duration_s, None):
        text = f"the energy counter did not increase in {duration_s:.3g} s; use the nvml backend"
        yield _warning(WarningCode.COUNTER_STUCK, gpu, text)
    elif energy.joules is None:
        text = f"the energy counter did not change in {duration_s:.3g} s; measure longer"
        yield _warning(WarningCode.SHORT_WINDOW, gpu, text)


def why_lost(gpu: Gpu, error: Exception | None) -> str:
    """Return why a GPU did not answer. Without an error, its driver call hangs."""
    if error is None:
        return f"a driver call on GPU {gpu.index} has not returned"
    return describe(error)


def describe(error: Exception) -> str:
    """Return an error's message, and its type too if it is not one of ours."""
    return str(error) if isinstance(error, LLEMError) else f"{type(error).__name__}: {error}"


def lost(gpu: Gpu, reason: str) -> MeasurementWarning:
    """Return the warning for a GPU that stopped answering."""
    text = f"GPU {gpu.index} did not answer: {reason}; see dmesg"
    return MeasurementWarning(WarningCode.GPU_LOST, text, gpu.uuid)


def rejected(gpu: Gpu, errors: str) -> MeasurementWarning:
    """Return the warning for a GPU that answers, but whose power readings all failed or were rejected."""
    text = f"no power reading was valid: {errors}; compare with nvidia-smi"
    return _warning(WarningCode.BAD_SAMPLES, gpu, text)


def unavailable(reasons: Iterable[str]) -> MeasurementWarning:
    """Return the warning for a measurement without joules, with all reasons."""
    return MeasurementWarning(
        WarningCode.ENERGY_UNAVAILABLE, f"energy was not measured: {'; '.join(reasons)}"
    )


def _warning(code: WarningCode, gpu: Gpu, text: str) -> MeasurementWarning:
    return MeasurementWarning(code, f"GPU {gpu.index}: {text}", gpu.uuid)
