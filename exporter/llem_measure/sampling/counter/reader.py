"""Decide when to read a GPU's energy counter, what it counts, and whether it is the source of energy."""

from collections.abc import Callable
from statistics import median
from typing import Final

from llem_core.backend import Backend
from llem_core.energy import STEPS_PER_JOULE
from llem_measure.sampling.counter.filter import CounterFilter
from llem_measure.sampling.counter.scope import GPU_SCOPE, MODULE_SCOPE, EnergyScope
from llem_measure.sampling.devices import Device, EnergyCounter
from llem_measure.sampling.retrying_reader import RetryingReader
from llem_measure.sampling.update_period import UpdatePeriod

SLOW_SHARE: Final = 0.02
SLOW_SECONDS: Final = 1.0
"""If the median call takes over 2 % of the sample interval, the counter is read once a second."""

CALLS: Final = 9
"""Calls of which the median is taken."""

UNREADABLE_SECONDS: Final = 60.0
"""A counter that could not be read for so long from the start is not the source of energy."""


class _NoCounter:
    """The counter of a GPU whose counter is not wanted."""

    def open(self) -> bool:
        return False

    def read_joules(self, unix_ms: int) -> float:
        raise AssertionError(unix_ms)


class CounterReader:
    """The energy counter of one GPU; `counter` is None if it is not wanted.

    `source` is the source of llem_gpu_energy_joules_total, decided once for the life of the process. It is
    zeus if the counter has increased and counts this GPU alone, and nvml if there is no such counter or if it
    was stuck from the start. `stagger`, from 0 to 1, spreads the slow calls of several GPUs over time.
    """

    def __init__(
        self,
        counter: EnergyCounter | None,
        device: Device,
        limit_watts: Callable[[], float | None],
        power_joules: Callable[[], float],
        monotonic_s: Callable[[], float],
        interval_s: float,
        stagger: float,
    ) -> None:
        self.source: Backend | None = None if counter else Backend.NVML
        self.period = UpdatePeriod()
        self.is_slow = False
        self._device, self._interval_s, self._stagger = device, interval_s, stagger
        self._filter = CounterFilter(
            counter or _NoCounter(), limit_watts, power_joules, lambda: self.period.seconds, monotonic_s
        )
        self._reader = RetryingReader(
            device, "energy counter", self._filter.open, self._filter.read_joules, STEPS_PER_JOULE
        )
        self._reader.absent = counter is None
        self._scope = EnergyScope(interval_s)
        self._due_s, self._calls_s = 0.0, list[float]()
        self._first_s: float | None = None

    @property
    def exists(self) -> bool:
        """Whether the GPU has the counter, or may have it."""
        return not self._reader.absent

    @property
    def scope(self) -> str:
        """What the counter counts: "gpu" or "module"; "" if there is none, or it is not known yet."""
        if not self.exists:
            return ""
        return self._scope.scope or ("" if self._device.info.module else GPU_SCOPE)

    def is_readable(self, now_s: float) -> bool:
        """Return whether there is a counter that may answer now."""
        return bool(self._device.info.uuid) and self._reader.is_due(now_s)

    def is_time(self, now_s: float) -> bool:
        """Return whether to read the counter at this tick. A slow one is read once a second."""
        return now_s >= self._due_s - self._interval_s / 2

    def read(self, unix_ms: int, now_s: float, errors: list[str]) -> float | None:
        """Return the counter as a whole number of 1/8 J units, or None. Failures are appended to `errors`."""
        return self._reader.read(unix_ms, now_s, errors)

    def note_call(self, now_s: float, call_s: float) -> None:
        """Record the duration of a call, and set when a slow counter is read again."""
        self._calls_s.append(call_s)
        if len(self._calls_s) == CALLS:
            was_slow = self.is_slow
            self.is_slow = median(self._calls_s) > SLOW_SHARE * self._interval_s
            self._calls_s.clear()
            if self.is_slow and not was_slow:
                self._due_s = now_s + SLOW_SECONDS * self._stagger
                return
        if self.is_slow:
            self._due_s = max(self._due_s, now_s - self._interval_s) + SLOW_SECONDS

    def published(
        self, monotonic_s: float, joules: float | None, watts: float | None, module_watts: float | None
    ) -> float | None:
        """Return the counter's value, or None unless it is known to count this GPU alone."""
        if joules is not None:
            self.period.add(monotonic_s, joules)
            if self._device.info.module and watts is not None and module_watts is not None:
                self._scope.add(monotonic_s, joules, watts, module_watts)
        if self.source is None:
            self._decide_source(monotonic_s)
        return joules if self.scope == GPU_SCOPE else None

    def _decide_source(self, now_s: float) -> None:
        counter = self._filter
        self._first_s = self._first_s or now_s
        unreadable = not counter.was_read and now_s - self._first_s > UNREADABLE_SECONDS
        stuck_from_the_start = counter.stuck and not counter.has_risen
        if not self.exists or unreadable or stuck_from_the_start or self.scope == MODULE_SCOPE:
            self.source = Backend.NVML
        elif counter.has_risen and self.scope == GPU_SCOPE:
            self.source = Backend.ZEUS
