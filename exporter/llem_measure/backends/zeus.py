"""Hardware energy counters through Zeus. Only this module imports zeus, when it is used."""

import math
import time
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import Tracker, works
from llem_measure.backends.counter_window import CounterEnergy, CounterReading, counter_energy
from llem_measure.backends.fork_lock import ForkLock
from llem_measure.nvml.calls import CALL_SECONDS, DRIVER_SECONDS, call, hanging
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.discovery import Gpu, find_some_gpus
from llem_measure.nvml.errors import device_error, error_name
from llem_measure.nvml.handles import handle_of, uuid_of
from llem_measure.sampling.counter_filter import is_stuck
from llem_measure.sampling.devices import Device
from llem_measure.sampling.energy_scope import MODULE, scope_of
from llem_measure.sampling.ticks import WallClock

WINDOW_NAME: Final = "llem_measurement"
"""The name of the windows in Zeus's log.

Each tracker has monitors of its own, so that several can be open.
"""

SCOPE_SECONDS: Final = 1.0
SCOPE_STEP_SECONDS: Final = 0.05
"""How long, and how often, a superchip's counter is compared with the power of the GPU and of its module."""

_INSTALL: Final = "pip install 'llem-energy[zeus]'"

# Held while a setting of the whole process is replaced for a moment: Zeus's GPUs, Python's warnings.
_changing = ForkLock()


def import_zeus() -> Any:
    """Return Zeus's class of an NVIDIA GPU. Raises ConfigError if Zeus cannot be imported."""
    try:
        from zeus.device.gpu.nvidia import NVIDIAGPU
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"zeus cannot be imported ({type(exc).__name__}: {exc}); {_INSTALL}") from exc
    return NVIDIAGPU


class ZeusCounter:
    """The energy counter of a GPU that has been opened. It counts since the driver was loaded."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._gpu: Any = None

    def open(self) -> bool:
        """Open the counter through Zeus.

        Returns False if the GPU has none. Raises ConfigError, DeviceError.
        """
        index, uuid = self._device.info.index, self._device.info.uuid
        if self._gpu is not None:
            # Give Zeus's GPU a live handle, by UUID: its index may have changed.
            self._gpu.handle = handle_of(uuid)
            return True
        nvidia_gpu = import_zeus()
        try:
            gpu = nvidia_gpu(index)
            if not gpu.supports_get_total_energy_consumption():
                return False
        except Exception as exc:
            raise device_error(exc, error_name(exc.__cause__ or exc)) from exc
        if (found := uuid_of(gpu.handle)) != uuid:
            raise DeviceError(f"GPU {index} is {found} now", "NVML_ERROR_NOT_FOUND")
        self._gpu = gpu
        try:
            self.read_joules(0)
        except DeviceError as exc:
            self._gpu = None
            if exc.name == "NVML_ERROR_NOT_SUPPORTED":
                return False
            raise
        return True

    def read_joules(self, unix_ms: int) -> float:  # noqa: ARG002 - the hardware counts by itself
        """Return the counter in joules. Raises DeviceError.

        Source: NVML's total energy consumption [mJ], by zeus.device.
        """
        try:
            return int(self._gpu.get_total_energy_consumption()) / 1000
        except Exception as exc:
            raise device_error(exc, error_name(exc.__cause__ or exc)) from exc


class _GpuWindow:
    """The window of one GPU. Its methods call the driver."""

    def __init__(self, gpu: Gpu, monitor: Any) -> None:
        self.gpu, self._monitor = gpu, monitor
        self.device = NvmlDevice(gpu.index)
        self.device.open()
        self.persistence_mode = self.device.persistence_mode()
        self.statuses = [self.device.read_status()]
        self.watts = [self.device.read_watts(0)] if self.device.info.power_source != "none" else []
        self.error = ""
        self.last: CounterReading | None = None

    def begin(self) -> None:
        """Begin the window. Raises ConfigError if the counter cannot be read."""
        begun_s = time.monotonic()
        try:
            self._monitor.begin_window(WINDOW_NAME, sync_execution=False)
        except Exception as exc:
            raise ConfigError(f"Zeus cannot read the counter of GPU {self.gpu.index}: {exc}") from exc
        done_s = time.monotonic()
        joules = self._monitor.measurement_states[WINDOW_NAME].gpu_energy[0]
        self.first = CounterReading(joules, begun_s, done_s)

    def end(self) -> None:
        """End the window; `error` is set if that fails."""
        begun_s = time.monotonic()
        try:
            # Zeus issues a Python warning if the counter has not moved. The measurement has its own.
            with _changing, python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                used = self._monitor.end_window(WINDOW_NAME, sync_execution=False).gpu_energy[0]
            self.last = CounterReading(self.first.joules + used, begun_s, time.monotonic())
            self.statuses.append(self.device.read_status())
            if self.watts:
                self.watts.append(self.device.read_watts(0))
        except Exception as exc:  # noqa: BLE001 - one lost GPU must not take the other GPUs' joules along
            if self.last is None:
                self.error = f"{type(exc).__name__} ({exc})"

    @property
    def limit_watts(self) -> float | None:
        return max((s.limit_watts for s in self.statuses if s.limit_watts is not None), default=None)

    def is_stuck(self, duration_s: float) -> bool:
        """Return whether a counter that did not rise is stuck, by the power at both ends of the window."""
        return len(self.watts) == 2 and is_stuck(duration_s, sum(self.watts) / 2 * duration_s, None)


class ZeusTracker(Tracker):
    """A measurement in progress: one window per GPU."""

    def __init__(self, windows: Sequence[_GpuWindow], clock: WallClock) -> None:
        super().__init__()
        self.windows, self.clock = windows, clock

    def end(self) -> None:
        """End the windows. The window of a GPU whose calls hang stays open, and delays no other."""
        silent = hanging([(window.gpu.index, window.device.persistence_mode) for window in self.windows])
        for window in self.windows:
            if window.gpu.index in silent:
                window.error = measurement_warnings.does_not_return(window.gpu)
            else:
                window.end()


class ZeusBackend:
    """Joules of GPUs by their own energy counters, read twice through a ZeusMonitor.

    `gpu_indices` are NVML's; None means the visible GPUs, as in all backends, independent of the way in
    which Zeus numbers GPUs by CUDA_VISIBLE_DEVICES. It needs Volta or newer: before, Zeus polls power in a
    child process, unreliably. It does not wait for work that is still queued on a GPU (sync_execution is
    off): call torch.cuda.synchronize() first, for example. A GPU's first call may take `driver_timeout_s`.
    """

    def __init__(
        self, gpu_indices: Sequence[int] | None = None, *, driver_timeout_s: float = DRIVER_SECONDS
    ) -> None:
        self._gpu_indices = None if gpu_indices is None else tuple(gpu_indices)
        self._driver_timeout_s = driver_timeout_s

    @property
    def name(self) -> str:
        """The name by which get_backend() returns it."""
        return Backend.ZEUS.value

    def is_available(self) -> bool:
        """Return whether it works here, by trying."""
        return works(self)

    def check(self) -> str:
        """Return what it measures here. Raises ConfigError with the reason if that is nothing."""
        if find_spec("zeus") is None:
            raise ConfigError(f"zeus is not installed; {_INSTALL}")
        _import_monitor()  # here, as it takes seconds that are not a driver call's
        gpus = find_some_gpus(self._gpu_indices, self._driver_timeout_s)
        for gpu in gpus:
            call(gpu.index, partial(_check_counter, gpu), self._driver_timeout_s + SCOPE_SECONDS)
        return f"reads the energy counter of GPU {', '.join(str(gpu.index) for gpu in gpus)}"

    def start_tracking(self) -> ZeusTracker:
        """Start to measure. Raises ConfigError if a counter cannot be read."""
        _import_monitor()
        gpus = find_some_gpus(self._gpu_indices, self._driver_timeout_s)
        windows = [call(gpu.index, partial(_open_window, gpu), self._driver_timeout_s) for gpu in gpus]
        tracker = ZeusTracker(windows, WallClock(100))
        for window in windows:
            call(window.gpu.index, window.begin, CALL_SECONDS)
        return tracker

    def stop_tracking(self, tracker: ZeusTracker) -> EnergyMeasurement:
        """Return the energy since `tracker` began. A second call returns the same."""
        tracker.refuse_another_process()
        if tracker.measurement is None:
            stopped_s = time.monotonic()
            tracker.end()
            tracker.measurement = _measurement(tracker, stopped_s)
        return tracker.measurement


def _zeus_gpu(gpu: Gpu) -> Any:
    """Return Zeus's object for a GPU. Raises ConfigError if Zeus has none, or would only poll power."""
    nvidia_gpu = import_zeus()
    try:
        zeus_gpu = nvidia_gpu(gpu.index)
        counts = zeus_gpu.supports_get_total_energy_consumption()
    except Exception as exc:
        raise ConfigError(f"Zeus cannot open GPU {gpu.index}: {exc}") from exc
    if not counts:
        raise ConfigError(f"GPU {gpu.index} is older than Volta and has no energy counter")
    return zeus_gpu


def _check_counter(gpu: Gpu) -> None:
    """Raise ConfigError if the GPU's counter cannot be read, or counts the GPU's module."""
    zeus_gpu = _zeus_gpu(gpu)
    device = NvmlDevice(gpu.index)
    try:
        zeus_gpu.get_total_energy_consumption()
        device.open()
    except Exception as exc:
        raise ConfigError(f"GPU {gpu.index} has no energy counter through Zeus: {exc}") from exc
    if device.info.module and _scope_of(zeus_gpu, device) == MODULE:
        raise ConfigError(
            f"the energy counter of GPU {gpu.index} counts its whole module, with CPU and perhaps other GPUs"
        )


def _scope_of(zeus_gpu: Any, device: NvmlDevice) -> str:
    """Compare the counter's rise in a second with the power of the GPU and of its module."""
    first_mj, begun_s = zeus_gpu.get_total_energy_consumption(), time.monotonic()
    gpu_watts, module_watts = list[float](), list[float]()
    while time.monotonic() - begun_s < SCOPE_SECONDS:
        gpu_watts.append(device.read_watts(0))
        module_watts.append(device.read_status().module_watts or math.inf)
        time.sleep(SCOPE_STEP_SECONDS)
    duration_s = time.monotonic() - begun_s
    counted_j = (zeus_gpu.get_total_energy_consumption() - first_mj) / 1000
    return scope_of(counted_j, *(math.fsum(w) / len(w) * duration_s for w in (gpu_watts, module_watts)))


def _open_window(gpu: Gpu) -> _GpuWindow:
    try:
        return _GpuWindow(gpu, _monitor(_zeus_gpu(gpu)))
    except DeviceError as exc:
        raise ConfigError(f"GPU {gpu.index} cannot be opened: {exc}") from exc


def _import_monitor() -> Any:
    """Return Zeus's class of monitors. Raises ConfigError if it cannot be imported."""
    import_zeus()
    try:
        from zeus.monitor import ZeusMonitor
    except Exception as exc:
        raise ConfigError(f"zeus cannot be imported ({type(exc).__name__}: {exc}); {_INSTALL}") from exc
    return ZeusMonitor


def _monitor(gpu: Any) -> Any:
    """Return a ZeusMonitor of this GPU alone, as its number 0. Raises ConfigError.

    Zeus keeps one list of GPUs for the whole process, made from CUDA_VISIBLE_DEVICES, which it does not
    understand in all forms. The monitor gets a list of its own; then the program's list is restored.
    """
    make = _import_monitor()
    try:
        import zeus.device.gpu as zeus_gpu

        class OneGpu(zeus_gpu.GPUs):  # type: ignore[misc]
            def __init__(self) -> None: ...

            def __del__(self) -> None: ...

            @property
            def gpus(self) -> list[Any]:
                return [gpu]

        with _changing:
            programs, zeus_gpu._gpus = zeus_gpu._gpus, OneGpu()
            try:
                return make(gpu_indices=[0], cpu_indices=[])
            finally:
                zeus_gpu._gpus = programs
    except Exception as exc:
        raise ConfigError(f"no ZeusMonitor can be made ({type(exc).__name__}: {exc}); {_INSTALL}") from exc


def _measurement(tracker: ZeusTracker, stopped_s: float) -> EnergyMeasurement:
    firsts = [window.first.middle_s for window in tracker.windows]
    lasts = [window.last.middle_s for window in tracker.windows if window.last]
    # GPUs are read one after the other. The window lies between the middles of these readings.
    start_s = (min(firsts) + max(firsts)) / 2
    end_s = (min(lasts) + max(lasts)) / 2 if lasts else stopped_s
    offset_s = tracker.clock.mapping.offset_s
    energies = {
        window.gpu.index: counter_energy(window.first, window.last, (start_s, end_s), window.limit_watts)
        for window in tracker.windows
        if window.last
    }
    per_gpu_j = {index: energy.joules for index, energy in energies.items() if energy.joules is not None}
    bounds_j = {index: (energies[index].low_j, energies[index].high_j) for index in per_gpu_j}
    warnings = list(measurement_warnings.of_window(end_s - start_s))
    for window in tracker.windows:
        warnings += _warnings_of(window, energies.get(window.gpu.index), end_s - start_s)
    if not per_gpu_j:
        reasons = (window.error or "the counter did not move" for window in tracker.windows)
        warnings.append(measurement_warnings.unavailable(reasons))
    return EnergyMeasurement(
        total_j=math.fsum(per_gpu_j.values()) if per_gpu_j else None,
        duration_sec=end_s - start_s,
        samples=len(firsts) + len(lasts),
        per_gpu_j=per_gpu_j or None,
        per_gpu_bounds_j=bounds_j or None,
        start_unix_s=start_s + offset_s,
        end_unix_s=end_s + offset_s,
        coverage=float(len(per_gpu_j) == len(tracker.windows)),
        backend=Backend.ZEUS,
        warnings=tuple(warnings),
        per_gpu_coverage={w.gpu.index: float(w.gpu.index in per_gpu_j) for w in tracker.windows},
    )


def _warnings_of(
    window: _GpuWindow, energy: CounterEnergy | None, duration_s: float
) -> Iterator[MeasurementWarning]:
    gpu = window.gpu
    yield from measurement_warnings.of_mode(gpu, window.persistence_mode)
    if energy is None:
        yield measurement_warnings.lost(gpu, window.error)
        return
    yield from measurement_warnings.of_temperature(gpu, (s.temperature_celsius for s in window.statuses))
    if energy.reset:
        text = f"GPU {gpu.index}: the energy counter restarted, so joules are missing; measure again"
        yield MeasurementWarning(WarningCode.COUNTER_RESET, text, gpu.uuid)
    elif energy.late:
        text = f"GPU {gpu.index}: the energy counter fell slightly and counts as unmoved; measure longer"
        yield MeasurementWarning(WarningCode.COUNTER_LATE, text, gpu.uuid)
    elif energy.joules is None and window.is_stuck(duration_s):
        text = f"GPU {gpu.index}: the energy counter did not rise in {duration_s:.3g} s; use the nvml backend"
        yield MeasurementWarning(WarningCode.COUNTER_STUCK, text, gpu.uuid)
    elif energy.joules is None:
        text = f"GPU {gpu.index}: the energy counter did not move in {duration_s:.3g} s; measure longer"
        yield MeasurementWarning(WarningCode.SHORT_WINDOW, text, gpu.uuid)
