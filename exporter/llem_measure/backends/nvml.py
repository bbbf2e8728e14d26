"""NVMLBackend: power sampled every 100 ms through NVML, integrated by the rule."""

import math
import time
from collections.abc import Iterator, Sequence

from llem_core.backend import Backend
from llem_core.energy import GAP_INTERVALS
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning
from llem_measure.backends import measurement_warnings as doubts
from llem_measure.backends.base import Tracker, works
from llem_measure.nvml import device as nvml_device
from llem_measure.nvml import discovery as gpus
from llem_measure.nvml.calls import PATIENCE_SECONDS
from llem_measure.nvml.discovery import Gpu
from llem_measure.sampling.polling import Poller, interval_of
from llem_measure.sampling.power_window import PowerWindow, WindowEnergy
from llem_measure.sampling.ticks import WallClock

__all__ = ["EnergyMeasurement", "NVMLBackend"]


class _Sampled:
    """One GPU under way."""

    def __init__(self, gpu: Gpu, interval_s: float) -> None:
        self.gpu = gpu
        self.device = nvml_device.open_gpu(gpu.index)
        self.persistence_mode = self.device.persistence_mode()
        self.window = PowerWindow(GAP_INTERVALS * interval_s)
        self.poller = Poller(self.device, interval_s, self.window.add)


def _stop(sampled: Sequence[_Sampled]) -> None:
    for one in sampled:
        one.poller.stop()


class NVMLTracker(Tracker):
    """A window under way; `start_s` is on the monotonic clock."""

    def __init__(self, sampled: Sequence[_Sampled], clock: WallClock) -> None:
        super().__init__()
        self.sampled, self.clock = sampled, clock
        self.end_when_forgotten(lambda: _stop(sampled))
        self.start_s = self._begin()

    def _begin(self) -> float:
        for one in self.sampled:
            one.poller.start()
        deadline_s = time.monotonic() + PATIENCE_SECONDS
        for one in self.sampled:
            one.poller.began(max(0.0, deadline_s - time.monotonic()))
        # The window begins when every GPU has been read: there is nothing of it before a first sample.
        firsts = (one.window.first for one in self.sampled)
        start_s = max((first.end_s for first in firsts if first), default=time.monotonic())
        for one in self.sampled:
            one.window.begin(start_s)
            one.poller.release()
        return start_s

    def end(self) -> float:
        """Read every GPU once more; the window ends when the first of these readings begins."""
        stopped_s = time.monotonic()
        _stop(self.sampled)
        ended = [
            one
            for one in self.sampled
            if one.poller.ended(max(0.0, stopped_s + PATIENCE_SECONDS - time.monotonic()))
        ]
        lasts = (one.window.newest for one in ended)
        return min((last.start_s for last in lasts if last), default=stopped_s)


class NVMLBackend:
    """Joules of GPUs by the trapezoid over samples of their power.

    `gpu_indices` names several GPUs, by NVML's index as all backends do; else it is the one of
    `device_index`. It reads when tracking starts and when it stops, so the window holds all in between.
    Raises ConfigError for a sample interval below 20 ms.
    """

    def __init__(
        self,
        device_index: int = 0,
        gpu_indices: Sequence[int] | None = None,
        *,
        sample_interval_ms: int = 100,
    ) -> None:
        named = (device_index,) if gpu_indices is None else tuple(gpu_indices)
        self._gpu_indices: tuple[int, ...] | None = named
        self._interval_s = interval_of(sample_interval_ms)

    @classmethod
    def of_visible_gpus(cls) -> "NVMLBackend":
        """One of all GPUs that CUDA_VISIBLE_DEVICES leaves visible when tracking starts."""
        backend = cls()
        backend._gpu_indices = None
        return backend

    @property
    def name(self) -> str:
        return Backend.NVML.value

    def is_available(self) -> bool:
        return works(self)

    def check(self) -> str:
        """What it measures here. Raises ConfigError with the reason where that is nothing."""
        found = gpus.some_asked_for(self._gpu_indices)
        for gpu in found:
            try:
                nvml_device.open_gpu(gpu.index).read_watts(0)
            except DeviceError as exc:
                raise ConfigError(f"GPU {gpu.index} does not tell its power: {exc}") from exc
        return f"reads power of GPU {', '.join(str(gpu.index) for gpu in found)}"

    def start_tracking(self) -> NVMLTracker:
        found = gpus.some_asked_for(self._gpu_indices)
        sampled = [_Sampled(gpu, self._interval_s) for gpu in found]
        return NVMLTracker(sampled, WallClock(int(self._interval_s * 1000)))

    def stop_tracking(self, tracker: NVMLTracker) -> EnergyMeasurement:
        """The energy since `tracker` began. Called again, it answers the same."""
        tracker.refuse_another_process()
        if tracker.measurement is None:
            end_s = max(tracker.end(), tracker.start_s)
            tracker.ended()
            tracker.measurement = _measurement(tracker, end_s)
        return tracker.measurement


def _measurement(tracker: NVMLTracker, end_s: float) -> EnergyMeasurement:
    offset_s = tracker.clock.mapping.offset_s
    energies = [(one, one.window.end(end_s)) for one in tracker.sampled]
    measured = {one.gpu.index: energy for one, energy in energies if energy.joules is not None}
    per_gpu_j = {index: energy.joules for index, energy in measured.items() if energy.joules is not None}
    peaks_watts = {one.gpu.index: one.window.peak_watts for one in tracker.sampled}
    sources = {one.device.info.power_source for one in tracker.sampled}
    warnings = list(
        doubts.of_window(end_s - tracker.start_s, "average" if "average" in sources else "instant")
    )
    for one, energy in energies:
        warnings += _doubts_of(one, energy)
    if not per_gpu_j:
        warnings.append(doubts.unavailable(_why_nothing(one) for one in tracker.sampled))
    scopes = {one.device.info.scope for one in tracker.sampled}
    return EnergyMeasurement(
        total_j=math.fsum(per_gpu_j.values()) if per_gpu_j else None,
        duration_sec=end_s - tracker.start_s,
        samples=sum(one.window.samples for one in tracker.sampled),
        per_gpu_j=per_gpu_j or None,
        per_gpu_bounds_j={index: (energy.low_j, energy.high_j) for index, energy in measured.items()} or None,
        start_unix_s=tracker.start_s + offset_s,
        end_unix_s=end_s + offset_s,
        coverage=min(energy.coverage for _, energy in energies),
        backend=Backend.NVML,
        scope="module" if "module" in scopes else "gpu",
        warnings=tuple(warnings),
        per_gpu_coverage={one.gpu.index: energy.coverage for one, energy in energies},
        per_gpu_peak_watts={index: peak for index, peak in peaks_watts.items() if peak is not None} or None,
    )


def _doubts_of(one: _Sampled, energy: WindowEnergy) -> Iterator[MeasurementWarning]:
    gpu, window = one.gpu, one.window
    yield from doubts.of_mode(gpu, one.persistence_mode)
    yield from doubts.of_samples(gpu, window.samples, energy.gap_s, energy.largest_gap_s)
    yield from doubts.of_temperature(gpu, window.celsius or ())
    if window.lost_by or energy.coverage == 0 or not one.poller.ended(0):
        yield doubts.lost(gpu, _why_nothing(one))


def _why_nothing(one: _Sampled) -> str:
    if not one.poller.ended(0):
        return doubts.does_not_return(one.gpu)
    errors = ", ".join(f"{name} ({count} x)" for name, count in one.window.errors.items())
    return errors or f"GPU {one.gpu.index} gave no two samples near enough to each other"
