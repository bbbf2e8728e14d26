"""One quantity that is read of a GPU, and what is done when it fails."""

import logging
from collections.abc import Callable
from typing import Final

from llem_core.errors import DeviceError, DeviceLostError
from llem_measure.sampling.ledger import rounded

REOPEN_FAILURES: Final = 10
"""After so many failures in a row, whatever their names, the GPU is found anew."""

RETRY_SECONDS: Final = 1.0

NOT_A_SAMPLE: Final = "NOT_A_SAMPLE"

_log = logging.getLogger(__name__)


class Source:
    """One quantity of one GPU: due at every tick, but only once a second while it is lost.

    `found` is whether the GPU is there, even if this cannot be read of it.
    """

    def __init__(
        self, what: str, read: Callable[[int], float], reopen: Callable[[], None], steps_per_unit: int
    ) -> None:
        self._what, self._read, self._reopen, self._steps_per_unit = what, read, reopen, steps_per_unit
        self._error = ""
        self._failures = 0
        self.found = True
        self._lost = False
        self._retry_s = 0.0

    def due(self, monotonic_s: float) -> bool:
        return not self._lost or monotonic_s >= self._retry_s

    def read(self, unix_ms: int, monotonic_s: float, failures: list[str]) -> float | None:
        """The value now, in whole steps; where it fails, None and the error's name added to `failures`."""
        reopened = False
        try:
            if self._lost:
                self._reopen()
                reopened = True
            raw = self._read(unix_ms)
        except Exception as exc:  # noqa: BLE001 - a library's own fault must not end this GPU's thread
            self.found = reopened or not (self._lost or isinstance(exc, DeviceLostError))
            name = exc.name if isinstance(exc, DeviceError) else type(exc).__name__
            self._failures += 1
            self._lost = isinstance(exc, DeviceLostError) or self._failures >= REOPEN_FAILURES
            self._retry_s = monotonic_s + RETRY_SECONDS
            failures.append(name)
            self._note(name, str(exc))
            return None
        self._lost, self._failures, self.found = False, 0, True
        value = rounded(raw, self._steps_per_unit)
        if value is None:
            failures.append(NOT_A_SAMPLE)
            self._note(NOT_A_SAMPLE, f"it reads {raw}")
        else:
            self._note("", "")
        return value

    def _note(self, error: str, message: str) -> None:
        """Log a change of state, and nothing else."""
        if error == self._error:
            return
        self._error = error
        if error:
            _log.warning("%s cannot be read: %s", self._what, message)
        else:
            _log.info("%s is read again", self._what)
