"""The MIG slices of a GPU. A slice has no power sensor of its own."""

from collections.abc import Iterator
from math import ceil
from typing import Any, Final

from llem_measure.sampling.devices import MigSlice

_MIB_PER_GB: Final = 1024


def slices_of(nvml: Any, handle: Any) -> tuple[MigSlice, ...]:
    """Return the slices of the GPU behind a pynvml handle, none if MIG is off. Raises pynvml's NVMLError.

    Source: nvmlDeviceGetMigMode, nvmlDeviceGetMigDeviceHandleByIndex.
    """
    try:
        enabled, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return ()
    return tuple(_slices(nvml, handle)) if enabled else ()


def _slices(nvml: Any, handle: Any) -> Iterator[MigSlice]:
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            yield MigSlice(str(nvml.nvmlDeviceGetUUID(part)), _profile(nvml.nvmlDeviceGetAttributes(part)))
        except (nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotFound):  # no such slice, or just removed
            continue


def _profile(attributes: Any) -> str:
    """Return the name that nvidia-smi uses: 1g.10gb, or 1c.3g.40gb for a part of a slice's compute.

    A slice has slightly less memory than its name says: 1g.5gb has 4864 MiB.
    """
    gpu, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    part = f"{compute}c." if compute != gpu else ""
    return f"{part}{gpu}g.{ceil(attributes.memorySizeMB / _MIB_PER_GB)}gb"
