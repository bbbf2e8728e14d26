"""NVML's handles of GPUs, opened by index or UUID, and the initialisation of NVML."""

from contextlib import suppress
from typing import Any

from llem_core.errors import ConfigError
from llem_measure.nvml import library as nvml
from llem_measure.nvml.errors import device_error, error_name


def count_gpus() -> int:
    """Initialise NVML and return the number of GPUs. Raises ConfigError with NVML's reason."""
    try:
        nvml.nvmlInit()
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as exc:
        raise ConfigError(f"NVML cannot be opened: {device_error(exc)}") from exc


def handle_of(gpu: str | int) -> Any:
    """Return a pynvml handle by UUID or index. NVML is initialised again if needed. Raises DeviceError."""
    find = nvml.nvmlDeviceGetHandleByIndex if isinstance(gpu, int) else nvml.nvmlDeviceGetHandleByUUID
    try:
        try:
            return find(gpu)
        except nvml.NVMLError as exc:
            if error_name(exc) != "NVML_ERROR_UNINITIALIZED":
                raise
            nvml.nvmlInit()
            return find(gpu)
    except nvml.NVMLError as exc:
        raise device_error(exc) from exc


def uuid_of(handle: Any) -> str:
    """Return the UUID of the GPU behind a pynvml handle. Raises DeviceError."""
    try:
        return str(nvml.nvmlDeviceGetUUID(handle))
    except nvml.NVMLError as exc:
        raise device_error(exc) from exc


def ask(handle: Any, function: str) -> Any:
    """Return the answer of an NVML function about a GPU, or None if there is none here."""
    try:
        return getattr(nvml, function)(handle)
    except UnicodeDecodeError as exc:  # pynvml decodes the text of the card's firmware strictly
        return exc.object.decode(errors="replace")
    except (nvml.NVMLError, AttributeError):
        return None


def index_of_mig(uuid: str) -> int | None:
    """Return NVML's index of the GPU of a MIG slice (MIG-...), or None if there is no such slice."""
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return int(nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)))
    except nvml.NVMLError:
        return None


def shut_down() -> None:
    """Close NVML, which closes /dev/nvidia*. handle_of() opens it again.

    The driver does not reset a GPU, and does not unload, while a process holds these files. Only the
    sequence of calls was tested, on a fake driver, not on hardware.
    """
    with suppress(nvml.NVMLError):
        while True:
            nvml.nvmlShutdown()
