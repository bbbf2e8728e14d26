"""Zeus's view of the hardware energy counter: the only file that imports zeus, and only when called."""

import logging
from collections.abc import Collection
from typing import Any

from llem_core.errors import ConfigError, DeviceError
from llem_exporter.energy_backends import nvml_device

_log = logging.getLogger(__name__)


def open_counters(uuids: Collection[str]) -> "dict[str, ZeusCounter]":
    """The counters of those GPUs that have one, by UUID. Raises ConfigError where Zeus does not work.

    CUDA_VISIBLE_DEVICES must not be set: it would hide GPUs from Zeus and renumber the others.
    """
    try:
        from zeus.device import get_gpus
    except ImportError as exc:
        raise ConfigError(f"zeus is not installed ({exc}); pip install 'llem-energy[zeus]'") from exc
    try:
        gpus = list(get_gpus().gpus)
    except Exception as exc:
        raise ConfigError(f"Zeus finds no GPU ({exc})") from exc
    counters: dict[str, ZeusCounter] = {}
    for gpu in gpus:
        try:
            counter = ZeusCounter(gpu)
            if counter.uuid in uuids:
                counter.read_joules(0)
                counters[counter.uuid] = counter
        except DeviceError as exc:
            _log.info("GPU %d has no energy counter: %s", gpu.gpu_index, exc)
    return counters


class ZeusCounter:
    """The energy counter of one GPU, which counts since the driver was loaded."""

    def __init__(self, gpu: Any) -> None:
        self._gpu = gpu
        self.uuid = nvml_device.uuid_of(gpu.handle)

    def read_joules(self, unix_ms: int) -> float:  # noqa: ARG002 - the hardware counts by itself
        """Source: NVML's total energy consumption [mJ], by zeus.device."""
        try:
            return int(self._gpu.get_total_energy_consumption()) / 1000
        except Exception as exc:
            raise nvml_device.device_error(exc, nvml_device.error_name(exc.__cause__ or exc)) from exc

    def reopen(self) -> None:
        """Give Zeus's GPU a live handle, by UUID: its number may be another one by now."""
        self._gpu.handle = nvml_device.handle_of(self.uuid)
