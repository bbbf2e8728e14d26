"""The status of a GPU through NVML, and the names of the errors."""

import time
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, Final

from llem_core.errors import DeviceError
from llem_measure.nvml import library as nvml
from llem_measure.nvml.errors import ABSENT, error_name
from llem_measure.sampling.devices import MigSlice, Status
from llem_measure.sampling.validation import known_limit_mw

THROTTLE_REASONS: Final = {
    "applications_clocks": 0x002,
    "sw_power_cap": 0x004,
    "hw_slowdown": 0x008,
    "sync_boost": 0x010,
    "sw_thermal": 0x020,
    "hw_thermal": 0x040,
    "hw_power_brake": 0x080,
    "display_clock": 0x100,
}
"""Label value -> bit.

Source: nvml.h, nvmlClocksEventReason*. Bit 0 is idle, which does not reduce the clocks.
"""

SLICES_SECONDS: Final = 10.0
"""How often the MIG slices are read. They change only when an administrator changes them."""

_HERTZ_PER_MHZ: Final = 1e6
_MIB_PER_GB: Final = 1024


class StatusReader:
    """Reads the status of the GPU behind a pynvml handle. `module_power` reads the watts of its module."""

    def __init__(self, handle: Any, module_power: Callable[[], float] | None) -> None:
        self._handle, self._module_power = handle, module_power
        self._slices: tuple[MigSlice, ...] = ()
        self._slices_due_s = float("-inf")

    def read(self) -> Status:
        """Return the GPU's status: temperature, memory, utilisation, limits and throttle reasons."""
        errors = list[str]()
        # Version 2 does not count what the driver reserves as used; drivers before 510 have version 1 only.
        version_2 = getattr(nvml, "nvmlMemory_v2", None)
        memory = self._ask(errors, ("nvmlDeviceGetMemoryInfo", version_2), ("nvmlDeviceGetMemoryInfo",))
        rates = self._ask(errors, ("nvmlDeviceGetUtilizationRates",))
        limit_mw = known_limit_mw(self._ask(errors, ("nvmlDeviceGetEnforcedPowerLimit",)))
        reasons = self._ask(
            errors,
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),  # its name in drivers before 535
        )
        megahertz = self._ask(errors, ("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM))
        return Status(
            temperature_celsius=self._ask(errors, ("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)),
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
            utilization_ratio=None if rates is None else rates.gpu / 100,
            sm_clock_hertz=None if megahertz is None else megahertz * _HERTZ_PER_MHZ,
            limit_watts=None if limit_mw is None else limit_mw / 1000,
            module_watts=self._read_module(errors),
            throttle={}
            if reasons is None
            else {name: bool(reasons & bit) for name, bit in THROTTLE_REASONS.items()},
            slices=self._read_slices(errors),
            errors=tuple(dict.fromkeys(errors)),
        )

    def _read_module(self, errors: list[str]) -> float | None:
        if self._module_power is None:
            return None
        try:
            return self._module_power()
        except nvml.NVMLError as exc:
            errors.append(error_name(exc))
        except DeviceError as exc:
            errors.append(exc.name)
        return None

    def _read_slices(self, errors: list[str]) -> tuple[MigSlice, ...]:
        """Return the MIG slices, read every SLICES_SECONDS. Return none if they cannot be read."""
        now_s = time.monotonic()
        if now_s >= self._slices_due_s:
            self._slices = ()
            try:
                self._slices = tuple(_slices(self._handle))
            except nvml.NVMLError as exc:
                if (name := error_name(exc)) not in ABSENT:
                    errors.append(name)
                    return ()
            self._slices_due_s = now_s + SLICES_SECONDS
        return self._slices

    def _ask(self, errors: list[str], *ways: tuple[Any, ...]) -> Any:
        """Return the first answer of these NVML calls, or None.

        If all fail, the last error's name is appended to `errors`, unless the reading does not exist here.
        """
        name = ""
        for function, *arguments in ways:
            try:
                return getattr(nvml, function)(self._handle, *arguments)
            except AttributeError:
                continue
            except nvml.NVMLError as exc:
                name = error_name(exc)
        if name and name not in ABSENT:
            errors.append(name)
        return None


def _slices(handle: Any) -> Iterator[MigSlice]:
    """Yield the MIG slices of a GPU, none if MIG is off. Raises pynvml's NVMLError.

    Source: nvmlDeviceGetMigMode, nvmlDeviceGetMigDeviceHandleByIndex.
    """
    is_enabled, _ = nvml.nvmlDeviceGetMigMode(handle)
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_enabled else 0):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            yield MigSlice(str(nvml.nvmlDeviceGetUUID(part)), _profile(nvml.nvmlDeviceGetAttributes(part)))
        except (nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotFound):  # no such slice, or just removed
            continue


def _profile(attributes: Any) -> str:
    """Return the name that nvidia-smi uses: 1g.10gb, or 1c.3g.40gb for a part of a slice's compute.

    A slice has slightly less memory than its name says: 1g.5gb has 4864 MiB.
    """
    gpu, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    part = f"{compute}c." if compute != gpu else ""
    return f"{part}{gpu}g.{ceil(attributes.memorySizeMB / _MIB_PER_GB)}gb"
