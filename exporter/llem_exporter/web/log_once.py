"""Log a repeated problem once when it begins and once when it ends."""

import logging
from collections.abc import Callable
from typing import Final

QUIET_SECONDS: Final = 60.0
"""A problem has ended when it has not occurred for this long."""


class LogOnce:
    """Problems by their message."""

    def __init__(self, log: logging.Logger, now_s: Callable[[], float]) -> None:
        self._log, self._now_s = log, now_s
        self._last_s: dict[str, float] = {}

    def warn(self, message: str) -> None:
        """Log a problem that occurs now, unless it has been logged."""
        if message not in self._last_s:
            self._log.warning("%s", message)
        self._last_s[message] = self._now_s()

    def check(self) -> None:
        """Log the problems that have ended. Call it now and then."""
        for message, last_s in list(self._last_s.items()):
            if self._now_s() - last_s > QUIET_SECONDS:
                del self._last_s[message]
                self._log.info("no longer: %s", message)
