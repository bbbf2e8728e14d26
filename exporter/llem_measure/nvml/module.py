"""Which GPUs share a superchip module."""

from collections.abc import Callable
from typing import Any

from llem_measure.nvml.errors import error_name


def module_of(nvml: Any, handle: Any, ask: Callable[[str], Any]) -> str:
    """Return a name for the module of this GPU, the same for all GPUs on it.

    It is the board's serial number, else the lowest PCI address of the GPUs on the same NUMA node: a
    module has one CPU. Not tested on hardware. On captured GB300 trays, the serial number is the same for
    the GPUs of a module (k8s-test-infra#727).
    """
    serial = ask("nvmlDeviceGetSerial")
    if serial:
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
