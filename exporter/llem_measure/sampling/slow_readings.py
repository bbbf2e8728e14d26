"""Read a GPU's status, for example temperature and memory, about once a second."""

import logging
from math import inf
from typing import Final

from llem_measure.sampling.devices import Device, Status

PERIOD_SECONDS: Final = 1.0
ALONE_SECONDS: Final = 0.5
"""The period if nothing else can be read: then the status is published for only a second."""

_log = logging.getLogger(__name__)


class SlowReadings:
    """The status of one GPU. `newest` is the last one, and `limit_watts` is the last known limit.

    `stagger`, from 0 to 1, makes the readings of several GPUs come at different times.
    """

    def __init__(self, device: Device, interval_s: float, stagger: float) -> None:
        self.newest = Status()
        # A replayed trace may have any power, so its counter may rise by any amount.
        self.limit_watts: float | None = inf if device.info.power_source == "replay" else None
        self._device, self._interval_s, self._stagger = device, interval_s, stagger
        self._due_s = -inf

    def is_due(self, now_s: float) -> bool:
        """Return whether to read now."""
        return now_s >= self._due_s

    def postpone(self, now_s: float) -> None:
        """Read nothing for a period."""
        self._due_s = now_s + PERIOD_SECONDS

    def read(self, now_s: float, *, alone: bool) -> Status:
        """Return the status. Changes of its errors are logged."""
        period_s = ALONE_SECONDS if alone else PERIOD_SECONDS
        if self._due_s == -inf:
            self._due_s = now_s + period_s * self._stagger
        else:
            # Slightly early, so that an early tick does not postpone it to the next.
            self._due_s = max(self._due_s + period_s, now_s + period_s - self._interval_s / 2)
        message = ""
        try:
            status = self._device.read_status()
        except Exception as exc:  # noqa: BLE001 - an unexpected library error must not end the reading thread
            status, message = Status(errors=(type(exc).__name__,)), f" ({exc})"
        if status.errors and status.errors != self.newest.errors:
            names = ", ".join(status.errors)
            _log.warning("%s: status cannot be read: %s%s", self._device.info, names, message)
        elif self.newest.errors and not status.errors:
            _log.info("%s: status works again", self._device.info)
        self.limit_watts = status.limit_watts or self.limit_watts
        self.newest = status
        return status
