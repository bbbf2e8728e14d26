"""NVML's errors by name, as DeviceError."""

from typing import Final

from llem_core.errors import DeviceError, DeviceLostError

OUTDATED: Final = "NVML_ERROR_LIB_RM_VERSION_MISMATCH"
"""The driver was replaced. This process keeps the library of the old driver for as long as it lives."""

ABSENT: Final = frozenset({"NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_FUNCTION_NOT_FOUND"})
"""The answers of a GPU or a driver that does not have a reading."""

GONE: Final = frozenset(
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
"""Errors after which the GPU must be found again."""

_REOPEN: Final = GONE | {"NVML_ERROR_NOT_SUPPORTED"}
"""Errors after which the GPU is opened again, and the way to read it is chosen again."""


def error_name(error: BaseException | None) -> str:
    """Return NVML's name of an error, for example "NVML_ERROR_GPU_IS_LOST".

    For other errors, return their type.
    """
    import pynvml

    if not isinstance(error, pynvml.NVMLError):
        return type(error).__name__
    value = error.value  # pyright: ignore[reportAttributeAccessIssue]
    names = (name for name in dir(pynvml) if name.startswith("NVML_ERROR_"))
    return next((name for name in names if getattr(pynvml, name) == value), f"NVML_ERROR_{value}")


def device_error(error: BaseException, name: str = "") -> DeviceError:
    """Return the DeviceError for an error of the driver.

    pynvml reports every library that it cannot load as "not found". The loader's message gives the cause.
    """
    name = name or error_name(error)
    kind = DeviceLostError if name in _REOPEN else DeviceError
    loader = error.__context__ if isinstance(error.__context__, OSError) else None
    return kind(f"{name} ({loader or error})", name)
