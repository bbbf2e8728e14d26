"""What every energy backend is, and what the three have in common."""

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

    `start_tracking` returns a tracker, `stop_tracking` takes it and gives the energy in between. Several
    may run at once, from several threads. Both raise ConfigError where the backend cannot work here.
    """

    @property
    def name(self) -> str: ...

    def is_available(self) -> bool:
        """Whether it really works here, found by trying."""
        ...

    def start_tracking(self) -> Any: ...

    def stop_tracking(self, tracker: Any) -> EnergyMeasurement: ...


@runtime_checkable
class Checked(Protocol):
    """A backend that says why it can be used or not."""

    def check(self) -> str:
        """What it measures here. Raises ConfigError with the reason where that is nothing."""
        ...


def works(backend: Checked) -> bool:
    """Whether the backend's check passes."""
    try:
        backend.check()
    except ConfigError:
        return False
    return True


class Tracker:
    """A measurement under way, for the process that began it; `measurement` once it has ended."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.measurement: EnergyMeasurement | None = None
        self._forgotten: weakref.finalize[[], Tracker] | None = None

    def end_when_forgotten(self, end: Callable[[], object]) -> None:
        """Call `end`, in a thread, when nobody holds this tracker any more: it must not poll on.

        `end` must not hold the tracker. In a thread, since it may wait for the driver.
        """
        pid = self._pid

        def forgotten() -> None:
            if os.getpid() == pid:
                threading.Thread(target=end, name="forgotten-tracker", daemon=True).start()

        self._forgotten = weakref.finalize(self, forgotten)
        self._forgotten.atexit = False

    def ended(self) -> None:
        """There is nothing to end any more."""
        if self._forgotten:
            self._forgotten.detach()

    def refuse_another_process(self) -> None:
        """Raises ConfigError in a forked child: threads and driver handles stay behind in the parent."""
        if self._pid != os.getpid():
            raise ConfigError(
                f"this measurement began in process {self._pid} and can end only there; "
                "in a forked child begin one of its own, the same backend does"
            )
