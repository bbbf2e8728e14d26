"""What every energy backend is, and what the three have in common."""

import os
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

    def refuse_another_process(self) -> None:
        """Raises ConfigError in a forked child: threads and driver handles stay behind in the parent."""
        if self._pid != os.getpid():
            raise ConfigError(
                f"this measurement began in process {self._pid} and can end only there; "
                "in a forked child begin one of its own, the same backend does"
            )
