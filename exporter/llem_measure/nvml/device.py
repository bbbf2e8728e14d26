"""One GPU, read through NVML."""

from collections.abc import Callable, Collection
from typing import Any

from llem_core.errors import DeviceError
from llem_measure.nvml import library as nvml
from llem_measure.nvml.errors import device_error
from llem_measure.nvml.handles import ask, handle_of, shut_down, uuid_of
from llem_measure.nvml.power import PowerReader, find_module_power, find_power, module_of, pci_bus_id
from llem_measure.nvml.status import StatusReader
from llem_measure.sampling.devices import DeviceInfo, Status


class NvmlDevice:
    """A GPU that is opened by NVML's index, and later found again by its UUID.

    `taken` returns the UUIDs of the other GPUs that are open, out of `count`. A GPU that was lost at the
    start may have another index after the driver was reloaded; then the first GPU that is not taken is
    opened. If `wanted` is not empty, only GPUs whose index or UUID it contains are opened.
    """

    def __init__(
        self,
        index: int,
        count: int = 0,
        taken: Callable[[], Collection[str]] = frozenset,
        may_shut_down: Callable[[], bool] = bool,
    ) -> None:
        self.info = DeviceInfo(index, "")
        self._count, self._taken, self._may_shut_down = count, taken, may_shut_down
        self._handle: Any = None
        self.wanted: Collection[str] = ()

    def open(self) -> None:
        """Open the GPU, and find out how to read it. Raises DeviceError."""
        uuid = self.info.uuid
        if uuid and self._may_shut_down():
            shut_down()
        self._handle = handle_of(uuid) if uuid else self._first_not_taken()
        try:
            self._power: PowerReader = find_power(self._handle)
            module_power = find_module_power(self._handle)
            self._status = StatusReader(self._handle, module_power)
            self.info = self._read_info(module_of(self._handle) if module_power else "")
        except nvml.NVMLError as exc:
            raise device_error(exc) from exc

    def read_watts(self, unix_ms: int) -> float:  # noqa: ARG002 - a sensor knows only the present
        """Return the GPU's own power, without the rest of a superchip's module. Raises DeviceError."""
        try:
            return self._power.read_watts()
        except nvml.NVMLError as exc:
            raise device_error(exc) from exc

    def read_status(self) -> Status:
        """Return the status. Errors are part of the result."""
        return self._status.read()

    def persistence_mode(self) -> bool | None:
        """Return whether the driver stays loaded while no program uses the GPU, or None if it is unknown."""
        mode = ask(self._handle, "nvmlDeviceGetPersistenceMode")
        return None if mode is None else bool(mode)

    def _first_not_taken(self) -> Any:
        index = self.info.index
        for number in (index, *(number for number in range(self._count) if number != index)):
            handle = handle_of(number)
            uuid = uuid_of(handle)
            is_wanted = not self.wanted or uuid in self.wanted or str(number) in self.wanted
            if is_wanted and uuid not in self._taken():  # asked now: the calls before may have taken long
                return handle
        raise DeviceError(
            "the GPU was not found; all GPUs that can be opened are already read", "NVML_ERROR_NOT_FOUND"
        )

    def _read_info(self, module: str) -> DeviceInfo:
        pci = ask(self._handle, "nvmlDeviceGetPciInfo")
        minor_number = ask(self._handle, "nvmlDeviceGetMinorNumber")
        driver_version: str = nvml.nvmlSystemGetDriverVersion()
        return DeviceInfo(
            index=int(nvml.nvmlDeviceGetIndex(self._handle)),
            uuid=uuid_of(self._handle),
            name=ask(self._handle, "nvmlDeviceGetName") or "",
            driver_version=driver_version,
            pci_bus_id="" if pci is None else pci_bus_id(pci),
            minor_number="" if minor_number is None else str(minor_number),
            power_source=self._power.source,
            module=module,
        )
