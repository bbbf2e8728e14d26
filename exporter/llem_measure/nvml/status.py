"""The slow readings of a GPU through NVML, and what of them failed."""

import time
from collections.abc import Callable
from typing import Any, Final

from llem_measure.nvml.mig import slices_of
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
"""Label value -> bit. Source: nvml.h, nvmlClocksEventReason*; idle (bit 0) holds nothing down."""

SLICES_SECONDS: Final = 10.0
"""How old the names of a GPU's MIG slices may be; they change when an administrator changes them."""

ABSENT: Final = frozenset({"NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_FUNCTION_NOT_FOUND"})
"""What a GPU or a driver that does not have a reading answers."""


class StatusReader:
    """Reads the status of one GPU by pynvml, `nvml`, whose errors `error_name` names."""

    def __init__(self, nvml: Any, error_name: Callable[[BaseException], str]) -> None:
        self._nvml, self._error_name = nvml, error_name
        self._slices: tuple[MigSlice, ...] = ()
        self._slices_due_s = float("-inf")

    def look_for_slices(self) -> None:
        """Ask for the MIG slices at the next reading, however new their names are."""
        self._slices_due_s = float("-inf")

    def read(self, gpu: Any) -> Status:
        """Of the GPU behind a pynvml handle."""
        failures: list[str] = []
        # Version 2 does not count what the driver reserves as used; drivers before 510 have version 1 only.
        version_2 = getattr(self._nvml, "nvmlMemory_v2", None)
        memory = self._ask(
            gpu, failures, ("nvmlDeviceGetMemoryInfo", version_2), ("nvmlDeviceGetMemoryInfo",)
        )
        rates = self._ask(gpu, failures, ("nvmlDeviceGetUtilizationRates",))
        limit_mw = known_limit_mw(self._ask(gpu, failures, ("nvmlDeviceGetEnforcedPowerLimit",)))
        reasons = self._ask(
            gpu,
            failures,
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),  # its name in drivers before 535
        )
        celsius = self._ask(gpu, failures, ("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU))
        slices = self._read_slices(gpu, failures)
        return Status(
            temperature_celsius=celsius,
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
            utilization_ratio=None if rates is None else rates.gpu / 100,
            limit_watts=None if limit_mw is None else limit_mw / 1000,
            throttle={}
            if reasons is None
            else {name: bool(reasons & bit) for name, bit in THROTTLE_REASONS.items()},
            slices=slices,
            errors=tuple(dict.fromkeys(failures)),
        )

    def _read_slices(self, gpu: Any, failures: list[str]) -> tuple[MigSlice, ...]:
        """The MIG slices, asked for every SLICES_SECONDS; none where they cannot be read."""
        now_s = time.monotonic()
        if now_s >= self._slices_due_s:
            self._slices = ()
            try:
                self._slices = slices_of(self._nvml, gpu)
            except self._nvml.NVMLError as exc:
                if (name := self._error_name(exc)) not in ABSENT:
                    failures.append(name)
                    return ()
            self._slices_due_s = now_s + SLICES_SECONDS
        return self._slices

    def _ask(self, gpu: Any, failures: list[str], *ways: tuple[Any, ...]) -> Any:
        """The first answer of these calls of NVML.

        Where there is none, None, and the last error's name is added to `failures`; but not where the
        GPU, the driver or this pynvml does not have such a reading.
        """
        name = ""
        for function, *arguments in ways:
            try:
                return getattr(self._nvml, function)(gpu, *arguments)
            except AttributeError:
                continue
            except self._nvml.NVMLError as exc:
                name = self._error_name(exc)
        if name and name not in ABSENT:
            failures.append(name)
        return None
