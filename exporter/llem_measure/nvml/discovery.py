"""Which GPUs to measure: the requested ones, or those that CUDA_VISIBLE_DEVICES leaves visible."""

import logging
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, SupportsIndex

from llem_core.errors import ConfigError, DeviceError
from llem_measure.nvml.calls import DRIVER_SECONDS, call
from llem_measure.nvml.handles import ask, count_gpus, handle_of, index_of_mig, uuid_of

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

_log = logging.getLogger(__name__)


class UnknownGpuError(ConfigError):
    """This machine does not have a requested GPU."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: NVML's index, UUID and model. The model is None if it cannot be read.

    `mig` is True if the GPU was named by one of its MIG slices.
    """

    index: int
    uuid: str
    name: str | None = None
    mig: bool = False


def find_gpus(gpu_indices: Sequence[int] | None, driver_timeout_s: float = DRIVER_SECONDS) -> tuple[Gpu, ...]:
    """Return the GPUs of these NVML indices. None means the visible ones that NVML can open, maybe none.

    Raises ConfigError if NVML or a requested GPU cannot be opened, or does not answer in time.
    """
    count = call(None, count_gpus, driver_timeout_s)
    if gpu_indices is not None:
        indices = dict.fromkeys(map(whole_number, gpu_indices))
        return tuple(_named(index, count, driver_timeout_s) for index in indices)
    gpus = _openable(count, driver_timeout_s)
    return visible(
        os.environ.get(VISIBLE), gpus, lambda uuid: call(None, lambda: index_of_mig(uuid), driver_timeout_s)
    )


def find_some_gpus(
    gpu_indices: Sequence[int] | None, driver_timeout_s: float = DRIVER_SECONDS
) -> tuple[Gpu, ...]:
    """Return the same, but raise ConfigError if there is none."""
    gpus = find_gpus(gpu_indices, driver_timeout_s)
    if gpus:
        return gpus
    if gpu_indices is not None:
        raise ConfigError("gpu_indices is empty: name at least one GPU")
    if VISIBLE in os.environ:
        raise ConfigError(f"no GPU is visible; {VISIBLE} is set to {os.environ[VISIBLE]!r}")
    raise ConfigError("NVML finds no GPU that can be opened")


def indices_of(names: Sequence[str], driver_timeout_s: float = DRIVER_SECONDS) -> list[int]:
    """Return the NVML indices of GPUs that are named by index, UUID or the start of a UUID ("GPU-2bae").

    Raises ConfigError if NVML cannot be opened or a GPU hangs, UnknownGpuError for a name of no GPU.
    """
    count = call(None, count_gpus, driver_timeout_s)
    by_index = all(name.isdecimal() for name in names)  # then a GPU that hangs beside them does no harm
    gpus = {} if by_index else _openable(count, driver_timeout_s)
    return [_index_named(name, count, gpus) for name in names]


def whole_number(index: SupportsIndex) -> int:
    """Return an index as an int. Raises ConfigError for 0.0, and for True, which is not GPU 1."""
    try:
        if not isinstance(index, bool):
            return operator.index(index)
    except TypeError:
        pass
    raise ConfigError(f"{index!r} is not the index of a GPU; indices are whole numbers from 0")


def visible(
    value: str | None, gpus: Mapping[int, Gpu], index_of_mig: Callable[[str], int | None]
) -> tuple[Gpu, ...]:
    """Return those of `gpus`, by NVML's index, that a value of CUDA_VISIBLE_DEVICES leaves, in its order.

    As in CUDA, the first entry that is not a GPU hides itself and all later entries. Numbers are treated as
    NVML's indices, which are CUDA's if CUDA_DEVICE_ORDER is PCI_BUS_ID or all GPUs are of one model.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    if value is None:
        return tuple(gpus.values())
    left: dict[int, Gpu] = {}
    for entry in (part.strip() for part in value.split(",")):
        index = _index_of(entry, gpus, index_of_mig)
        if index is None or index not in gpus:
            break
        left.setdefault(index, replace(gpus[index], mig=entry.startswith("MIG-")))
    return tuple(left.values())


def _index_of(entry: str, gpus: Mapping[int, Gpu], index_of_mig: Callable[[str], int | None]) -> int | None:
    if entry.isdecimal():
        return int(entry)
    if entry.startswith("MIG-") and not entry.startswith("MIG-GPU-"):
        return index_of_mig(entry)
    if entry.startswith("MIG-GPU-"):  # MIG-GPU-<uuid>/<instance>/<instance>: slices in drivers before 470
        entry = entry.removeprefix("MIG-").split("/")[0]
    matches = [gpu.index for gpu in gpus.values() if gpu.uuid.startswith(entry)]
    return matches[0] if entry.startswith("GPU-") and len(matches) == 1 else None


def _index_named(name: str, count: int, gpus: Mapping[int, Gpu]) -> int:
    index = _index_of(name, gpus, lambda _: None)
    if index is not None and index < count:
        return index
    matches = [gpu.uuid for gpu in gpus.values() if gpu.uuid.startswith(name)]
    if len(matches) > 1:
        raise UnknownGpuError(f"{name!r} matches several GPUs: {', '.join(matches)}")
    raise UnknownGpuError(
        f"GPU {name!r} not found or cannot be opened: "
        f"the number of GPUs is {count}, and the first has index 0"
    )


def _openable(count: int, driver_timeout_s: float) -> dict[int, Gpu]:
    """Return the GPUs that can be opened, by index. CUDA does not show a GPU that is lost, either."""
    gpus: dict[int, Gpu] = {}
    for index in range(count):
        try:
            gpus[index] = _gpu_at(index, driver_timeout_s)
        except DeviceError as exc:
            _log.warning("GPU %d cannot be opened and is left out: %s", index, exc)
    return gpus


def _named(index: int, count: int, driver_timeout_s: float) -> Gpu:
    if index not in range(count):
        raise ConfigError(f"GPU {index} not found: the number of GPUs is {count}, and the first has index 0")
    try:
        return _gpu_at(index, driver_timeout_s)
    except DeviceError as exc:
        raise ConfigError(f"GPU {index} cannot be opened: {exc}") from exc


def _gpu_at(index: int, driver_timeout_s: float) -> Gpu:
    def read() -> Gpu:
        handle = handle_of(index)
        return Gpu(index, uuid_of(handle), ask(handle, "nvmlDeviceGetName"))

    return call(index, read, driver_timeout_s)
