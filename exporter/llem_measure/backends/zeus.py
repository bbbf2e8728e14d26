"""Hardware energy counters through Zeus. Only this module imports zeus, when it is used."""

import math
import time
from collections.abc import Sequence
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import GpuBackend, Tracker
from llem_measure.backends.counter_window import CounterReading, counter_energy
from llem_measure.backends.measured_gpu import (
    GpuResult,
    GpuState,
    OpenGpu,
    for_each,
    list_indices,
    measurement_of,
)
from llem_measure.nvml.calls import DRIVER_SECONDS, call_all
from llem_measure.nvml.discovery import Gpu, find_some_gpus
from llem_measure.nvml.errors import device_error, error_name
from llem_measure.nvml.handles import handle_of, uuid_of
from llem_measure.sampling.counter.scope import MODULE_SCOPE, EnergyScope
from llem_measure.sampling.devices import Device
from llem_measure.sampling.ticks import WallClock

SCOPE_SECONDS: Final = 1.0
SCOPE_STEP_SECONDS: Final = 0.05
"""How long, and how often, a superchip's counter is compared with the power of the GPU and of its module."""

_INSTALL: Final = "pip install 'zeus>=0.13.1'"


def import_zeus() -> Any:
    """Return Zeus's class of an NVIDIA GPU. Raises ConfigError if Zeus cannot be imported."""
    try:
        from zeus.device.gpu.nvidia import NVIDIAGPU
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and exc.name == "zeus":
            raise ConfigError(f"zeus is not installed; {_INSTALL}") from exc
        raise ConfigError(f"zeus cannot be imported ({type(exc).__name__}: {exc}); {_INSTALL}") from exc
    return NVIDIAGPU


class ZeusCounter:
    """The energy counter of a GPU that has been opened. It counts since the driver was loaded.

    `absence` is the reason if the GPU has none.
    """

    def __init__(self, device: Device) -> None:
        self.absence = ""
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
            if not gpu.supports_get_total_energy_consumption():  # Zeus would poll its power, unreliably
                self.absence = f"GPU {index} is older than Volta and has no energy counter"
                return False
        except Exception as exc:
            raise device_error(exc, error_name(exc.__cause__ or exc)) from exc
        if (found := uuid_of(gpu.handle)) != uuid:
            raise DeviceError(f"GPU {index} now has the UUID {found}", "NVML_ERROR_NOT_FOUND")
        self._gpu = gpu
        try:
            self.read_joules(0)
        except DeviceError as exc:
            self._gpu = None
            if exc.name != "NVML_ERROR_NOT_SUPPORTED":
                raise
            self.absence = f"GPU {index} has no energy counter through Zeus: {exc}"
            return False
        return True

    def read_joules(self, unix_ms: int) -> float:  # noqa: ARG002 - the hardware counts by itself
        """Return the counter in joules. Raises DeviceError.

        Source: NVML's total energy consumption [mJ], by zeus.device.
        """
        try:
            return int(self._gpu.get_total_energy_consumption()) / 1000
        except Exception as exc:
            raise device_error(exc, error_name(exc.__cause__ or exc)) from exc


class _CountedGpu(OpenGpu):
    """A GPU with its counter. The methods call the driver."""

    def __init__(self, gpu: Gpu) -> None:
        """Open both. Raises ConfigError if the GPU has no counter, and DeviceError."""
        super().__init__(gpu)
        self._counter = ZeusCounter(self.device)
        if not self._counter.open():
            raise ConfigError(self._counter.absence)

    def read_counter(self) -> CounterReading:
        """Return the counter's value with the times of the call. Raises DeviceError."""
        begun_s = time.monotonic()
        joules = self._counter.read_joules(0)
        return CounterReading(joules, begun_s, time.monotonic())

    def read_end(self) -> tuple[CounterReading, GpuState]:
        """Return what is read at the end of the measurement. Raises DeviceError."""
        return self.read_counter(), self.read_state()

    def counts_module(self) -> bool:
        """Compare a superchip's counter for a second with the power of the GPU and of its module."""
        scope = EnergyScope(SCOPE_STEP_SECONDS, SCOPE_SECONDS, 0.0)
        while not scope.scope:
            counter = self.read_counter()
            module_watts = self.device.read_status().module_watts or math.inf
            scope.add(counter.middle_s, counter.joules, self.device.read_watts(0), module_watts)
            time.sleep(SCOPE_STEP_SECONDS)
        return scope.scope == MODULE_SCOPE


class ZeusTracker(Tracker):
    """A measurement in progress: the counters at its start."""

    def __init__(self, gpus: Sequence[Gpu], driver_timeout_s: float) -> None:
        super().__init__()
        counted = for_each(gpus, _CountedGpu, driver_timeout_s)
        self._gpus = {gpu.gpu.index: gpu for gpu in counted}
        self._unix_offset_s = WallClock(100).mapping.offset_s
        problem = "the energy counter of GPU {} cannot be read"
        firsts = for_each(gpus, lambda gpu: self._gpus[gpu.index].read_counter(), driver_timeout_s, problem)
        self._firsts = dict(zip(self._gpus, firsts, strict=True))

    def _end(self) -> EnergyMeasurement:
        stopped_s = time.monotonic()
        ends = call_all({index: gpu.read_end for index, gpu in self._gpus.items()})
        lasts = [end[0].middle_s for end in ends.values() if not isinstance(end, Exception)]
        # GPUs are not read at the same instant. The window lies between the middles of the readings.
        window_s = (
            _middle([first.middle_s for first in self._firsts.values()]),
            _middle(lasts) if lasts else stopped_s,
        )
        duration_s = window_s[1] - window_s[0]
        start_unix_s = window_s[0] + self._unix_offset_s
        return measurement_of(
            Backend.ZEUS,
            (start_unix_s, start_unix_s + duration_s),
            [self._result(gpu, ends.get(index), window_s) for index, gpu in self._gpus.items()],
            measurement_warnings.of_window(duration_s),
        )

    def _result(
        self,
        gpu: _CountedGpu,
        end: tuple[CounterReading, GpuState] | Exception | None,
        window_s: tuple[float, float],
    ) -> GpuResult:
        if end is None or isinstance(end, Exception):
            reason = measurement_warnings.why_lost(gpu.gpu, end)
            return GpuResult(gpu.gpu, None, (0.0, math.inf), 0.0, 1, gpu.warnings(end), reason)
        last, state = end
        limits_watts = [s.status.limit_watts for s in (gpu.first, state) if s.status.limit_watts is not None]
        first = self._firsts[gpu.gpu.index]
        energy = counter_energy(first, last, window_s, max(limits_watts, default=None))
        watts = ((gpu.first.watts or 0.0) + (state.watts or 0.0)) / 2
        duration_s = window_s[1] - window_s[0]
        return GpuResult(
            gpu=gpu.gpu,
            joules=energy.joules,
            bounds_j=(energy.low_j, energy.high_j),
            coverage=float(energy.joules is not None),
            samples=2,
            warnings=[
                *gpu.warnings(state),
                *measurement_warnings.of_counter(gpu.gpu, energy, duration_s, watts),
            ],
            reason="the counter did not change",
        )


class ZeusBackend(GpuBackend):
    """The energy of GPUs from their hardware counters, read twice through zeus.device.

    `gpu_indices` are NVML's; None means the visible GPUs, as in all backends, although Zeus numbers GPUs by
    CUDA_VISIBLE_DEVICES. GPUs older than Volta have no counter. GPU work is asynchronous: call
    torch.cuda.synchronize() before the end, so that the measurement includes queued work. A GPU's first call
    may take `driver_timeout_s`.
    """

    name = Backend.ZEUS.value

    def __init__(
        self, gpu_indices: Sequence[int] | None = None, *, driver_timeout_s: float = DRIVER_SECONDS
    ) -> None:
        super().__init__(gpu_indices, driver_timeout_s)

    def check(self) -> str:
        """Return what the backend measures here. Raises ConfigError with the reason if it cannot."""
        gpus = self._find_gpus()
        for_each(gpus, _check_counter, self._driver_timeout_s)
        return f"reads the energy counter of GPU {list_indices(gpus)}"

    def start_tracking(self) -> ZeusTracker:
        """Start to measure. Raises ConfigError if a counter cannot be read."""
        return ZeusTracker(self._find_gpus(), self._driver_timeout_s)

    def _find_gpus(self) -> Sequence[Gpu]:
        import_zeus()  # not within a call of the driver, which has a timeout
        return find_some_gpus(self._gpu_indices, self._driver_timeout_s)


def _check_counter(gpu: Gpu) -> None:
    """Raise ConfigError if the GPU has no counter, or if it counts the GPU's module."""
    counted = _CountedGpu(gpu)
    if counted.device.info.module and counted.counts_module():
        raise ConfigError(
            f"the energy counter of GPU {gpu.index} counts its whole module, with CPU and maybe other GPUs"
        )


def _middle(times_s: Sequence[float]) -> float:
    return (min(times_s) + max(times_s)) / 2
