"""Zeus's view of the hardware energy counter: the only file that imports zeus, and only when called."""

import math
import time
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.backends import measurement_warnings as doubts
from llem_measure.backends.base import Tracker, works
from llem_measure.backends.counter_window import CounterEnergy, CounterReading, counter_energy
from llem_measure.backends.fork_lock import ForkLock
from llem_measure.nvml import device as nvml_device
from llem_measure.nvml import discovery as gpus
from llem_measure.nvml.calls import hanging
from llem_measure.nvml.discovery import Gpu
from llem_measure.sampling.ticks import WallClock

WINDOW_NAME: Final = "llem_measurement"
"""Zeus's windows are named so in its logs; each tracker has monitors of its own, so that many may be open."""

_INSTALL: Final = "pip install 'llem-energy[zeus]'"

# Held while a process-wide setting is another one for a moment: Zeus's GPUs, Python's warnings.
_changing = ForkLock()


def imported() -> Any:
    """Zeus's class of an NVIDIA GPU. Raises ConfigError where Zeus cannot be imported."""
    try:
        from zeus.device.gpu.nvidia import NVIDIAGPU
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"zeus cannot be imported ({type(exc).__name__}: {exc}); {_INSTALL}") from exc
    return NVIDIAGPU


def open_counter(index: int, uuid: str) -> "ZeusCounter | None":
    """The counter of the GPU of NVML's index and this UUID; None where it has none.

    Raises ConfigError where Zeus cannot be imported, and DeviceError where the GPU does not answer.
    """
    nvidia_gpu = imported()
    try:
        gpu = nvidia_gpu(index)
        counts = gpu.supports_get_total_energy_consumption()
    except Exception as exc:
        raise nvml_device.device_error(exc, nvml_device.error_name(exc.__cause__ or exc)) from exc
    counter = ZeusCounter(gpu)
    if counter.uuid != uuid:
        raise DeviceError(f"GPU {index} is {counter.uuid} by now", "NVML_ERROR_NOT_FOUND")
    try:
        if counts:
            counter.read_joules(0)
    except DeviceError as exc:
        if exc.name != "NVML_ERROR_NOT_SUPPORTED":
            raise
        counts = False
    return counter if counts else None


class ZeusCounter:
    """The energy counter of one GPU, which counts since the driver was loaded."""

    def __init__(self, gpu: Any) -> None:
        self._gpu = gpu
        self.uuid = nvml_device.uuid_of(gpu.handle)

    def read_joules(self, unix_ms: int) -> float:  # noqa: ARG002 - the hardware counts by itself
        """Source: NVML's total energy consumption [mJ], by zeus.device."""
        try:
            return int(self._gpu.get_total_energy_consumption()) / 1000
        except Exception as exc:
            raise nvml_device.device_error(exc, nvml_device.error_name(exc.__cause__ or exc)) from exc

    def reopen(self) -> None:
        """Give Zeus's GPU a live handle, by UUID: its number may be another one by now."""
        self._gpu.handle = nvml_device.handle_of(self.uuid)


class _Counted:
    """One GPU's window under way."""

    def __init__(self, gpu: Gpu, monitor: Any, device: nvml_device.NvmlDevice) -> None:
        self.gpu, self.device, self._monitor = gpu, device, monitor
        self.statuses = [device.read_status()]
        self.persistence_mode = device.persistence_mode()
        self.error = ""
        self.last: CounterReading | None = None

    def begin(self) -> None:
        """Raises ConfigError where the counter does not answer."""
        begun_s = time.monotonic()
        try:
            self._monitor.begin_window(WINDOW_NAME, sync_execution=False)
        except Exception as exc:
            raise ConfigError(f"Zeus cannot read the counter of GPU {self.gpu.index}: {exc}") from exc
        done_s = time.monotonic()
        joules = self._monitor.measurement_states[WINDOW_NAME].gpu_energy[0]
        self.first = CounterReading(joules, begun_s, done_s)

    def end(self) -> None:
        begun_s = time.monotonic()
        try:
            # Python warns of a counter that has not moved, or raises; the measurement says so itself.
            with _changing, python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                used = self._monitor.end_window(WINDOW_NAME, sync_execution=False).gpu_energy[0]
        except Exception as exc:  # noqa: BLE001 - a GPU that is lost must not take the others' joules along
            self.error = f"{type(exc).__name__} ({exc})"
            return
        self.last = CounterReading(self.first.joules + used, begun_s, time.monotonic())

    @property
    def limit_watts(self) -> float | None:
        return max((s.limit_watts for s in self.statuses if s.limit_watts is not None), default=None)


class ZeusTracker(Tracker):
    """Windows under way, one for each GPU."""

    def __init__(self, counted: Sequence[_Counted], clock: WallClock) -> None:
        super().__init__()
        self.counted, self.clock = counted, clock

    def end(self) -> None:
        """End the windows; that of a GPU whose calls hang stays open, and takes no other along."""
        silent = hanging({one.gpu.index: one.device.persistence_mode for one in self.counted})
        for one in self.counted:
            if one.gpu.index in silent:
                one.error = doubts.does_not_return(one.gpu)
            else:
                one.end()


class ZeusBackend:
    """Joules of GPUs by their own counters, between two readings through a ZeusMonitor.

    `gpu_indices` are NVML's, and None means the visible GPUs, as for all backends; what
    CUDA_VISIBLE_DEVICES does to Zeus's numbers has no part in it. It needs Volta or newer: before, Zeus
    polls power in a child process, unreliably. Zeus does not wait for work that is still queued on a
    GPU (sync_execution is off): do so before the block ends, with torch.cuda.synchronize() for one.
    """

    def __init__(self, gpu_indices: Sequence[int] | None = None) -> None:
        self._gpu_indices = None if gpu_indices is None else tuple(gpu_indices)

    @property
    def name(self) -> str:
        return Backend.ZEUS.value

    def is_available(self) -> bool:
        return works(self)

    def check(self) -> str:
        """What it measures here. Raises ConfigError with the reason where that is nothing."""
        if find_spec("zeus") is None:
            raise ConfigError(f"zeus is not installed; {_INSTALL}")
        found = gpus.some_asked_for(self._gpu_indices)
        for gpu, its in zip(found, _zeus_gpus(found), strict=True):
            try:
                its.get_total_energy_consumption()
            except Exception as exc:
                raise ConfigError(f"GPU {gpu.index} has no energy counter through Zeus: {exc}") from exc
        return f"reads the energy counter of GPU {', '.join(str(gpu.index) for gpu in found)}"

    def start_tracking(self) -> ZeusTracker:
        found = gpus.some_asked_for(self._gpu_indices)
        counted = [
            _Counted(gpu, _monitor(its), nvml_device.open_gpu(gpu.index))
            for gpu, its in zip(found, _zeus_gpus(found), strict=True)
        ]
        tracker = ZeusTracker(counted, WallClock(100))
        for one in counted:
            one.begin()
        return tracker

    def stop_tracking(self, tracker: ZeusTracker) -> EnergyMeasurement:
        """The energy since `tracker` began. Called again, it answers the same."""
        tracker.refuse_another_process()
        if tracker.measurement is None:
            stopped_s = time.monotonic()
            tracker.end()
            tracker.measurement = _measurement(tracker, stopped_s)
        return tracker.measurement


def _zeus_gpus(found: Sequence[Gpu]) -> list[Any]:
    """Zeus's own objects for these GPUs. Raises ConfigError where it has none, or only polls them."""
    nvidia_gpu = imported()
    opened: list[Any] = []
    for gpu in found:
        try:
            its = nvidia_gpu(gpu.index)
            counts = its.supports_get_total_energy_consumption()
        except Exception as exc:
            raise ConfigError(f"Zeus cannot open GPU {gpu.index}: {exc}") from exc
        if not counts:
            raise ConfigError(f"GPU {gpu.index} is older than Volta and has no energy counter")
        opened.append(its)
    return opened


def _monitor(gpu: Any) -> Any:
    """A ZeusMonitor of this GPU alone, as its number 0. Raises ConfigError.

    Zeus keeps one list of GPUs for the whole process, made of CUDA_VISIBLE_DEVICES, which it does not
    understand in all its forms. The monitor gets a list of its own in its place; the program's is put back.
    """
    try:
        import zeus.device.gpu as zeus_gpu
        from zeus.monitor import ZeusMonitor

        class OneGpu(zeus_gpu.GPUs):  # type: ignore[misc]
            def __init__(self) -> None: ...

            def __del__(self) -> None: ...

            @property
            def gpus(self) -> list[Any]:
                return [gpu]

        with _changing:
            programs, zeus_gpu._gpus = zeus_gpu._gpus, OneGpu()
            try:
                return ZeusMonitor(gpu_indices=[0], cpu_indices=[])
            finally:
                zeus_gpu._gpus = programs
    except Exception as exc:
        raise ConfigError(f"no ZeusMonitor can be made ({type(exc).__name__}: {exc}); {_INSTALL}") from exc


def _measurement(tracker: ZeusTracker, stopped_s: float) -> EnergyMeasurement:
    firsts = [one.first.middle_s for one in tracker.counted]
    lasts = [one.last.middle_s for one in tracker.counted if one.last]
    # GPUs are read one after the other: the window goes from the middle of the first readings to the last'.
    start_s = (min(firsts) + max(firsts)) / 2
    end_s = (min(lasts) + max(lasts)) / 2 if lasts else stopped_s
    offset_s = tracker.clock.mapping.offset_s
    energies = {
        one.gpu.index: counter_energy(one.first, one.last, (start_s, end_s), one.limit_watts)
        for one in tracker.counted
        if one.last
    }
    per_gpu_j = {index: energy.joules for index, energy in energies.items() if energy.joules is not None}
    bounds_j = {index: (energies[index].low_j, energies[index].high_j) for index in per_gpu_j}
    warnings = list(doubts.of_window(end_s - start_s))
    for one in tracker.counted:
        warnings += _doubts_of(one, energies.get(one.gpu.index), end_s - start_s)
    if not per_gpu_j:
        warnings.append(doubts.unavailable(one.error or "counter did not move" for one in tracker.counted))
    return EnergyMeasurement(
        total_j=math.fsum(per_gpu_j.values()) if per_gpu_j else None,
        duration_sec=end_s - start_s,
        samples=len(firsts) + len(lasts),
        per_gpu_j=per_gpu_j or None,
        per_gpu_bounds_j=bounds_j or None,
        start_unix_s=start_s + offset_s,
        end_unix_s=end_s + offset_s,
        coverage=float(len(per_gpu_j) == len(tracker.counted)),
        backend=Backend.ZEUS,
        scope="module" if any(one.device.info.scope == "module" for one in tracker.counted) else "gpu",
        warnings=tuple(warnings),
        per_gpu_coverage={one.gpu.index: float(one.gpu.index in per_gpu_j) for one in tracker.counted},
    )


def _doubts_of(
    one: _Counted, energy: CounterEnergy | None, duration_s: float
) -> Iterator[MeasurementWarning]:
    gpu = one.gpu
    yield from doubts.of_mode(gpu, one.persistence_mode)
    if energy is None:
        yield doubts.lost(gpu, one.error)
        return
    one.statuses.append(one.device.read_status())
    yield from doubts.of_temperature(gpu, (status.temperature_celsius for status in one.statuses))
    if energy.reset:
        text = f"GPU {gpu.index}: the energy counter restarted; what it had counted before is missing"
        yield MeasurementWarning(WarningCode.COUNTER_RESET, text, gpu.uuid)
    elif energy.late:
        text = f"GPU {gpu.index}: the energy counter fell a little, and is taken not to have moved"
        yield MeasurementWarning(WarningCode.COUNTER_LATE, text, gpu.uuid)
    elif energy.joules is None:
        text = f"GPU {gpu.index}: the energy counter did not move in {duration_s:.3g} s"
        yield MeasurementWarning(WarningCode.SHORT_WINDOW, text, gpu.uuid)
