"""Find the best way to read a GPU's own power, and read the power of a superchip's module."""

from collections.abc import Callable
from typing import Any, NamedTuple

from llem_core.errors import DeviceError, DeviceLostError
from llem_measure.nvml.errors import ABSENT, GONE, device_error, error_name
from llem_measure.sampling.validation import TIMES_MODULE_LIMIT, check_power, known_limit_mw


class PowerReader(NamedTuple):
    """A function that returns watts, and the source of its values.

    The source is "instant", "average" (over 1 s), "legacy" or "none".
    """

    source: str
    read_watts: Callable[[], float]


def find_power(nvml: Any, handle: Any, ask: Callable[[str], Any]) -> PowerReader:
    """Return the best power reader of this GPU. Raises pynvml's NVMLError if the GPU is gone.

    Source: NVML_FI_DEV_POWER_INSTANT with NVML_POWER_SCOPE_GPU; nvmlDeviceGetPowerUsage, which is a 1 s
    average on Ampere and newer. `ask` calls an NVML function on this GPU, and returns None if that is not
    supported.
    """
    architecture = ask("nvmlDeviceGetArchitecture") or 0
    usage = "average" if architecture >= nvml.NVML_DEVICE_ARCH_AMPERE else "legacy"
    limit_mw = highest_limit_mw(ask)
    readers = [
        PowerReader("instant", field_reader(nvml, handle, nvml.NVML_POWER_SCOPE_GPU, limit_mw)),
        PowerReader(usage, lambda: check_power(int(nvml.nvmlDeviceGetPowerUsage(handle)), limit_mw)),
    ]
    failures: list[DeviceError] = []
    for reader in readers:
        try:
            reader.read_watts()
        except nvml.NVMLError as exc:
            if error_name(exc) in GONE:
                raise
            failures.append(device_error(exc))
        except DeviceError as exc:
            failures.append(exc)
        else:
            return reader
    return PowerReader("none", _unreadable(failures))


def field_reader(
    nvml: Any, handle: Any, scope: int, limit_mw: int | None, times_limit: float = 2.0
) -> Callable[[], float]:
    """Return a function that reads the instantaneous power of a scope, in watts."""
    get_field_values = nvml.nvmlDeviceGetFieldValues
    request = [(nvml.NVML_FI_DEV_POWER_INSTANT, scope)]

    def read_watts() -> float:
        answer = get_field_values(handle, request)[0]
        if answer.nvmlReturn != 0:
            raise nvml.NVMLError(answer.nvmlReturn)
        return check_power(int(answer.value.uiVal), limit_mw, times_limit)

    return read_watts


def find_module_power(nvml: Any, handle: Any, ask: Callable[[str], Any]) -> Callable[[], float] | None:
    """Return a function that reads the power of the superchip module around this GPU, or None if there is
    none.

    A GB10 has the chip-to-chip link of a superchip, but no power of a module.
    """
    link = ask("nvmlDeviceGetC2cModeInfoV")
    if link is None or not link.isC2cEnabled:
        return None
    read = field_reader(nvml, handle, nvml.NVML_POWER_SCOPE_MODULE, highest_limit_mw(ask), TIMES_MODULE_LIMIT)
    try:
        read()
    except nvml.NVMLError as exc:
        return None if error_name(exc) in ABSENT else read
    except DeviceError:
        pass
    return read


def highest_limit_mw(ask: Callable[[str], Any]) -> int | None:
    """Return the highest settable limit or the enforced limit, whichever is higher. None if unknown."""
    constraints = ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    enforced = ask("nvmlDeviceGetEnforcedPowerLimit")
    known = [limit for limit in map(known_limit_mw, (constraints[1], enforced)) if limit is not None]
    return max(known, default=None)


def _unreadable(failures: list[DeviceError]) -> Callable[[], float]:
    """Return a reader for a GPU whose power cannot be read.

    Each reading raises DeviceLostError, so that the caller opens the GPU again.
    """
    reasons = [failure for failure in failures if failure.name not in ABSENT] or failures

    def read_watts() -> float:
        raise DeviceLostError(str(reasons[-1]), reasons[-1].name)

    return read_watts
