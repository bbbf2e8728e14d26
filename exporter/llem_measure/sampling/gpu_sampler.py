"""Read one GPU: power and energy counter at every tick, slow readings once a second."""

import logging
import threading
from collections.abc import Callable
from statistics import median
from typing import Final

from llem_core.backend import Backend
from llem_core.energy import GAP_INTERVALS, STEPS_PER_JOULE, STEPS_PER_WATT
from llem_measure.sampling.counter_filter import CounterFilter
from llem_measure.sampling.devices import Device, EnergyCounter, Status
from llem_measure.sampling.energy_scope import GPU, MODULE, EnergyScope
from llem_measure.sampling.ledger import GpuLedger, Reading
from llem_measure.sampling.retrying_reader import RetryingReader
from llem_measure.sampling.ticks import Tick, WallClock
from llem_measure.sampling.update_period import UpdatePeriod

ON_TICK_SECONDS: Final = 0.002
"""A reading this close to its tick has the time of the tick."""

STATUS_SECONDS: Final = 1.0
STATUS_ALONE_SECONDS: Final = 0.5
"""The period of slow readings if nothing else can be read: then they are published for only a second."""

SPREAD: Final = 8
"""What is read once a second comes at a different time of the second for each of this many GPUs."""

HANG_SECONDS: Final = 1.0
"""A call that takes longer is an error while it lasts: it may never return."""

SLOW_ENERGY_SHARE: Final = 0.02
SLOW_ENERGY_SECONDS: Final = 1.0
"""If the median energy call takes over 2 % of the sample interval, the counter is read once a second."""

ENERGY_CALLS: Final = 9
"""Energy calls of which the median is taken."""

READ_TOO_SLOW: Final = "READ_TOO_SLOW"

_log = logging.getLogger(__name__)


def on_grid(unix_s: float, tick: Tick) -> float:
    """Return the time to publish in whole unix ms: the tick's, if the reading was within 2 ms of it."""
    near = abs(unix_s - tick.unix_ms / 1000) <= ON_TICK_SECONDS
    return round(tick.unix_ms) if near else round(unix_s * 1000)


def exact(unix_s: float, tick: Tick) -> float:  # noqa: ARG001 - see on_grid()
    """Return the time to publish in unix ms, not rounded."""
    return unix_s * 1000


class Observers:
    """Functions that are called with what the sampler measures of itself; by default nothing is done."""

    def lateness(self, seconds: float) -> None:
        """Take in a reading's time minus its tick."""

    def call(self, kind: str, seconds: float) -> None:
        """Take in the time of a call: "power", "energy" or "status"."""


class GpuSampler:
    """Reads one GPU into its ledger, by one thread at a time.

    The GPU and its counter are opened by their first reading. `publish_ms` maps a reading's unix seconds and
    its tick to the time to publish in unix ms. `on_reading` is called with each reading, the newest slow
    readings, and whether the GPU could be reached.
    """

    def __init__(
        self,
        device: Device,
        counter: EnergyCounter | None,
        ledger: GpuLedger,
        clock: WallClock,
        interval_ms: int,
        *,
        observers: Observers | None = None,
        on_reading: Callable[[Reading, Status, bool], None] | None = None,
        publish_ms: Callable[[float, Tick], float] = on_grid,
    ) -> None:
        self.device, self.ledger = device, ledger
        self.first_read, self.last_read = threading.Event(), threading.Event()
        self.power_period, self.energy_period = UpdatePeriod(), UpdatePeriod()
        self.energy_source: Backend | None = None if counter else Backend.NVML
        self.busy_since_s: float | None = None
        self.fast_reads = self.slow_reads = 0
        self.has_slow_counter = False
        self.hangs = False
        self._clock, self._publish_ms, self._observers = clock, publish_ms, observers or Observers()
        self._on_reading, self._interval_s = on_reading, interval_ms / 1000
        self._slow_s = GAP_INTERVALS * self._interval_s
        self._limit_watts: float | None = None
        self._reading: Reading | None = None
        self._status = Status()
        self._status_errors: tuple[str, ...] = ()
        spread_s = device.info.index % SPREAD / SPREAD
        self._status_s = clock.monotonic_s() + spread_s
        self._power = RetryingReader(
            lambda: self._label("power"), device.open, device.read_watts, STEPS_PER_WATT
        )
        self._counter: CounterFilter | None = None
        self._energy: RetryingReader | None = None
        self._energy_due_s, self._energy_calls_s = 0.0, list[float]()
        self._scope = EnergyScope(self._interval_s)
        if counter:
            self._read_counter(counter)

    @property
    def index(self) -> int:
        """NVML's index."""
        return self.device.info.index

    @property
    def is_open(self) -> bool:
        """Whether the GPU has been opened once."""
        return bool(self.device.info.uuid)

    @property
    def is_lost(self) -> bool:
        """Whether the GPU has been opened once, and cannot be reached now."""
        return self.is_open and not self._power.found

    @property
    def has_counter(self) -> bool:
        """Whether the GPU has an energy counter, or may have one."""
        return self._energy is not None and not self._energy.absent

    @property
    def energy_scope(self) -> str:
        """What the energy counter counts: "gpu" or "module"; "" if there is none, or it is not known yet."""
        if self._counter is None or not self.has_counter:
            return ""
        return self._scope.scope or ("" if self.device.info.module else GPU)

    def read(self, tick: Tick) -> None:
        """Read power and the counter, if each is due. Then call finish()."""
        self._report()  # the last reading, if the GPU changed threads before finish()
        self.busy_since_s = start_s = self._clock.monotonic_s()
        self._reading = self._read_values(tick, start_s)
        if self._reading is not None:
            self.ledger.add(self._reading)
            self._decide_source()
        self.busy_since_s = None

    @property
    def is_unfinished(self) -> bool:
        """Whether finish() has something to do after read()."""
        is_new = self._on_reading is not None or not self.first_read.is_set()
        return is_new or self._clock.monotonic_s() >= self._status_s

    def finish(self, *, last: bool = False) -> None:
        """Read the slow readings, if they are due, and report the reading.

        `last` is before the sampler ends.
        """
        reading = self._reading
        self.busy_since_s = self._clock.monotonic_s()
        answered = reading is not None and (reading.watts, reading.joules) != (None, None)
        first = self._on_reading is not None and not self.first_read.is_set()
        if first or last:  # a measurement needs the slow readings at both ends
            self._status_s = float("-inf")
        if answered or self._power.found:
            self._read_status(alone=not answered)
        self._report()
        self.busy_since_s = None
        if not self.first_read.is_set():
            self.first_read.set()
        if last:
            self.last_read.set()

    def is_slow_now(self) -> bool:
        """Return whether the next reading includes a slow call of the energy counter."""
        return self.has_slow_counter and self._is_energy_time(self._clock.monotonic_s())

    def check_hang(self) -> None:
        """Count and log a call that hangs. Another thread calls this regularly."""
        since_s = self.busy_since_s
        hangs = since_s is not None and self._clock.monotonic_s() - since_s > max(HANG_SECONDS, self._slow_s)
        if hangs and not self.hangs:
            self.ledger.add_error(READ_TOO_SLOW)
            _log.warning(
                "%s", self._label("a driver call does not return; the GPU is read again when it does")
            )
        elif self.hangs and not hangs:
            _log.info("%s", self._label("the driver call has returned"))
        self.hangs = hangs

    def _report(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and self._on_reading is not None:
            self._on_reading(reading, self._status, self._power.found)

    def _read_counter(self, counter: EnergyCounter) -> None:
        self._counter = CounterFilter(
            counter,
            lambda: self._limit_watts,
            lambda: self.ledger.power_joules,
            lambda: self.energy_period.seconds,
            self._clock.monotonic_s,
        )
        self._energy = RetryingReader(
            lambda: self._label("energy counter"),
            self._counter.open,
            self._counter.read_joules,
            STEPS_PER_JOULE,
        )

    def _read_values(self, tick: Tick, start_s: float) -> Reading | None:
        """Return the reading, or None if nothing was due."""
        now_s, errors = self._clock.monotonic_s, list[str]()
        power = self._power if self._power.is_due(start_s) else None
        energy = self._energy if self._energy and self.is_open and self._energy.is_due(start_s) else None
        left_out = energy is not None and not self._is_energy_time(start_s)
        if left_out:
            energy = None
        if power is None and energy is None:
            return None
        at_ms = int(self._at_unix_s(start_s) * 1000)
        watts = power.read(at_ms, start_s, errors) if power else None
        power_end_s = now_s()
        joules = energy.read(at_ms, power_end_s, errors) if energy else None
        end_s = now_s()
        if end_s - start_s > self._slow_s:
            if not self.hangs:  # else it has been counted
                errors.append(READ_TOO_SLOW)
            watts = joules = None
            self._status_s = end_s + STATUS_SECONDS  # the slow readings would be as slow
        self._note_times(tick, (start_s, power_end_s, end_s), power is not None, energy is not None)
        middle_s = (start_s + end_s) / 2
        offset_s, clock_steps = self._clock.mapping
        return Reading(
            tick.unix_ms,
            self._publish_ms(middle_s + offset_s, tick),
            clock_steps,
            middle_s,
            self._note_power(middle_s, watts),
            self._note_energy(middle_s, watts, joules),
            power_end_s - start_s,
            end_s - power_end_s,
            tuple(errors),
            complete=not left_out,
        )

    def _at_unix_s(self, monotonic_s: float) -> float:
        return monotonic_s + self._clock.mapping.offset_s

    def _note_times(self, tick: Tick, times_s: tuple[float, float, float], power: bool, energy: bool) -> None:
        start_s, power_end_s, end_s = times_s
        self._observers.lateness((start_s + end_s) / 2 - tick.deadline_s)
        if power:
            self._observers.call("power", power_end_s - start_s)
        if energy:
            self._observers.call("energy", end_s - power_end_s)
            self._note_energy_call(start_s, end_s - power_end_s)
        slow = power_end_s - start_s > ON_TICK_SECONDS
        self.slow_reads, self.fast_reads = (self.slow_reads + 1, 0) if slow else (0, self.fast_reads + 1)

    def _is_energy_time(self, now_s: float) -> bool:
        """Return whether to read the counter now. One whose calls are slow is read once a second."""
        return now_s >= self._energy_due_s - self._interval_s / 2

    def _note_energy_call(self, now_s: float, call_s: float) -> None:
        """Set when a slow counter is read again. The slow calls of several GPUs come at different times."""
        self._energy_calls_s.append(call_s)
        if len(self._energy_calls_s) == ENERGY_CALLS:
            was_slow = self.has_slow_counter
            self.has_slow_counter = median(self._energy_calls_s) > SLOW_ENERGY_SHARE * self._interval_s
            self._energy_calls_s.clear()
            if self.has_slow_counter and not was_slow:
                self._energy_due_s = now_s - SLOW_ENERGY_SECONDS * self.index % SPREAD / SPREAD
        if self.has_slow_counter:
            self._energy_due_s = max(self._energy_due_s, now_s - self._interval_s) + SLOW_ENERGY_SECONDS

    def _note_power(self, monotonic_s: float, watts: float | None) -> float | None:
        if watts is not None:
            self.power_period.add(monotonic_s, watts)
        return watts

    def _note_energy(self, monotonic_s: float, watts: float | None, joules: float | None) -> float | None:
        """Return the counter's value, or None as long as it is not known to count this GPU alone."""
        if joules is None:
            return None
        self.energy_period.add(monotonic_s, joules)
        module_watts = self._status.module_watts
        if self.device.info.module and watts is not None and module_watts is not None:
            self._scope.add(monotonic_s, joules, watts, module_watts)
        return joules if self.energy_scope == GPU else None

    def _decide_source(self) -> None:
        """Choose the source of llem_gpu_energy_joules_total, once for the life of the process."""
        counter = self._counter
        if self.energy_source is not None or counter is None:
            return
        stuck_from_the_start = counter.stuck and not counter.has_risen
        if not self.has_counter or stuck_from_the_start or self.energy_scope == MODULE:
            self.energy_source = Backend.NVML
        elif counter.has_risen and self.energy_scope == GPU:
            self.energy_source = Backend.ZEUS

    def _read_status(self, *, alone: bool) -> None:
        """Read the slow readings if they are due: each second, or more often if nothing else is read."""
        start_s = self._clock.monotonic_s()
        if start_s < self._status_s:
            return
        period_s = STATUS_ALONE_SECONDS if alone else STATUS_SECONDS
        # Slightly early, so that an early tick does not postpone it to the next.
        self._status_s = max(self._status_s + period_s, start_s + period_s - self._interval_s / 2)
        message = ""
        try:
            status = self.device.read_status()
        except Exception as exc:  # noqa: BLE001 - an unexpected library error must not end the reading thread
            status, message = Status(errors=(type(exc).__name__,)), f" ({exc})"
        end_s = self._clock.monotonic_s()
        self._observers.call("status", end_s - start_s)
        if status.errors != self._status_errors:
            self._status_errors = status.errors
            if status.errors:
                _log.warning(
                    "%s cannot be read: %s%s", self._label("status"), ", ".join(status.errors), message
                )
            else:
                _log.info("%s is read again", self._label("status"))
        self._limit_watts = status.limit_watts or self._limit_watts
        self._status = status
        self.ledger.set_status(status, end_s)

    def _label(self, what: str) -> str:
        info = self.device.info
        return f"GPU {info.index}{f' ({info.uuid})' if info.uuid else ''}: {what}"
