"""The protocol of energy backends, and the base of our own backends and of their trackers."""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from llem_core.errors import ConfigError
from llem_core.measurement import EnergyMeasurement


@runtime_checkable
class EnergyBackend(Protocol):
    """A source of joules for a block of code in this process.

    `start_tracking` returns a tracker, and `stop_tracking` returns the energy since the tracker was started.
    Several trackers may be open at once, in several threads. Both raise ConfigError if the backend cannot
    work here.
    """

    @property
    def name(self) -> str: ...

    def is_available(self) -> bool:
        """Return whether it works here, by trying."""
        ...

    def start_tracking(self) -> Any: ...

    def stop_tracking(self, tracker: Any) -> EnergyMeasurement: ...


class Tracker(ABC):
    """A measurement in progress. It can be stopped only in the process that began it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._measurement: EnergyMeasurement | None = None
        self._forgotten: weakref.finalize[..., Tracker] | None = None

    def stop(self) -> EnergyMeasurement:
        """End the measurement and return it. A second call returns the same.

        Raises ConfigError in a forked child: threads and driver handles exist only in the parent.
        """
        if self._pid != os.getpid():
            raise ConfigError(
                f"this measurement began in process {self._pid} and can be stopped only there; "
                "in a forked child, start a new one with the same backend"
            )
        if self._measurement is None:
            if self._forgotten:
                self._forgotten.detach()
            self._measurement = self._end()
        return self._measurement

    @abstractmethod
    def _end(self) -> EnergyMeasurement:
        """End the measurement and return it."""

    def _end_when_forgotten(self, end: Callable[[], object]) -> None:
        """Call `end` when this tracker is garbage collected, so that the GPUs are not read for ever.

        `end` must neither wait nor refer to the tracker.
        """
        self._forgotten = weakref.finalize(self, end)
        self._forgotten.atexit = False


class GpuBackend(ABC):
    """One of our backends. `gpu_indices` are NVML's; None means the visible GPUs."""

    name: str
    """The name by which get_backend() returns it."""

    def __init__(self, gpu_indices: Sequence[int] | None, driver_timeout_s: float) -> None:
        self._gpu_indices = None if gpu_indices is None else tuple(gpu_indices)
        self._driver_timeout_s = driver_timeout_s

    def is_available(self) -> bool:
        """Return whether it works here, by trying."""
        try:
            self.check()
        except ConfigError:
            return False
        return True

    @abstractmethod
    def check(self) -> str:
        """Return what the backend measures here. Raises ConfigError with the reason if it cannot."""

    @abstractmethod
    def start_tracking(self) -> Tracker:
        """Start to measure. Raises ConfigError if that is not possible here."""

    def stop_tracking(self, tracker: Tracker) -> EnergyMeasurement:
        """Return the energy since `tracker` began. A second call returns the same."""
        return tracker.stop()
