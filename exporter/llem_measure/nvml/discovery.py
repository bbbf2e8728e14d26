"""Which GPUs a measurement is of: those asked for, or those that CUDA_VISIBLE_DEVICES leaves visible."""

import logging
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, SupportsIndex

from llem_core.errors import ConfigError, DeviceError
from llem_measure.nvml import device as nvml_device

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by NVML's index and its UUID; `mig` where one of its slices was named, not the whole."""

    index: int
    uuid: str
    mig: bool = False


def asked_for(gpu_indices: Sequence[int] | None) -> tuple[Gpu, ...]:
    """The GPUs of these NVML indices; None: the visible ones that NVML opens, maybe none.

    Raises ConfigError where NVML does not open, or not the GPU of an index given.
    """
    count = nvml_device.count_gpus()
    if gpu_indices is None:
        return _visible(count)
    return tuple(_named(index, count) for index in dict.fromkeys(map(whole_number, gpu_indices)))


def whole_number(index: SupportsIndex) -> int:
    """An index as NVML takes it. Raises ConfigError for 0.0, and for True, which Python takes for 1."""
    try:
        if not isinstance(index, bool):
            return operator.index(index)
    except TypeError:
        pass
    raise ConfigError(f"{index!r} is no GPU's index; NVML's are whole numbers from 0")


def some_asked_for(gpu_indices: Sequence[int] | None) -> tuple[Gpu, ...]:
    """The same, at least one. Raises ConfigError where there is none."""
    gpus = asked_for(gpu_indices)
    if gpus:
        return gpus
    if gpu_indices is not None:
        raise ConfigError("no GPU is asked for")
    raise ConfigError(f"no GPU is visible: {VISIBLE} is {os.environ.get(VISIBLE)!r}")


def visible(
    value: str | None, uuids: Mapping[int, str], index_of_mig: Callable[[str], int | None]
) -> tuple[Gpu, ...]:
    """What a value of CUDA_VISIBLE_DEVICES leaves of the GPUs in `uuids` (NVML index -> UUID), in its order.

    As in CUDA, the first entry that names no GPU hides itself and all after it. Whole numbers are taken
    for NVML's indices, which are CUDA's where CUDA_DEVICE_ORDER is PCI_BUS_ID or all GPUs are of a kind.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    if value is None:
        return tuple(Gpu(index, uuid) for index, uuid in uuids.items())
    found: dict[int, Gpu] = {}
    for entry in (part.strip() for part in value.split(",")):
        index = _index_of(entry, uuids, index_of_mig)
        if index is None or index not in uuids:
            break
        found.setdefault(index, Gpu(index, uuids[index], entry.startswith("MIG-")))
    return tuple(found.values())


def _index_of(entry: str, uuids: Mapping[int, str], index_of_mig: Callable[[str], int | None]) -> int | None:
    if entry.isdecimal():
        return int(entry)
    if entry.startswith(
        "MIG-GPU-"
    ):  # MIG-GPU-<uuid>/<instance>/<instance>, as drivers before 470 name slices
        return _only(entry.removeprefix("MIG-").split("/")[0], uuids)
    if entry.startswith("MIG-"):
        return index_of_mig(entry)
    return _only(entry, uuids) if entry.startswith("GPU-") else None


def _only(prefix: str, uuids: Mapping[int, str]) -> int | None:
    matches = [index for index, uuid in uuids.items() if uuid.startswith(prefix)]
    return matches[0] if len(matches) == 1 else None


def _visible(count: int) -> tuple[Gpu, ...]:
    return visible(os.environ.get(VISIBLE), dict(_openable(count)), nvml_device.index_of_mig)


def _openable(count: int) -> Iterable[tuple[int, str]]:
    """CUDA does not show a GPU that is lost, either."""
    for index in range(count):
        try:
            yield index, nvml_device.uuid_at(index)
        except DeviceError as exc:
            _log.warning("GPU %d cannot be opened and is left out: %s", index, exc)


def _named(index: int, count: int) -> Gpu:
    if index not in range(count):
        raise ConfigError(f"no GPU {index} here; NVML counts {count}, from 0")
    try:
        return Gpu(index, nvml_device.uuid_at(index))
    except DeviceError as exc:
        raise ConfigError(f"GPU {index} cannot be opened: {exc}") from exc
