"""What goes wrong again and again, logged once when it begins and once when it is over."""

import logging
from collections.abc import Callable
from typing import Final

QUIET_SECONDS: Final = 60.0


class Troubles:
    """Each is over when it has not been noted for a minute."""

    def __init__(self, log: logging.Logger, now_s: Callable[[], float]) -> None:
        self._log, self._now_s = log, now_s
        self._noted: dict[str, tuple[str, float]] = {}

    def note(self, name: str, message: str) -> None:
        """It happens now; the first time it is logged."""
        if name not in self._noted:
            self._log.warning("%s", message)
        self._noted[name] = message, self._now_s()

    def sweep(self) -> None:
        """Log what is over."""
        for name, (message, last_s) in list(self._noted.items()):
            if self._now_s() - last_s > QUIET_SECONDS:
                del self._noted[name]
                self._log.info("no longer: %s", message)
