"""What makes a measurement less than it seems: the thresholds with their reasons, and the words."""

from collections.abc import Iterable
from typing import Final

from llem_core.energy import SENSOR_LAG_SECONDS
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_measure.nvml.discovery import Gpu

SHORT_WINDOW_SECONDS: Final = 10 * SENSOR_LAG_SECONDS
"""Sensors and counters update every 20 to 500 ms by model; an edge that is one update of the slowest off
is then up to 10 % of the window."""

SHORT_AVERAGED_WINDOW_SECONDS: Final = 20.0
"""A 1 s average loses about the step in power x 0.6 s at an edge: on an H100 -57 % of a 1 s window, -12 %
of 5 s, -3 % of 20 s."""

FEW_SAMPLES: Final = 10
"""Each end of a window may lie anywhere in a step between two samples: of fewer than 10 steps that is
more than 10 %."""

DRIFT_CELSIUS: Final = 10.0
"""Leakage grows with temperature: the same work draws more of a GPU this much warmer."""


def of_window(duration_s: float, power_source: str = "instant") -> Iterable[MeasurementWarning]:
    """Whether the window is too short for its edges not to matter."""
    averaged = power_source == "average"
    least_s = SHORT_AVERAGED_WINDOW_SECONDS if averaged else SHORT_WINDOW_SECONDS
    if duration_s < least_s:
        sensor = "a 1 s average of power" if averaged else "sensors that update up to 0.5 s late"
        text = f"{duration_s:.3g} s are short for {sensor}; measure {least_s:g} s or more"
        yield MeasurementWarning(WarningCode.SHORT_WINDOW, text)


def of_mode(gpu: Gpu, persistence_mode: bool | None) -> Iterable[MeasurementWarning]:
    """What a GPU's set-up does to its readings."""
    if persistence_mode is False:
        text = (
            f"GPU {gpu.index}: persistence mode is off; the driver may unload between programs, which takes "
            "seconds and restarts the energy counter: nvidia-smi -pm 1"
        )
        yield MeasurementWarning(WarningCode.PERSISTENCE_MODE_OFF, text, gpu.uuid)
    if gpu.mig:
        text = f"GPU {gpu.index}: a MIG slice has no sensor of its own; the joules are the whole GPU's"
        yield MeasurementWarning(WarningCode.MIG_SLICE, text, gpu.uuid)


def of_temperature(gpu: Gpu, celsius: Iterable[float | None]) -> Iterable[MeasurementWarning]:
    """Whether the GPU warmed or cooled much in between."""
    known = [value for value in celsius if value is not None]
    if known and max(known) - min(known) > DRIFT_CELSIUS:
        text = f"GPU {gpu.index} was between {min(known):g} and {max(known):g} °C: runs may not compare"
        yield MeasurementWarning(WarningCode.THERMAL_DRIFT, text, gpu.uuid)


def of_samples(gpu: Gpu, samples: int, gap_s: float, largest_gap_s: float) -> Iterable[MeasurementWarning]:
    """Whether samples are few, or far apart."""
    if samples < FEW_SAMPLES:
        text = f"GPU {gpu.index}: {samples} power samples"
        yield MeasurementWarning(WarningCode.FEW_SAMPLES, text, gpu.uuid)
    if gap_s > 0:
        text = f"GPU {gpu.index}: no joules for {gap_s:.3g} s without samples, {largest_gap_s:.3g} s on end"
        yield MeasurementWarning(WarningCode.SAMPLE_GAP, text, gpu.uuid)


def does_not_return(gpu: Gpu) -> str:
    """The reason of a GPU whose calls hang."""
    return f"a call on GPU {gpu.index} does not return"


def lost(gpu: Gpu, reason: str) -> MeasurementWarning:
    """A GPU that did not answer any more."""
    return MeasurementWarning(WarningCode.GPU_LOST, f"GPU {gpu.index} did not answer: {reason}", gpu.uuid)


def unavailable(reasons: Iterable[str]) -> MeasurementWarning:
    """No joules, and the chain of reasons."""
    return MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, f"no joules: {'; '.join(reasons)}")
