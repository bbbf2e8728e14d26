"""Read one value of a GPU repeatedly, and retry after errors."""

import logging
from collections.abc import Callable
from typing import Final

from llem_core.errors import DeviceError, DeviceLostError
from llem_measure.sampling.devices import Device
from llem_measure.sampling.validation import NOT_A_SAMPLE, rounded

REOPEN_FAILURES: Final = 10
"""After this many failures in a row, whatever their names, the GPU is opened again."""

RETRY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class RetryingReader:
    """Reads one value of a GPU at every tick: `what` is "power" or "energy counter".

    The value is opened before the first reading. After it is lost, opening is retried once a second. `open_`
    returns False if the GPU does not have this value; then `absent` is True and nothing is read.
    `found` is False while the GPU itself cannot be reached.
    """

    def __init__(
        self,
        device: Device,
        what: str,
        open_: Callable[[], object],
        read: Callable[[int], float],
        steps_per_unit: int,
    ) -> None:
        self._device, self._what, self._open, self._read = device, what, open_, read
        self._steps_per_unit = steps_per_unit
        self.absent = self.found = self._is_open = False
        self._retry_s = float("-inf")
        self._failures, self._error = 0, ""

    def is_due(self, monotonic_s: float) -> bool:
        """Return whether to read now."""
        return not self.absent and (self._is_open or monotonic_s >= self._retry_s)

    def read(self, unix_ms: int, monotonic_s: float, errors: list[str]) -> float | None:
        """Return the rounded value. If the reading fails, return None and append the error's name."""
        opened_now = False
        try:
            if not self._is_open:
                self.absent = self._open() is False
                self._is_open = opened_now = True
                if self.absent:
                    _log.info("%s: %s is not supported by this GPU", self._device.info, self._what)
                    return None
            value = self._read(unix_ms)
        except Exception as exc:  # noqa: BLE001 - an unexpected library error must not end the reading thread
            name = exc.name if isinstance(exc, DeviceError) else type(exc).__name__
            lost = isinstance(exc, DeviceLostError)
            self.found = opened_now or (self._is_open and not lost)
            self._failures += 1
            self._is_open = self._is_open and not lost and self._failures < REOPEN_FAILURES
            self._retry_s = monotonic_s + RETRY_SECONDS
            errors.append(name)
            self._log_change(name, str(exc))
            return None
        self.found, self._failures = True, 0
        steps = rounded(value, self._steps_per_unit)
        if steps is None:
            errors.append(NOT_A_SAMPLE)
            self._log_change(NOT_A_SAMPLE, f"{value} is not a valid value")
        else:
            self._log_change("", "")
        return steps

    def _log_change(self, error: str, message: str) -> None:
        if error == self._error:
            return
        self._error = error
        if error:
            _log.warning("%s: %s cannot be read: %s", self._device.info, self._what, message)
        else:
            _log.info("%s: %s works again", self._device.info, self._what)
