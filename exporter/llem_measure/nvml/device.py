"""One GPU, read through NVML."""

from collections.abc import Callable, Collection
from typing import Any

from llem_core.errors import DeviceError
from llem_measure.nvml.errors import device_error
from llem_measure.nvml.handles import handle_of, shut_down, uuid_of
from llem_measure.nvml.module import module_of, pci_bus_id
from llem_measure.nvml.power import PowerReader, find_module_power, find_power
from llem_measure.nvml.status import StatusReader
from llem_measure.sampling.devices import DeviceInfo, Status


class NvmlDevice:
    """A GPU that is opened by NVML's index, and later found again by its UUID.

    `taken` returns the UUIDs of the other GPUs that are open, out of `count`. A GPU that was lost at the
    start may have another index after the driver was reloaded; then the first GPU that is not taken is
    opened.
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
        self._nvml: Any = None
        self._handle: Any = None

    def open(self) -> bool:
        """Open the GPU, and find out how to read it. Raises DeviceError.

        Returns True: a GPU can always be read, unlike an energy counter, which may not exist.
        """
        import pynvml

        self._nvml = pynvml
        uuid = self.info.uuid
        if uuid and self._may_shut_down():
            shut_down()
        self._handle = handle_of(uuid) if uuid else self._first_not_taken()
        try:
            self._power: PowerReader = find_power(pynvml, self._handle, self._ask)
            module_power = find_module_power(pynvml, self._handle, self._ask)
            module = module_of(pynvml, self._handle, self._ask) if module_power else ""
            self._status = StatusReader(pynvml, self._handle, module_power)
            self.info = self._read_info(module)
        except pynvml.NVMLError as exc:
            raise device_error(exc) from exc
        return True

    def read_watts(self, unix_ms: int) -> float:  # noqa: ARG002 - a sensor knows only the present
        """Return the GPU's own power, without the rest of a superchip's module. Raises DeviceError."""
        try:
            return self._power.read_watts()
        except self._nvml.NVMLError as exc:
            raise device_error(exc) from exc

    def read_status(self) -> Status:
        """Return the status. Errors are part of the result."""
        return self._status.read()

    def persistence_mode(self) -> bool | None:
        """Return whether the driver stays loaded while no program uses the GPU, or None if it is unknown."""
        mode = self._ask("nvmlDeviceGetPersistenceMode")
        return None if mode is None else bool(mode)

    def _first_not_taken(self) -> Any:
        index, taken = self.info.index, self._taken()
        for number in (index, *(number for number in range(self._count) if number != index)):
            handle = handle_of(number)
            if uuid_of(handle) not in taken:
                return handle
        raise DeviceError(
            "the GPU was not found; all GPUs that can be opened are already read", "NVML_ERROR_NOT_FOUND"
        )

    def _read_info(self, module: str) -> DeviceInfo:
        nvml = self._nvml
        pci = self._ask("nvmlDeviceGetPciInfo")
        minor_number = self._ask("nvmlDeviceGetMinorNumber")
        driver_version: str = nvml.nvmlSystemGetDriverVersion()
        return DeviceInfo(
            index=int(nvml.nvmlDeviceGetIndex(self._handle)),
            uuid=uuid_of(self._handle),
            name=self._ask("nvmlDeviceGetName") or "",
            driver_version=driver_version,
            pci_bus_id="" if pci is None else pci_bus_id(pci),
            minor_number="" if minor_number is None else str(minor_number),
            power_source=self._power.source,
            module=module,
        )

    def _ask(self, function: str) -> Any:
        """Return NVML's answer for this GPU, or None if the function does not exist here."""
        try:
            return getattr(self._nvml, function)(self._handle)
        except UnicodeDecodeError as exc:  # pynvml decodes the text of the card's firmware strictly
            return exc.object.decode(errors="replace")
        except (self._nvml.NVMLError, AttributeError):
            return None
