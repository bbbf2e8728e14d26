"""NVMLBackend: power sampled through NVML by the exporter's sampler, and integrated."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from llem_core.backend import Backend
from llem_core.energy import NOTHING, PairEnergy, add_energy, joules, part_energy, power_bounds
from llem_core.measurement import EnergyMeasurement
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import GpuBackend, Tracker
from llem_measure.backends.measured_gpu import GpuResult, for_each, list_indices, measurement_of
from llem_measure.backends.sampled_gpu import check_interval, new_sampler, start_sampling
from llem_measure.nvml.calls import CALL_SECONDS, DRIVER_SECONDS, call
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.discovery import Gpu, find_some_gpus
from llem_measure.sampling.devices import Status
from llem_measure.sampling.ledger import Reading
from llem_measure.sampling.ticks import WallClock


class PowerWindow:
    """One GPU during a measurement: its samples, and the values from which bounds and warnings are computed.

    The exact time of a reading is uncertain by half the duration of its call. `_shift_j` is the energy that
    this uncertainty can add or remove between two consecutive samples. `_edge_s` is the uncertainty, in
    seconds, at the first and the last sample and at gaps.
    """

    def __init__(self, gpu: Gpu, interval_ms: int, clock: WallClock) -> None:
        self.gpu, self.device = gpu, NvmlDevice(gpu.index)
        self.sampler = new_sampler(self.device, interval_ms, clock, self.on_reading)
        self.ledger = self.sampler.ledger
        self.persistence_mode: bool | None = None
        self.celsius: list[float] = []
        self.peak_watts = 0.0
        self.was_lost = False
        self.start_ms = math.inf
        self.first_samples: list[tuple[float, float]] = []
        self.last_ms: float | None = None
        self._limits_watts = set[float]()
        self._previous: Reading | None = None
        self._shift_j = self._edge_s = 0.0

    def on_reading(self, reading: Reading, status: Status, found: bool) -> None:
        """Record a reading, the newest status, and whether the GPU could be reached."""
        if status.limit_watts is not None:
            self._limits_watts.add(status.limit_watts)
        if status.temperature_celsius is not None:
            known = [*self.celsius, status.temperature_celsius]
            self.celsius = [min(known), max(known)]
        self.was_lost |= not found and bool(reading.errors)
        if reading.watts is None:
            return
        self.peak_watts = max(self.peak_watts, reading.watts)
        # Those up to the start of the window, which may come later, and the next one.
        if not self.first_samples or self.first_samples[-1][0] < self.start_ms:
            self.first_samples.append((reading.unix_ms, reading.watts))
        self.last_ms = reading.unix_ms
        self._note_shift(reading, reading.watts)

    def energy_until(self, end_ms: float) -> PairEnergy[float]:
        """Return the energy within the window. Time of the window that is not covered is a gap."""
        ledger = self.ledger
        newest = ledger.ring.copy(ledger.ring.held_numbers())
        last_samples = zip(newest.times_ms, newest.watts, strict=True)
        before = energy_between(self.first_samples, -math.inf, self.start_ms, ledger.max_gap_ms)
        after = energy_between(last_samples, end_ms, math.inf, ledger.max_gap_ms)
        sums = PairEnergy(*(t - b - a for t, b, a in zip(ledger.total, before, after, strict=True)))
        gap_ms = end_ms - self.start_ms - sums.covered_ms
        # Less than a millionth is rounding.
        return sums._replace(gap_ms=gap_ms if gap_ms > 1e-6 * (end_ms - self.start_ms) else 0.0)

    def bounds_j(self, total: PairEnergy[float]) -> tuple[float, float]:
        """Return the lower and upper bound of the energy. The upper bound is infinite without a limit."""
        # A limit that the GPU has exceeded bounds nothing.
        limit_watts = max(self.peak_watts, *self._limits_watts) if self._limits_watts else None
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


def energy_between(
    samples: Iterable[tuple[float, float]], start_ms: float, end_ms: float, max_gap_ms: float
) -> PairEnergy[float]:
    """Return the sums of the pairs of samples (ms, watts) between two times. Pairs at the edges are cut."""
    total = NOTHING
    for (ms0, watts0), (ms1, watts1) in pairwise(samples):
        from_ms, to_ms = max(ms0, start_ms), min(ms1, end_ms)
        if from_ms < to_ms:
            dt_ms = ms1 - ms0
            edges = (from_ms - ms0) / dt_ms, (to_ms - ms0) / dt_ms
            part = part_energy(watts0, watts1, dt_ms, max_gap_ms, *edges)
            total = add_energy(total, part)
    return total


class NVMLTracker(Tracker):
    """A measurement in progress. Times are unix ms of a clock that is not adjusted meanwhile."""

    def __init__(self, gpus: Sequence[Gpu], interval_ms: int, driver_timeout_s: float) -> None:
        super().__init__()
        self._clock = WallClock(interval_ms)
        self._windows = [PowerWindow(gpu, interval_ms, self._clock) for gpu in gpus]
        samplers = [window.sampler for window in self._windows]
        self._sampler = start_sampling(samplers, interval_ms, self._clock, driver_timeout_s)
        self._end_when_forgotten(self._sampler.stop)
        for window in self._windows:
            read_mode = window.device.persistence_mode
            window.persistence_mode = call(window.gpu.index, read_mode, driver_timeout_s)
        # A GPU has no data before its first sample, so the window begins when each GPU has one.
        firsts_ms = [window.first_samples[0][0] for window in self._windows if window.first_samples]
        self._start_ms = max(firsts_ms, default=float(self._clock.now_ms()))
        for window in self._windows:
            window.start_ms = self._start_ms

    def _end(self) -> EnergyMeasurement:
        """Read each GPU once more. The window ends at the earliest of these readings."""
        stopped_ms = float(self._clock.now_ms())
        self._sampler.stop()
        silent = self._sampler.wait_last(CALL_SECONDS)
        hanging = {window.gpu.index for window in self._windows if window.sampler in silent}
        lasts_ms = [w.last_ms for w in self._windows if w.gpu.index not in hanging and w.last_ms is not None]
        end_ms = max(self._start_ms, min((ms for ms in lasts_ms if ms >= stopped_ms - 1), default=stopped_ms))
        results = [_result(window, end_ms, hangs=window.gpu.index in hanging) for window in self._windows]
        averaged = any(window.device.info.power_source == "average" for window in self._windows)
        warnings = measurement_warnings.of_window((end_ms - self._start_ms) / 1000, averaged=averaged)
        return measurement_of(Backend.NVML, (self._start_ms / 1000, end_ms / 1000), results, warnings)


class NVMLBackend(GpuBackend):
    """Joules of GPUs by the trapezoid over samples of their power.

    `gpu_indices` names several GPUs by NVML's index, as in all backends; without it, `device_index` names
    one, or None all visible GPUs. The GPUs are read when tracking starts and when it stops, so the window
    contains everything in between. A GPU's first call may take `driver_timeout_s`. Raises ConfigError for a
    sample interval below 20 ms.
    """

    name = Backend.NVML.value

    def __init__(
        self,
        device_index: int | None = 0,
        gpu_indices: Sequence[int] | None = None,
        *,
        sample_interval_ms: int = 100,
        driver_timeout_s: float = DRIVER_SECONDS,
    ) -> None:
        if gpu_indices is None and device_index is not None:
            gpu_indices = (device_index,)
        super().__init__(gpu_indices, driver_timeout_s)
        self._interval_ms = check_interval(sample_interval_ms)

    def check(self) -> str:
        """Return what the backend measures here. Raises ConfigError with the reason if it cannot."""
        gpus = find_some_gpus(self._gpu_indices, self._driver_timeout_s)
        for_each(gpus, _read_once, self._driver_timeout_s, "the power of GPU {} cannot be read")
        return f"reads the power of GPU {list_indices(gpus)}"

    def start_tracking(self) -> NVMLTracker:
        """Start to measure. Raises ConfigError if a GPU cannot be opened."""
        gpus = find_some_gpus(self._gpu_indices, self._driver_timeout_s)
        return NVMLTracker(gpus, self._interval_ms, self._driver_timeout_s)


def _read_once(gpu: Gpu) -> float:
    device = NvmlDevice(gpu.index)
    device.open()
    return device.read_watts(0)


def _result(window: PowerWindow, end_ms: float, *, hangs: bool) -> GpuResult:
    gpu, ledger, energy = window.gpu, window.ledger, window.energy_until(end_ms)
    errors = ", ".join(f"{name} ({count} x)" for name, count in ledger.errors.items())
    reason = errors or f"GPU {gpu.index} has fewer than two power samples without a gap; measure longer"
    if hangs:
        reason = measurement_warnings.why_lost(gpu, None)
    longest_s = min(energy.gap_ms, ledger.largest_gap_ms or energy.gap_ms) / 1000
    warnings = [
        *measurement_warnings.of_gpu(gpu, window.persistence_mode, window.celsius),
        *measurement_warnings.of_samples(gpu, ledger.samples, energy.gap_ms / 1000, longest_s),
    ]
    is_measured, duration_ms = energy.covered_ms > 0, end_ms - window.start_ms
    if window.was_lost or hangs:
        warnings.append(measurement_warnings.lost(gpu, reason))
    elif errors and not is_measured:
        warnings.append(measurement_warnings.rejected(gpu, errors))
    return GpuResult(
        gpu=gpu,
        joules=joules(energy.doubled) if is_measured else None,
        bounds_j=window.bounds_j(energy),
        coverage=1.0 - energy.gap_ms / duration_ms if duration_ms > 0 else 0.0,
        samples=ledger.samples,
        warnings=warnings,
        reason=reason,
        peak_watts=window.peak_watts,
    )
