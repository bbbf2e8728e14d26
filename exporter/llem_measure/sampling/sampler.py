"""One thread per GPU: at every tick a read into its ledger, so that a GPU that hangs stops no other."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from time import sleep
from typing import Final

from llem_core.energy import GAP_INTERVALS, STEPS_PER_JOULE, STEPS_PER_WATT
from llem_measure.sampling.counter_filter import RisingCounter
from llem_measure.sampling.devices import Device, EnergyCounter, Status
from llem_measure.sampling.ledger import GpuLedger, Read
from llem_measure.sampling.realtime import go_first
from llem_measure.sampling.retrying_reader import Source
from llem_measure.sampling.ring import Ring
from llem_measure.sampling.ticks import Tick, Ticker, WallClock

ON_TICK_SECONDS: Final = 0.002
"""A read this close to its tick counts as on it."""

BEFORE_TICK_SECONDS: Final = 0.001
AFTER_TICK_SECONDS: Final = 0.003
"""Nothing long runs in this process from so long before a tick until so long after it."""

STATUS_SECONDS: Final = 1.0
STATUS_ALONE_SECONDS: Final = 0.5
"""Between slow readings where nothing else is read: they are published for a second then."""

STATUS_SPREAD: Final = 8
"""The slow readings of so many GPUs in a row come at different times of the second."""

HANG_SECONDS: Final = 1.0
"""A call that takes longer hangs: an error then and not only when it returns, which it may never do."""

READ_TOO_SLOW: Final = "READ_TOO_SLOW"

Observe = Callable[[float], None]

_log = logging.getLogger(__name__)


class GpuSampler:
    """Reads one GPU at every tick, in its own thread."""

    def __init__(
        self,
        device: Device,
        ledger: GpuLedger,
        clock: WallClock,
        interval_ms: int,
        *,
        observe_lateness: Observe,
        observe_call: Observe,
        sleep: Callable[[float], object] = sleep,
    ) -> None:
        self.device, self.ledger = device, ledger
        self.ticker = Ticker(clock, interval_ms, sleep)
        self.done_ticks = 0
        self._clock, self._interval_ms = clock, interval_ms
        self._status_errors: tuple[str, ...] = ()
        self._limit_watts: float | None = None
        self._status_s = clock.monotonic_s() + device.info.index % STATUS_SPREAD / STATUS_SPREAD
        self._slow_s = GAP_INTERVALS * interval_ms / 1000
        self._busy_since_s: float | None = None
        self._hangs = False
        self._observe_lateness, self._observe_call = observe_lateness, observe_call
        self._power = Source(self._called("power"), device.read_watts, device.reopen, STEPS_PER_WATT)
        self._energy: Source | None = None

    def attach(self, counter: EnergyCounter) -> None:
        """Read this counter, too, from the next tick on."""
        rising = RisingCounter(counter, lambda: self._limit_watts, self._clock.monotonic_s)
        self._energy = Source(
            self._called("energy counter"), rising.read_joules, rising.reopen, STEPS_PER_JOULE
        )

    @property
    def reads_energy(self) -> bool:
        return self._energy is not None

    def run(self, stopped: threading.Event) -> None:
        """Read at every tick until `stopped`."""
        go_first()
        for tick in self.ticker:
            if stopped.is_set():
                return
            self._busy_since_s = self._clock.monotonic_s()
            answered = self.read(tick)
            if answered or self._power.found:
                self.read_status(alone=not answered)
            self._busy_since_s = None
            self.done_ticks += 1

    def look(self) -> None:
        """Note whether a call hangs now; from another thread, once a second."""
        since_s = self._busy_since_s
        hangs = since_s is not None and self._clock.monotonic_s() - since_s > max(HANG_SECONDS, self._slow_s)
        if hangs and not self._hangs:
            self.ledger.add_errors([READ_TOO_SLOW])
            _log.warning(
                "%s", self._called("a call of the driver's does not return; it is read on when it does")
            )
        elif self._hangs and not hangs:
            _log.info("%s", self._called("the driver's call has returned"))
        self._hangs = hangs

    def read_status(self, *, alone: bool = False) -> None:
        """The slow readings, where it is time for them: each second, or oftener where they come alone."""
        now_s = self._clock.monotonic_s()
        if now_s < self._status_s:
            return
        period_s = STATUS_ALONE_SECONDS if alone else STATUS_SECONDS
        # A little early, so that a tick that is early does not put it off to the next.
        self._status_s = max(self._status_s + period_s, now_s + period_s - self._interval_ms / 2000)
        try:
            status = self.device.read_status()
            errors, message = status.errors, ", ".join(status.errors)
        except Exception as exc:  # noqa: BLE001 - a library's own fault must not end this GPU's thread
            status, errors, message = Status(), (type(exc).__name__,), str(exc)
        if errors:
            self.ledger.add_errors(errors)
        if errors != self._status_errors:
            self._status_errors = errors
            if errors:
                _log.warning("%s cannot be read: %s", self._called("status"), message)
            else:
                _log.info("%s is read again", self._called("status"))
        self._limit_watts = status.limit_watts or self._limit_watts
        self.ledger.set_status(status, self._clock.monotonic_s())

    def read(self, tick: Tick) -> bool:
        """Read into the ledger; whether there was anything."""
        monotonic_s, failures = self._clock.monotonic_s, list[str]()
        start_s = monotonic_s()
        power = self._power if self._power.due(start_s) else None
        energy = self._energy if self._energy and self._energy.due(start_s) else None
        if power is None and energy is None:
            return False
        at_ms, _ = self._time_of(start_s, tick)
        watts = power.read(at_ms, start_s, failures) if power else None
        power_s = monotonic_s()
        joules = energy.read(at_ms, power_s, failures) if energy else None
        end_s = monotonic_s()
        if end_s - start_s > self._slow_s:
            if not self._hangs:  # else it is counted
                failures.append(READ_TOO_SLOW)
            watts = joules = None
            self._status_s = end_s + STATUS_SECONDS  # they would be as slow
        middle_s = (start_s + end_s) / 2
        self._observe_lateness(middle_s - tick.deadline_s)
        if power:
            self._observe_call(power_s - start_s)
        if failures:
            self.ledger.add_errors(failures)
        if watts is None and joules is None:
            return False
        unix_ms, steps = self._time_of(middle_s, tick)
        call_s = (power_s - start_s, end_s - power_s)
        self.ledger.add(Read(tick.unix_ms, unix_ms, steps, middle_s, watts, joules, *call_s))
        return True

    def _time_of(self, monotonic_s: float, tick: Tick) -> tuple[int, int]:
        """Unix milliseconds of an instant, those of the tick where it is near, and the steps up to then."""
        offset_s, clock_steps = self._clock.mapping
        unix_s = monotonic_s + offset_s
        near = abs(unix_s - tick.unix_ms / 1000) <= ON_TICK_SECONDS
        return tick.unix_ms if near else round(unix_s * 1000), clock_steps

    def _called(self, what: str) -> str:
        info = self.device.info
        return f"GPU {info.index} ({info.uuid}): {what}"


class Sampler:
    """All GPUs, every tick."""

    def __init__(
        self,
        devices: Sequence[Device],
        clock: WallClock,
        interval_ms: int,
        retention_ms: int,
        *,
        observe_lateness: Observe = lambda _: None,
        observe_call: Observe = lambda _: None,
    ) -> None:
        self.clock, self.interval_ms, self.retention_ms = clock, interval_ms, retention_ms
        self.max_gap_ms = GAP_INTERVALS * interval_ms
        self._observe_lateness, self._observe_call = observe_lateness, observe_call
        self._stopped, self._started = threading.Event(), False
        self._adding = threading.Lock()
        self.gpus: tuple[GpuSampler, ...] = ()
        for device in devices:
            self.add(device)

    def add(self, device: Device) -> GpuSampler:
        """Read this GPU, too, after all others; from any thread."""
        gpu = GpuSampler(
            device,
            GpuLedger(Ring(self.retention_ms // self.interval_ms + 1), self.max_gap_ms),
            self.clock,
            self.interval_ms,
            observe_lateness=self._observe_lateness,
            observe_call=self._observe_call,
        )
        with self._adding:
            self.gpus = (*self.gpus, gpu)
            if self._started:
                self._start(gpu)
        return gpu

    def start(self) -> None:
        """Start the threads; they end with the process, at the latest."""
        with self._adding:
            self._started = True
            for gpu in self.gpus:
                self._start(gpu)

    def _start(self, gpu: GpuSampler) -> None:
        name = f"gpu-{gpu.device.info.index}"
        threading.Thread(target=gpu.run, args=(self._stopped,), name=name, daemon=True).start()

    def look(self) -> None:
        """Note which GPU's calls hang; once a second."""
        for gpu in self.gpus:
            gpu.look()

    def stop(self) -> None:
        """Let every thread end at its next tick."""
        self._stopped.set()

    def attach(self, counters: Mapping[str, EnergyCounter]) -> None:
        """Read these energy counters, by UUID, too."""
        for gpu in self.gpus:
            if gpu.device.info.uuid in counters:
                gpu.attach(counters[gpu.device.info.uuid])

    @property
    def reads_energy(self) -> bool:
        """Whether any GPU's own counter is read."""
        return any(gpu.reads_energy for gpu in self.gpus)

    @property
    def ready(self) -> bool:
        """Whether each GPU was asked once."""
        return all(gpu.done_ticks > 0 for gpu in self.gpus)

    def pause_s(self) -> float:
        """How long to leave the interpreter to the GPUs' threads [s]: 0 but shortly before and after a tick.

        Who loses its core while it holds the interpreter's lock holds up all of them.
        """
        clock, interval_s = self.clock, self.interval_ms / 1000
        since_tick_s = (clock.monotonic_s() + clock.mapping.offset_s) % interval_s
        if since_tick_s < AFTER_TICK_SECONDS:
            return AFTER_TICK_SECONDS - since_tick_s
        to_tick_s = interval_s - since_tick_s
        return to_tick_s + AFTER_TICK_SECONDS if to_tick_s < BEFORE_TICK_SECONDS else 0.0

    def settled_ms(self, now_ms: int) -> int:
        """The tick from which on samples may still come; all of earlier time are in.

        That is the tick that the slowest GPU waits for; but none waits for a read that takes longer
        than a sample may.
        """
        awaited_ms = min((gpu.ticker.next_ms for gpu in self.gpus), default=0)
        oldest_ms = (now_ms - self.max_gap_ms) // self.interval_ms * self.interval_ms
        return max(awaited_ms, oldest_ms)
