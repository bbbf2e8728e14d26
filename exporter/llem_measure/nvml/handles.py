"""NVML's handles of GPUs, opened by index or UUID, and the initialisation of NVML."""

from collections.abc import Callable
from typing import Any

from llem_core.errors import ConfigError
from llem_measure.nvml.errors import device_error, error_name


def count_gpus() -> int:
    """Initialise NVML and return the number of GPUs. Raises ConfigError with NVML's reason."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as exc:
        raise ConfigError(f"NVML cannot be opened: {device_error(exc)}") from exc


def handle_of(gpu: str | int) -> Any:
    """Return a pynvml handle by UUID or index. NVML is initialised again if needed. Raises DeviceError."""
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
        raise device_error(exc) from exc


def uuid_of(handle: Any) -> str:
    """Return the UUID of the GPU behind a pynvml handle. Raises DeviceError."""
    import pynvml

    try:
        return str(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError as exc:
        raise device_error(exc) from exc


def name_at(index: int) -> str:
    """Return the model of the GPU with NVML's index. Raises DeviceError."""
    import pynvml

    handle = handle_of(index)
    try:
        return str(pynvml.nvmlDeviceGetName(handle))
    except UnicodeDecodeError as exc:  # pynvml decodes the text of the card's firmware strictly
        return exc.object.decode(errors="replace")
    except pynvml.NVMLError as exc:
        raise device_error(exc) from exc


def index_of_mig(uuid: str) -> int | None:
    """Return NVML's index of the GPU of a MIG slice (MIG-...), or None if there is no such slice."""
    import pynvml

    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return int(pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)))
    except pynvml.NVMLError:
        return None


def shut_down() -> None:
    """Close NVML, which closes /dev/nvidia*. handle_of() opens it again.

    The driver does not reset a GPU, and does not unload, while a process holds these files. Only the
    sequence of calls was tested, on a fake driver, not on hardware.
    """
    import pynvml

    try:
        while True:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        pass
