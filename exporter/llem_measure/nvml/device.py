"""NVML through nvidia-ml-py: the only file that imports pynvml, and only when called."""

from collections.abc import Callable
from typing import Any, Final

from llem_core.errors import ConfigError, DeviceError, DeviceLostError
from llem_measure.nvml.status import ABSENT, StatusReader
from llem_measure.sampling.devices import DeviceInfo, Status
from llem_measure.sampling.validation import known_limit_mw, plausible

OUTDATED: Final = "NVML_ERROR_LIB_RM_VERSION_MISMATCH"
"""The driver was replaced, and this process has the old one's library, for as long as it lives."""

_GONE: Final = frozenset(
    {
        OUTDATED,
        "NVML_ERROR_UNINITIALIZED",
        "NVML_ERROR_DRIVER_NOT_LOADED",
        "NVML_ERROR_GPU_IS_LOST",
        "NVML_ERROR_GPU_NOT_FOUND",
        "NVML_ERROR_NOT_FOUND",
        "NVML_ERROR_RESET_REQUIRED",
    }
)
_REOPEN: Final = _GONE | {"NVML_ERROR_NOT_SUPPORTED"}
"""Errors that no further call mends: the GPU must be found, and the way to read it chosen, again."""


def error_name(error: BaseException | None) -> str:
    """NVML's own name of an error, as "NVML_ERROR_GPU_IS_LOST"; for others their type's."""
    import pynvml

    if not isinstance(error, pynvml.NVMLError):
        return type(error).__name__
    value = error.value  # pyright: ignore[reportAttributeAccessIssue]
    names = (name for name in dir(pynvml) if name.startswith("NVML_ERROR_"))
    return next((name for name in names if getattr(pynvml, name) == value), f"NVML_ERROR_{value}")


def device_error(error: BaseException, name: str) -> DeviceError:
    """Return the DeviceError for a driver error with this name.

    pynvml reports every library that it cannot load as "not found". The loader's message gives the cause.
    """
    kind = DeviceLostError if name in _REOPEN else DeviceError
    loader = error.__context__ if isinstance(error.__context__, OSError) else None
    return kind(f"{name} ({loader or error})", name)


def open_gpu(index: int) -> "NvmlDevice":
    """The GPU of NVML's index, opened anew. Raises ConfigError where it does not answer."""
    try:
        return NvmlDevice(index)
    except DeviceError as exc:
        raise ConfigError(f"GPU {index} cannot be opened: {exc}") from exc


def count_gpus() -> int:
    """How many GPUs NVML counts, after opening it. Raises ConfigError with NVML's reason."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as exc:
        raise ConfigError(f"NVML cannot be opened: {device_error(exc, error_name(exc))}") from exc


def uuid_at(index: int) -> str:
    """UUID of the GPU of NVML's index. Raises DeviceError."""
    import pynvml

    try:
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
    except pynvml.NVMLError as exc:
        raise device_error(exc, error_name(exc)) from exc


def name_at(index: int) -> str:
    """Model of the GPU of NVML's index. Raises DeviceError."""
    import pynvml

    try:
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))
    except UnicodeDecodeError as exc:  # pynvml decodes the firmware's text strictly
        return exc.object.decode(errors="replace")
    except pynvml.NVMLError as exc:
        raise device_error(exc, error_name(exc)) from exc


def index_of_mig(uuid: str) -> int | None:
    """NVML's index of the GPU that a MIG slice, MIG-..., is part of; None where there is no such slice."""
    import pynvml

    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return int(pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)))
    except pynvml.NVMLError:
        return None


def uuid_of(handle: Any) -> str:
    """UUID of the GPU behind a pynvml handle. Raises DeviceError."""
    import pynvml

    try:
        return str(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError as exc:
        raise device_error(exc, error_name(exc)) from exc


def handle_of(gpu: str | int) -> Any:
    """A live pynvml handle by UUID or index, NVML opened anew where the driver was. Raises DeviceError."""
    import pynvml

    by_index, by_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
    find: Callable[[Any], Any] = by_index if isinstance(gpu, int) else by_uuid
    try:
        try:
            return find(gpu)
        except pynvml.NVMLError as exc:
            if error_name(exc) != "NVML_ERROR_UNINITIALIZED":
                raise
            pynvml.nvmlInit()
            return find(gpu)
    except pynvml.NVMLError as exc:
        raise device_error(exc, error_name(exc)) from exc


class NvmlDevice:
    """A GPU read through NVML; the way to read its power is found out once, when it is opened."""

    def __init__(self, index: int) -> None:
        """Open the GPU of NVML's `index`. Raises DeviceError."""
        import pynvml

        self._nvml: Any = pynvml
        self._handle = handle_of(index)
        try:
            self._uuid = str(pynvml.nvmlDeviceGetUUID(self._handle))
            self._statuses = StatusReader(pynvml, error_name)
            self._probe(index)
        except pynvml.NVMLError as exc:
            raise device_error(exc, error_name(exc)) from exc

    def read_watts(self, unix_ms: int) -> float:  # noqa: ARG002 - a sensor knows only now
        try:
            return self._read_milliwatts() / 1000
        except self._nvml.NVMLError as exc:
            raise device_error(exc, error_name(exc)) from exc

    def read_status(self) -> Status:
        return self._statuses.read(self._handle)

    def persistence_mode(self) -> bool | None:
        """Whether the driver stays loaded while nobody uses the GPU; None where NVML does not say."""
        mode = self._optional("nvmlDeviceGetPersistenceMode")
        return None if mode is None else bool(mode)

    def reopen(self) -> None:
        nvml = self._nvml
        self._handle = handle_of(self._uuid)
        try:
            self._probe(nvml.nvmlDeviceGetIndex(self._handle))
        except nvml.NVMLError as exc:
            raise device_error(exc, error_name(exc)) from exc

    def _probe(self, index: int) -> None:
        self._statuses.look_for_slices()
        source, scope, self._read_milliwatts = self._find_power()
        pci = self._optional("nvmlDeviceGetPciInfo")
        minor_number = self._optional("nvmlDeviceGetMinorNumber")
        driver_version: str = self._nvml.nvmlSystemGetDriverVersion()
        self.info = DeviceInfo(
            index=index,
            uuid=self._uuid,
            name=self._optional("nvmlDeviceGetName") or "",
            driver_version=driver_version,
            pci_bus_id="" if pci is None else _text(pci.busId),
            minor_number="" if minor_number is None else str(minor_number),
            power_source=source,
            scope=scope,
        )

    def _find_power(self) -> tuple[str, str, Callable[[], int]]:
        """Power source, scope and a function that reads milliwatts, by the best way that this GPU has.

        Source: NVML_FI_DEV_POWER_INSTANT; nvmlDeviceGetPowerUsage, which is a 1 s average on Ampere and
        newer. A superchip's power is read of the module, as its energy counter is (zeus#172).
        """
        nvml, handle = self._nvml, self._handle
        chip_link = self._optional("nvmlDeviceGetC2cModeInfoV")
        module = chip_link is not None and bool(chip_link.isC2cEnabled)
        architecture = self._optional("nvmlDeviceGetArchitecture") or 0
        usage = "average" if architecture >= nvml.NVML_DEVICE_ARCH_AMPERE else "legacy"
        limit_mw = self._highest_limit_mw()
        ways: list[tuple[str, str, Callable[[], int]]] = [
            ("instant", "gpu", self._field_reader(nvml.NVML_POWER_SCOPE_GPU)),
            (usage, "gpu", lambda: nvml.nvmlDeviceGetPowerUsage(handle)),
        ]
        if module:
            ways.insert(0, ("instant", "module", self._field_reader(nvml.NVML_POWER_SCOPE_MODULE)))
        failures: list[DeviceError] = []
        for source, scope, read in ways:
            judged = plausible(read, limit_mw, scope)
            try:
                judged()
            except nvml.NVMLError as exc:
                name = error_name(exc)
                if name in _GONE:
                    raise
                failures.append(device_error(exc, name))
            except DeviceError as exc:
                failures.append(exc)
            else:
                return source, scope, judged
        return "none", ways[0][1], _unreadable(failures)

    def _highest_limit_mw(self) -> int | None:
        """Return the highest known power limit of the GPU, or None.

        The candidates are the highest limit that can be set and the limit that is enforced.
        """
        constraints = self._optional("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        enforced = self._optional("nvmlDeviceGetEnforcedPowerLimit")
        known = [limit for limit in map(known_limit_mw, (constraints[1], enforced)) if limit is not None]
        return max(known, default=None)

    def _field_reader(self, scope: int) -> Callable[[], int]:
        nvml, handle = self._nvml, self._handle
        get_field_values = nvml.nvmlDeviceGetFieldValues
        request = [(nvml.NVML_FI_DEV_POWER_INSTANT, scope)]

        def read_milliwatts() -> int:
            answer = get_field_values(handle, request)[0]
            if answer.nvmlReturn != 0:
                raise nvml.NVMLError(answer.nvmlReturn)
            return int(answer.value.uiVal)

        return read_milliwatts

    def _optional(self, function: str, *arguments: Any) -> Any:
        """What NVML answers for this GPU; None where it, or this pynvml, does not offer the function."""
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except UnicodeDecodeError as exc:  # pynvml decodes strictly what the card's firmware says
            return exc.object.decode(errors="replace")
        except (self._nvml.NVMLError, AttributeError):
            return None


def _unreadable(failures: list[DeviceError]) -> Callable[[], int]:
    """A reader of a GPU whose power no way reads: each reading asks to look for one again."""
    told = [failure for failure in failures if failure.name not in ABSENT] or failures

    def read_milliwatts() -> int:
        raise DeviceLostError(str(told[-1]), told[-1].name)

    return read_milliwatts


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
