"""The slices that a GPU is divided into (MIG): their names; none has a sensor of its own."""

from collections.abc import Iterator
from math import ceil
from typing import Any, Final

from llem_measure.sampling.devices import MigSlice

_MIB_PER_GB: Final = 1024


def slices_of(nvml: Any, gpu: Any) -> tuple[MigSlice, ...]:
    """The slices of the GPU behind a pynvml handle; none where MIG is off. Raises pynvml's NVMLError.

    Source: nvmlDeviceGetMigMode, nvmlDeviceGetMigDeviceHandleByIndex.
    """
    try:
        enabled, _ = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError_NotSupported:
        return ()
    return tuple(_slices(nvml, gpu)) if enabled else ()


def _slices(nvml: Any, gpu: Any) -> Iterator[MigSlice]:
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
        except nvml.NVMLError_NotFound:
            continue
        try:
            yield MigSlice(
                str(nvml.nvmlDeviceGetUUID(handle)), _profile(nvml.nvmlDeviceGetAttributes(handle))
            )
        except (nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotFound):  # removed at this moment
            continue


def _profile(attributes: Any) -> str:
    """As nvidia-smi names it: 1g.10gb, or 1c.3g.40gb for a part of one slice's compute.

    A slice has a little less memory than its name says: 1g.5gb has 4864 MiB.
    """
    gpu, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    part = f"{compute}c." if compute != gpu else ""
    return f"{part}{gpu}g.{ceil(attributes.memorySizeMB / _MIB_PER_GB)}gb"
