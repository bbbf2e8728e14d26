"""Read one GPU: power and energy counter at every tick, and the status once a second."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from llem_core.energy import GAP_INTERVALS, STEPS_PER_WATT
from llem_measure.sampling.counter.reader import CounterReader
from llem_measure.sampling.devices import Device, EnergyCounter, Status
from llem_measure.sampling.ledger import GpuLedger, Reading
from llem_measure.sampling.retrying_reader import RetryingReader
from llem_measure.sampling.slow_readings import SlowReadings
from llem_measure.sampling.ticks import Tick, WallClock
from llem_measure.sampling.update_period import UpdatePeriod

ON_TICK_SECONDS: Final = 0.002
"""A reading this close to its tick has the time of the tick. A power call that takes longer is slow."""

SPREAD: Final = 8
"""Readings that are made once a second come at a different time for each of this many GPUs."""

HANG_SECONDS: Final = 1.0
"""A call that takes longer counts as an error, because it may never return."""

READ_TOO_SLOW: Final = "READ_TOO_SLOW"

_log = logging.getLogger(__name__)


OnReading = Callable[[Reading, Status, bool], None]
"""Called with a reading, the newest status, and whether the GPU could be reached."""

Observe = Callable[[str, float], None]
"""Called with what the sampler measures of itself: "lateness", the seconds of a reading after its tick, or
"power", "energy" or "status", the seconds of a call."""


class GpuSampler:
    """Reads one GPU into its ledger, by one thread at a time.

    The GPU and its counter are opened by their first reading. The times of readings are on the grid of the
    ticks, unless the ledger's ring has exact times.
    """

    def __init__(
        self,
        device: Device,
        counter: EnergyCounter | None,
        ledger: GpuLedger,
        clock: WallClock,
        interval_ms: int,
        *,
        observe: Observe = lambda _what, _seconds: None,
        on_reading: OnReading | None = None,
    ) -> None:
        self.device, self.ledger = device, ledger
        self.first_read, self.last_read = threading.Event(), threading.Event()
        self.power_period = UpdatePeriod()
        self.busy_since_s: float | None = None
        self.fast_reads = self.slow_reads = 0
        self.hangs = False
        self._clock, self._observe = clock, observe
        self._on_reading = on_reading
        interval_s, stagger = interval_ms / 1000, 1 - device.info.index % SPREAD / SPREAD
        self._slow_s = GAP_INTERVALS * interval_s
        self._reading: Reading | None = None
        self._power = RetryingReader(device, "power", device.open, device.read_watts, STEPS_PER_WATT)
        self._slow = SlowReadings(device, interval_s, stagger)
        self.counter = CounterReader(
            counter,
            device,
            lambda: self._slow.limit_watts,
            lambda: ledger.power_joules,
            clock.monotonic_s,
            interval_s,
            stagger,
        )

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

    def read(self, tick: Tick) -> None:
        """Read power and the counter, if each is due. Then call finish()."""
        self._report()  # of a GPU that was moved to another thread before finish()
        self.busy_since_s = start_s = self._clock.monotonic_s()
        self._reading = self._read_values(tick, start_s)
        if self._reading is not None:
            self.ledger.add(self._reading)
        self.busy_since_s = None

    @property
    def is_unfinished(self) -> bool:
        """Whether finish() has something to do after read()."""
        is_new = self._on_reading is not None or not self.first_read.is_set()
        return is_new or self._slow.is_due(self._clock.monotonic_s())

    def finish(self, *, last: bool = False) -> None:
        """Read the status, if it is due or this is the last reading, and report the reading."""
        reading = self._reading
        self.busy_since_s = now_s = self._clock.monotonic_s()
        answered = reading is not None and (reading.watts, reading.joules) != (None, None)
        if (answered or self._power.found) and (last or self._slow.is_due(now_s)):
            status = self._slow.read(now_s, alone=not answered)
            end_s = self._clock.monotonic_s()
            self._observe("status", end_s - now_s)
            self.ledger.set_status(status, end_s)
        self._report()
        self.busy_since_s = None
        if not self.first_read.is_set():
            self.first_read.set()
        if last:
            self.last_read.set()

    def is_slow_now(self) -> bool:
        """Return whether the next reading includes a slow call of the energy counter."""
        return self.counter.is_slow and self.counter.is_time(self._clock.monotonic_s())

    def check_hang(self) -> None:
        """Count and log a call that hangs. Another thread calls this regularly."""
        since_s = self.busy_since_s
        hangs = since_s is not None and self._clock.monotonic_s() - since_s > max(HANG_SECONDS, self._slow_s)
        if hangs and not self.hangs:
            self.ledger.add_error(READ_TOO_SLOW)
            _log.warning(
                "%s: a driver call has not returned. The GPU is read again when it returns. "
                "Check dmesg for Xid errors.",
                self.device.info,
            )
        elif self.hangs and not hangs:
            _log.info("%s: the driver call has returned", self.device.info)
        self.hangs = hangs

    def _read_values(self, tick: Tick, start_s: float) -> Reading | None:
        """Return the reading, or None if nothing was due."""
        now_s, errors = self._clock.monotonic_s, list[str]()
        power = self._power if self._power.is_due(start_s) else None
        is_readable = self.counter.is_readable(start_s)
        left_out = is_readable and not self.counter.is_time(start_s)
        counter = self.counter if is_readable and not left_out else None
        if power is None and counter is None:
            return None
        at_ms = int((start_s + self._clock.mapping.offset_s) * 1000)
        watts = power.read(at_ms, start_s, errors) if power else None
        power_end_s = now_s()
        joules = counter.read(at_ms, power_end_s, errors) if counter else None
        end_s = now_s()
        if end_s - start_s > self._slow_s:
            if not self.hangs:  # else it has been counted
                errors.append(READ_TOO_SLOW)
            watts = joules = None
            self._slow.postpone(end_s)  # reading the status would be as slow
        middle_s = (start_s + end_s) / 2
        self._observe("lateness", middle_s - tick.deadline_s)
        if power:
            self._note_power(middle_s, watts, power_end_s - start_s)
        if counter:
            self._observe("energy", end_s - power_end_s)
            counter.note_call(start_s, end_s - power_end_s)
            joules = counter.published(middle_s, joules, watts, self._slow.newest.module_watts)
        offset_s, clock_steps = self._clock.mapping
        return Reading(
            tick.unix_ms,
            self._published_ms(middle_s + offset_s, tick),
            clock_steps,
            middle_s,
            watts,
            joules,
            power_end_s - start_s,
            end_s - power_end_s,
            tuple(errors),
            complete=not left_out,
        )

    def _published_ms(self, unix_s: float, tick: Tick) -> float:
        """Return unix ms: exact, or the tick's if the reading was within 2 ms of it, or rounded."""
        if self.ledger.ring.exact_times:
            return unix_s * 1000
        near = abs(unix_s - tick.unix_ms / 1000) <= ON_TICK_SECONDS
        return round(tick.unix_ms) if near else round(unix_s * 1000)

    def _report(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and self._on_reading is not None:
            self._on_reading(reading, self._slow.newest, self._power.found)

    def _note_power(self, monotonic_s: float, watts: float | None, call_s: float) -> None:
        self._observe("power", call_s)
        slow = call_s > ON_TICK_SECONDS
        self.slow_reads, self.fast_reads = (self.slow_reads + 1, 0) if slow else (0, self.fast_reads + 1)
        if watts is not None:
            self.power_period.add(monotonic_s, watts)
