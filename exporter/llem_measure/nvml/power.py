"""Find the best way to read a GPU's own power, and read the power of a superchip's module."""

from collections.abc import Callable
from typing import Any, NamedTuple

from llem_core.errors import DeviceError, DeviceLostError
from llem_measure.nvml import library as nvml
from llem_measure.nvml.errors import ABSENT, GONE, device_error, error_name
from llem_measure.nvml.handles import ask
from llem_measure.sampling.validation import TIMES_LIMIT, TIMES_MODULE_LIMIT, check_power, known_limit_mw


class PowerReader(NamedTuple):
    """A function that returns watts, and the source of its values.

    The source is "instant", "average" (over 1 s), "legacy" or "none".
    """

    source: str
    read_watts: Callable[[], float]


def find_power(handle: Any) -> PowerReader:
    """Return the best power reader of this GPU. Raises pynvml's NVMLError if the GPU is gone.

    Source: NVML_FI_DEV_POWER_INSTANT with NVML_POWER_SCOPE_GPU; nvmlDeviceGetPowerUsage, which is a 1 s
    average on Ampere and newer.
    """
    architecture = ask(handle, "nvmlDeviceGetArchitecture") or 0
    usage = "average" if architecture >= nvml.NVML_DEVICE_ARCH_AMPERE else "legacy"
    limit_mw = _highest_limit_mw(handle)
    readers = [
        PowerReader("instant", _field_reader(handle, nvml.NVML_POWER_SCOPE_GPU, limit_mw, TIMES_LIMIT)),
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
    reasons = [failure for failure in failures if failure.name not in ABSENT] or failures

    def fail() -> float:
        # Lost, so that the caller opens the GPU again.
        raise DeviceLostError(str(reasons[-1]), reasons[-1].name)

    return PowerReader("none", fail)


def find_module_power(handle: Any) -> Callable[[], float] | None:
    """Return a function that reads the power of the superchip module around this GPU, or None if there is
    none.

    A GB10 has the chip-to-chip link of a superchip, but no power of a module.
    """
    link = ask(handle, "nvmlDeviceGetC2cModeInfoV")
    if link is None or not link.isC2cEnabled:
        return None
    limit_mw = _highest_limit_mw(handle)
    read = _field_reader(handle, nvml.NVML_POWER_SCOPE_MODULE, limit_mw, TIMES_MODULE_LIMIT)
    try:
        read()
    except nvml.NVMLError as exc:
        return None if error_name(exc) in ABSENT else read
    except DeviceError:
        pass
    return read


def module_of(handle: Any) -> str:
    """Return a name for the module of this GPU, the same for all GPUs on it.

    It is the board's serial number, else the lowest PCI address of the GPUs on the same NUMA node: a
    module has one CPU. Not tested on hardware. On captured GB300 trays, the serial number is the same for
    the GPUs of a module (k8s-test-infra#727).
    """
    if serial := ask(handle, "nvmlDeviceGetSerial"):
        return str(serial)
    addresses = [pci_bus_id(nvml.nvmlDeviceGetPciInfo(handle))]
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            other = nvml.nvmlDeviceGetHandleByIndex(index)
            if nvml.nvmlDeviceGetTopologyCommonAncestor(handle, other) <= nvml.NVML_TOPOLOGY_NODE:
                addresses.append(pci_bus_id(nvml.nvmlDeviceGetPciInfo(other)))
        except nvml.NVMLError as exc:
            if error_name(exc) == "NVML_ERROR_UNINITIALIZED":
                raise
    return min(addresses)


def pci_bus_id(info: Any) -> str:
    """Return the PCI address in NVML's PCI information."""
    value: str | bytes = info.busId
    return value.decode() if isinstance(value, bytes) else value


def _field_reader(handle: Any, scope: int, limit_mw: int | None, times_limit: float) -> Callable[[], float]:
    """Return a function that reads the instantaneous power of a scope, in watts."""
    get_field_values = nvml.nvmlDeviceGetFieldValues
    request = [(nvml.NVML_FI_DEV_POWER_INSTANT, scope)]

    def read_watts() -> float:
        answer = get_field_values(handle, request)[0]
        if answer.nvmlReturn != 0:
            raise nvml.NVMLError(answer.nvmlReturn)
        return check_power(int(answer.value.uiVal), limit_mw, times_limit)

    return read_watts


def _highest_limit_mw(handle: Any) -> int | None:
    """Return the highest settable limit or the enforced limit, whichever is higher. None if unknown."""
    constraints = ask(handle, "nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    enforced = ask(handle, "nvmlDeviceGetEnforcedPowerLimit")
    known = [limit for limit in map(known_limit_mw, (constraints[1], enforced)) if limit is not None]
    return max(known, default=None)
