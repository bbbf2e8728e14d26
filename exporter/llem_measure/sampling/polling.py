"""One GPU read by one thread: at once, then every interval, and once more when told to stop."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Final

from llem_core.errors import ConfigError, DeviceError, DeviceLostError
from llem_measure.sampling.devices import Device, Status

STATUS_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0

MIN_INTERVAL_MS: Final = 20
"""No sensor updates more often, and each reading costs the GPU and the driver something."""

_log = logging.getLogger(__name__)


def interval_of(sample_interval_ms: float) -> float:
    """The interval in seconds. Raises ConfigError for one that a Poller cannot keep."""
    if not MIN_INTERVAL_MS <= sample_interval_ms < inf:
        raise ConfigError(f"sample_interval_ms {sample_interval_ms!r}: {MIN_INTERVAL_MS} ms is the least")
    return sample_interval_ms / 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """Power read at some instant from `start_s` to `end_s` (monotonic); watts are None where it failed.

    `status` was read at most a second before. `error` is the driver's name of what failed; `lost`
    where it was the GPU.
    """

    start_s: float
    end_s: float
    watts: float | None
    status: Status
    error: str = ""
    lost: bool = False

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2


class Poller:
    """Calls `observe` with each reading of a GPU, from a thread of its own.

    After its first reading it waits to be released, so that several can begin as one. Whatever the
    driver does, no call here takes longer than the caller's patience: a GPU that hangs keeps only its
    own thread.
    """

    def __init__(
        self,
        device: Device,
        interval_s: float,
        observe: Callable[[Reading], None],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._interval_s, self._observe = device, interval_s, observe
        self._monotonic_s = monotonic_s
        self._began, self._released, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gpu-{device.info.index}", daemon=True)
        self._lost = False
        self._logged = set[str]()
        self._retry_s = 0.0
        self._status = Status()
        self._status_due_s = float("-inf")

    def start(self) -> None:
        self._thread.start()

    def began(self, patience_s: float) -> bool:
        """Wait for the first reading; whether it came."""
        return self._began.wait(patience_s)

    def release(self) -> None:
        """Go on reading, every interval."""
        self._released.set()

    def stop(self) -> None:
        """Ask for the last reading."""
        self._stopped.set()
        self._released.set()

    def ended(self, patience_s: float) -> bool:
        """Wait for the last reading; whether it came."""
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._read(last=False)
        self._began.set()
        self._released.wait()
        due_s = self._monotonic_s()
        while True:
            due_s += self._interval_s
            now_s = self._monotonic_s()
            if due_s < now_s:  # late: the missed readings are left out, the others keep their grid
                due_s += (now_s - due_s) // self._interval_s * self._interval_s
            if self._stopped.wait(max(0.0, due_s - now_s)):
                break
            if not self._lost or now_s >= self._retry_s:
                self._read(last=False)
        self._read(last=True)

    def _read(self, *, last: bool) -> None:
        watts, error, lost = None, "", False
        start_s = self._monotonic_s()
        try:
            if self._lost:
                self._device.reopen()
                start_s = self._monotonic_s()
            watts = self._device.read_watts(0)
            self._lost = False
        except DeviceError as exc:
            error, lost = exc.name, isinstance(exc, DeviceLostError)
            if lost and not self._lost:
                _log.warning("GPU %d is lost: %s", self._device.info.index, exc)
            self._lost = lost
            self._retry_s = start_s + RETRY_SECONDS
        except Exception as exc:  # noqa: BLE001 - a library error must not end the thread or the measurement
            error = type(exc).__name__
            self._log_once(f"power cannot be read: {error}: {exc}")
        end_s = self._monotonic_s()
        if watts is not None and not (isfinite(watts) and watts >= 0):
            watts, error = None, "NOT_A_SAMPLE"
        if last or end_s >= self._status_due_s:
            self._status = Status() if lost else self._read_status()
            self._status_due_s = end_s + STATUS_SECONDS
        self._observe(Reading(start_s, end_s, watts, self._status, error, lost))

    def _read_status(self) -> Status:
        try:
            return self._device.read_status()
        except Exception as exc:  # noqa: BLE001 - see _read()
            self._log_once(f"status cannot be read: {type(exc).__name__}: {exc}")
            return Status()

    def _log_once(self, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            _log.warning("GPU %d: %s", self._device.info.index, message)
