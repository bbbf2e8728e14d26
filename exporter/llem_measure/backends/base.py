"""The protocol of energy backends, and what the three of them have in common."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from llem_core.errors import ConfigError
from llem_core.measurement import EnergyMeasurement


@runtime_checkable
class EnergyBackend(Protocol):
    """A source of joules for a block of code in this process.

    `start_tracking` returns a tracker, and `stop_tracking` takes it and returns the energy in between.
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


@runtime_checkable
class Checked(Protocol):
    """A backend that says why it works here or not."""

    def check(self) -> str:
        """Return what it measures here. Raises ConfigError with the reason if that is nothing."""
        ...


def works(backend: Checked) -> bool:
    """Return whether the backend's check passes."""
    try:
        backend.check()
    except ConfigError:
        return False
    return True


class Tracker:
    """A measurement in progress, in the process that began it.

    `measurement` is its result once it has ended.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.measurement: EnergyMeasurement | None = None
        self._forgotten: weakref.finalize[[], Tracker] | None = None

    def end_when_forgotten(self, end: Callable[[], object]) -> None:
        """Call `end` in a thread when this tracker is garbage collected, so that nothing polls for ever.

        `end` may wait for the driver. It must not refer to the tracker.
        """
        pid = self._pid

        def forgotten() -> None:
            if os.getpid() == pid:
                threading.Thread(target=end, name="forgotten-tracker", daemon=True).start()

        self._forgotten = weakref.finalize(self, forgotten)
        self._forgotten.atexit = False

    def ended(self) -> None:
        """Note that there is nothing left to end."""
        if self._forgotten:
            self._forgotten.detach()

    def refuse_another_process(self) -> None:
        """Raise ConfigError in a forked child: threads and driver handles exist only in the parent."""
        if self._pid != os.getpid():
            raise ConfigError(
                f"this measurement began in process {self._pid} and can be stopped only there; "
                "in a forked child, start a new one with the same backend"
            )
