"""Finds each GPU's hardware energy counter with Zeus, in one thread per GPU."""

import logging
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from time import sleep

from llem_core.errors import ConfigError, DeviceError
from llem_exporter.openings import RETRY_SECONDS
from llem_measure.backends import zeus
from llem_measure.sampling.sampler import GpuSampler

_log = logging.getLogger(__name__)


class Counters:
    """Finds the counter of each GPU, again and again until there is an answer, and has it read."""

    def __init__(self) -> None:
        self._unread: frozenset[str] = frozenset()
        self._changing = threading.Lock()
        self._imported = False

    @property
    def failing(self) -> bool:
        """Whether Zeus, or a counter that a GPU may have, could not be opened, and still is not.

        Where Zeus is not installed, or a GPU has no counter, nothing fails.
        """
        return bool(self._unread)

    def import_zeus(self) -> None:
        """Import Zeus. Call this before the first tick: the import holds the GIL for at least 0.5 s."""
        try:
            zeus.imported()
        except ConfigError as exc:
            _log.warning("no hardware energy counters: %s", exc)
            self._set("zeus", unread=find_spec("zeus") is not None)
        else:
            self._imported = True

    def find_all(self, gpus: Sequence[GpuSampler]) -> None:
        """Start one thread per GPU to find its counter. Do nothing if Zeus was not imported."""
        if not self._imported:
            return
        for gpu in gpus:
            name = f"zeus-{gpu.device.info.index}"
            threading.Thread(target=self.find, args=(gpu,), name=name, daemon=True).start()

    def find(self, gpu: GpuSampler) -> None:
        """Return when this GPU's counter is read, or there is none."""
        name, error = f"GPU {gpu.device.info.index}", ""
        while True:
            info = gpu.device.info
            try:
                counter = zeus.open_counter(info.index, info.uuid)
            except ConfigError as exc:
                _log.warning("%s: no hardware energy counter: %s", name, exc)
                self._set(name, unread=True)
                return
            except DeviceError as exc:
                if str(exc) != error:
                    _log.warning("%s: its energy counter cannot be opened yet: %s", name, exc)
                error = str(exc)
                self._set(name, unread=True)
                sleep(RETRY_SECONDS)
                continue
            if counter is None:
                _log.info("%s has no energy counter", name)
            else:
                gpu.attach(counter)
                _log.info("%s: its energy counter is read", name)
            self._set(name, unread=False)
            return

    def _set(self, name: str, *, unread: bool) -> None:
        with self._changing:
            self._unread = self._unread | {name} if unread else self._unread - {name}
