"""NVMLBackend: power sampled through NVML by the exporter's sampler, integrated by the rule."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from llem_core.backend import Backend
from llem_core.energy import GAP_INTERVALS, PairEnergy, joules, power_bounds
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import Tracker, works
from llem_measure.nvml.calls import CALL_SECONDS, DRIVER_SECONDS, call, no_answer, note_answer
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.discovery import Gpu, find_some_gpus
from llem_measure.sampling.devices import Status
from llem_measure.sampling.gpu_sampler import GpuSampler, exact
from llem_measure.sampling.ledger import GpuLedger, Reading
from llem_measure.sampling.ring import Ring
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import WallClock
from llem_measure.sampling.window import energy_between

MIN_INTERVAL_MS: Final = 20
"""No sensor updates more often, and each reading costs the GPU and the driver something."""

_END_SAMPLES: Final = 4
"""Samples that are kept beyond those of the longest wait for a last reading."""


def check_interval(sample_interval_ms: float) -> int:
    """Return the interval in whole ms. Raises ConfigError if it is below 20 ms."""
    if not MIN_INTERVAL_MS <= sample_interval_ms < math.inf:
        raise ConfigError(
            f"sample_interval_ms is {sample_interval_ms!r}; the minimum is {MIN_INTERVAL_MS} ms"
        )
    return int(sample_interval_ms)


class GpuWindow:
    """One GPU during a measurement, and what its readings say beside the joules.

    A reading is made at some instant within its call. So the time at which the bounds' rectangles meet is
    known only to half a call. `_shift_j` is the energy between neighbouring power levels in these half
    calls, and `_edge_s` the time of those without a neighbour.
    """

    def __init__(self, gpu: Gpu, interval_ms: int, clock: WallClock) -> None:
        self.gpu, self.device = gpu, NvmlDevice(gpu.index)
        ring = Ring(int(1000 * CALL_SECONDS / interval_ms) + _END_SAMPLES, exact_times=True)
        self.ledger = GpuLedger(ring, GAP_INTERVALS * interval_ms)
        self.sampler = GpuSampler(
            self.device, None, self.ledger, clock, interval_ms, on_reading=self.reading, publish_ms=exact
        )
        self.persistence_mode: bool | None = None
        self.celsius: list[float] = []
        self.peak_watts = 0.0
        self.lost_by = ""
        self.start_ms = math.inf
        self.first_samples: list[tuple[float, float]] = []
        self.last_ms: float | None = None
        self._limits_watts = set[float]()
        self._previous: Reading | None = None
        self._shift_j = self._edge_s = 0.0

    def reading(self, reading: Reading, status: Status, found: bool) -> None:
        """Take in a reading with the newest slow readings, and whether the GPU could be reached."""
        if status.limit_watts is not None:
            self._limits_watts.add(status.limit_watts)
        if status.temperature_celsius is not None:
            known = [*self.celsius, status.temperature_celsius]
            self.celsius = [min(known), max(known)]
        if not found and reading.errors:
            self.lost_by = reading.errors[-1]
        if reading.watts is None:
            return
        self.peak_watts = max(self.peak_watts, reading.watts)
        # Those up to the start of the window, which may come later, and the next one.
        if not self.first_samples or self.first_samples[-1][0] < self.start_ms:
            self.first_samples.append((reading.unix_ms, reading.watts))
        self.last_ms = reading.unix_ms
        self._note_shift(reading, reading.watts)

    @property
    def limit_watts(self) -> float | None:
        """The highest enforced limit that was read, or the peak if that is higher; None if no limit was
        read."""
        return max(self.peak_watts, *self._limits_watts) if self._limits_watts else None

    def energy(self, end_ms: float) -> PairEnergy[float]:
        """Return the sums of all samples without those before and after the window. The rest is a gap."""
        ledger = self.ledger
        newest = ledger.copy_samples(ledger.held_numbers())
        last_samples = zip(newest.times_ms, newest.watts, strict=True)
        before = energy_between(self.first_samples, -math.inf, self.start_ms, ledger.max_gap_ms)
        after = energy_between(last_samples, end_ms, math.inf, ledger.max_gap_ms)
        sums = PairEnergy(*(t - b - a for t, b, a in zip(ledger.total, before, after, strict=True)))
        gap_ms = end_ms - self.start_ms - sums.covered_ms
        # Less than a millionth is rounding.
        return sums._replace(gap_ms=gap_ms if gap_ms > 1e-6 * (end_ms - self.start_ms) else 0.0)

    def bounds_j(self, total: PairEnergy[float]) -> tuple[float, float]:
        """Return the lowest and the highest joules of the window; the latter is infinite if nothing bounds
        it."""
        limit_watts = self.limit_watts
        edge_s = self._edge_s + (self._previous.watts_call_s / 2 if self._previous else 0.0)
        low, high = power_bounds(total, limit_watts)
        if high is None:
            high = math.inf
        low -= self._shift_j + edge_s * self.peak_watts
        return max(0.0, low), high + self._shift_j + edge_s * (limit_watts or self.peak_watts)

    def _note_shift(self, reading: Reading, watts: float) -> None:
        previous, self._previous = self._previous, reading
        half_s = reading.watts_call_s / 2
        gap = previous is None or reading.unix_ms - previous.unix_ms > self.ledger.max_gap_ms
        if gap or previous is None or previous.watts is None:
            self._edge_s += half_s + (previous.watts_call_s / 2 if previous else 0.0)
        else:
            self._shift_j += (half_s + previous.watts_call_s / 2) * abs(watts - previous.watts)


class NVMLTracker(Tracker):
    """A measurement in progress. Times are unix ms of a clock that is not adjusted meanwhile."""

    def __init__(self, gpus: Sequence[Gpu], interval_ms: int, driver_timeout_s: float) -> None:
        super().__init__()
        self.clock = WallClock(interval_ms)
        self.windows = [GpuWindow(gpu, interval_ms, self.clock) for gpu in gpus]
        self.sampler = Sampler([window.sampler for window in self.windows], self.clock, interval_ms)
        self.end_when_forgotten(self.sampler.stop)
        self.sampler.start()
        for gpu in self.sampler.wait_first(driver_timeout_s):
            self.sampler.stop()
            raise no_answer(gpu.index, driver_timeout_s)
        for window in self.windows:
            self._check_opened(window)
        # Before the first sample of a GPU there is nothing of it: the window begins when each has one.
        firsts_ms = [window.first_samples[0][0] for window in self.windows if window.first_samples]
        self.start_ms = max(firsts_ms, default=float(self.clock.now_ms()))
        for window in self.windows:
            window.start_ms = self.start_ms

    def end(self) -> tuple[float, list[PairEnergy[float]]]:
        """Read each GPU once more. Return the end of the window, and the energy of each GPU up to there."""
        stopped_ms = float(self.clock.now_ms())
        self.sampler.stop()
        self.silent = set(self.sampler.wait_last(CALL_SECONDS))
        self.ended()
        answered = [window for window in self.windows if window.sampler not in self.silent]
        lasts_ms = [window.last_ms for window in answered if window.last_ms is not None]
        end_ms = max(self.start_ms, min((ms for ms in lasts_ms if ms >= stopped_ms - 1), default=stopped_ms))
        return end_ms, [window.energy(end_ms) for window in self.windows]

    def _check_opened(self, window: GpuWindow) -> None:
        if not window.sampler.is_open:
            self.sampler.stop()
            reason = window.lost_by or "it did not answer"
            raise ConfigError(f"GPU {window.gpu.index} cannot be opened: {reason}")
        note_answer(window.gpu.index)
        window.persistence_mode = call(window.gpu.index, window.device.persistence_mode, CALL_SECONDS)


class NVMLBackend:
    """Joules of GPUs by the trapezoid over samples of their power.

    `gpu_indices` names several GPUs by NVML's index, as in all backends; without it, `device_index` names
    one. The GPUs are read when tracking starts and when it stops, so the window contains everything in
    between. A GPU's first call may take `driver_timeout_s`. Raises ConfigError for a sample interval below
    20 ms.
    """

    def __init__(
        self,
        device_index: int = 0,
        gpu_indices: Sequence[int] | None = None,
        *,
        sample_interval_ms: int = 100,
        driver_timeout_s: float = DRIVER_SECONDS,
    ) -> None:
        named = (device_index,) if gpu_indices is None else tuple(gpu_indices)
        self._gpu_indices: tuple[int, ...] | None = named
        self._interval_ms = check_interval(sample_interval_ms)
        self._driver_timeout_s = driver_timeout_s

    @classmethod
    def of_visible_gpus(cls, driver_timeout_s: float = DRIVER_SECONDS) -> "NVMLBackend":
        """Return a backend for all GPUs that CUDA_VISIBLE_DEVICES leaves visible when tracking starts."""
        backend = cls(driver_timeout_s=driver_timeout_s)
        backend._gpu_indices = None
        return backend

    @property
    def name(self) -> str:
        """The name by which get_backend() returns it."""
        return Backend.NVML.value

    def is_available(self) -> bool:
        """Return whether it works here, by trying."""
        return works(self)

    def check(self) -> str:
        """Return what it measures here. Raises ConfigError with the reason if that is nothing."""
        gpus = find_some_gpus(self._gpu_indices, self._driver_timeout_s)
        for gpu in gpus:
            try:
                call(gpu.index, partial(_read_once, gpu.index), self._driver_timeout_s)
            except DeviceError as exc:
                raise ConfigError(f"the power of GPU {gpu.index} cannot be read: {exc}") from exc
        return f"reads the power of GPU {', '.join(str(gpu.index) for gpu in gpus)}"

    def start_tracking(self) -> NVMLTracker:
        """Start to measure. Raises ConfigError if a GPU cannot be opened."""
        gpus = find_some_gpus(self._gpu_indices, self._driver_timeout_s)
        return NVMLTracker(gpus, self._interval_ms, self._driver_timeout_s)

    def stop_tracking(self, tracker: NVMLTracker) -> EnergyMeasurement:
        """Return the energy since `tracker` began. A second call returns the same."""
        tracker.refuse_another_process()
        if tracker.measurement is None:
            tracker.measurement = _measurement(tracker, *tracker.end())
        return tracker.measurement


def _read_once(index: int) -> float:
    device = NvmlDevice(index)
    device.open()
    return device.read_watts(0)


def _measurement(
    tracker: NVMLTracker, end_ms: float, energies: Sequence[PairEnergy[float]]
) -> EnergyMeasurement:
    windows, duration_ms = tracker.windows, end_ms - tracker.start_ms
    measured = {w.gpu.index: (w, e) for w, e in zip(windows, energies, strict=True) if e.covered_ms > 0}
    per_gpu_j = {index: joules(energy.doubled) for index, (_, energy) in measured.items()}
    coverages = {
        window.gpu.index: 1.0 - energy.gap_ms / duration_ms if duration_ms > 0 else 0.0
        for window, energy in zip(windows, energies, strict=True)
    }
    averaged = any(window.device.info.power_source == "average" for window in windows)
    warnings = list(measurement_warnings.of_window(duration_ms / 1000, "average" if averaged else "instant"))
    for window, energy in zip(windows, energies, strict=True):
        warnings += _warnings_of(window, energy, hangs=window.sampler in tracker.silent)
    if not per_gpu_j:
        reasons = (_why_nothing(window, window.sampler in tracker.silent) for window in windows)
        warnings.append(measurement_warnings.unavailable(reasons))
    return EnergyMeasurement(
        total_j=math.fsum(per_gpu_j.values()) if per_gpu_j else None,
        duration_sec=duration_ms / 1000,
        samples=sum(window.ledger.samples for window in windows),
        per_gpu_j=per_gpu_j or None,
        per_gpu_bounds_j={index: window.bounds_j(energy) for index, (window, energy) in measured.items()}
        or None,
        start_unix_s=tracker.start_ms / 1000,
        end_unix_s=end_ms / 1000,
        coverage=min(coverages.values()),
        backend=Backend.NVML,
        warnings=tuple(warnings),
        per_gpu_coverage=coverages,
        per_gpu_peak_watts={index: window.peak_watts for index, (window, _) in measured.items()} or None,
    )


def _warnings_of(
    window: GpuWindow, energy: PairEnergy[float], *, hangs: bool
) -> Iterator[MeasurementWarning]:
    gpu, ledger = window.gpu, window.ledger
    yield from measurement_warnings.of_mode(gpu, window.persistence_mode)
    longest_s = min(energy.gap_ms, ledger.largest_gap_ms or energy.gap_ms) / 1000
    yield from measurement_warnings.of_samples(gpu, ledger.samples, energy.gap_ms / 1000, longest_s)
    yield from measurement_warnings.of_temperature(gpu, window.celsius)
    if window.lost_by or energy.covered_ms == 0 or hangs:
        yield measurement_warnings.lost(gpu, _why_nothing(window, hangs))


def _why_nothing(window: GpuWindow, hangs: bool) -> str:
    if hangs:
        return measurement_warnings.does_not_return(window.gpu)
    errors = ", ".join(f"{name} ({count} x)" for name, count in window.ledger.errors.items())
    return errors or f"GPU {window.gpu.index} has no two samples close enough to each other"
