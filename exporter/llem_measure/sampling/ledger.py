"""Energy totals, newest reading and recent samples of one GPU."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from llem_core.energy import NOTHING, PairEnergy, add_energy, joules, pair_energy
from llem_measure.sampling.devices import Status
from llem_measure.sampling.ring import Ring

FRESH_SECONDS: Final = 1.0
PEAK_SECONDS: Final = 60.0
STATUS_SECONDS: Final = 5.0
"""How long the status is published. Without power readings, it is published no longer than power."""

MIN_PAUSE_SECONDS: Final = 600.0
"""After a step back of the clock, the history resumes at the latest after this time, or its own length."""


class Reading(NamedTuple):
    """The result of reading a GPU once.

    `unix_ms` is the time of the values, after `clock_steps` steps of the wall clock; `monotonic_s` is the
    same instant. `watts` and `joules` are None if they were not read. Their calls took `watts_call_s` and
    `joules_call_s`. `errors` are the names of the failures. `complete` is False if the energy counter was
    left out because it is read less often than power.
    """

    tick_ms: float
    unix_ms: float
    clock_steps: int
    monotonic_s: float
    watts: float | None
    joules: float | None
    watts_call_s: float = 0.0
    joules_call_s: float = 0.0
    errors: tuple[str, ...] = ()
    complete: bool = True


NO_READING: Final = Reading(0.0, float("-inf"), 0, float("-inf"), None, None)


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """What is published of one GPU: the state after its newest complete reading, or after NO_READING.

    A value that could not be read is None: an old value must not have a new timestamp. `total` sums the pairs
    of all power `samples`. `fresh` says whether the GPU has been read within the last second. If not, power
    and its time are None.
    """

    reading: Reading
    total: PairEnergy[float]
    samples: int
    highest_watts: float | None
    fresh: bool
    errors: Mapping[str, int]
    status: Status

    @property
    def watts(self) -> float | None:
        """The power of the reading."""
        return self.reading.watts if self.fresh else None

    @property
    def peak_watts(self) -> float | None:
        """The highest power of the last minute."""
        return self.highest_watts if self.fresh else None

    @property
    def joules(self) -> float | None:
        """The value of the hardware counter."""
        return self.reading.joules

    @property
    def nvml_joules(self) -> float | None:
        """The joules integrated from power samples, or None if there is no power sample."""
        return joules(self.total.doubled) if self.samples else None

    @property
    def integrated_s(self) -> float | None:
        """Seconds that `nvml_joules` covers."""
        return self.total.covered_ms / 1000 if self.samples else None

    @property
    def gap_s(self) -> float | None:
        """Seconds since the first sample that `nvml_joules` does not cover."""
        return self.total.gap_ms / 1000 if self.samples else None

    @property
    def sample_unix_s(self) -> float | None:
        """The time of the values, in unix seconds."""
        return self.reading.unix_ms / 1000 if self.fresh else None


class GpuLedger:
    """Integrates the readings of one GPU and keeps them in a ring.

    Between steps of the wall clock, a pair's duration is the difference of its published times, so the
    joules of the ring's samples are those of the counters to the bit. A pair across a step has its monotonic
    duration: a step changes no counter. The ring's times ascend, with a hole longer than max_gap at each
    step. After a step back, nothing is added to the ring until the clock has passed its newest time, or for
    `pause_s`.
    """

    def __init__(self, ring: Ring, max_gap_ms: float, pause_s: float = MIN_PAUSE_SECONDS) -> None:
        self.max_gap_ms = max_gap_ms
        self.ring, self._pause_s = ring, pause_s
        self._fresh_s = max(FRESH_SECONDS, max_gap_ms / 1000)
        self._lock = threading.Lock()
        self._total, self._samples = NOTHING, 0
        self._last_power: Reading | None = None
        self._newest = NO_READING
        # The newest complete reading, and the sums and the peak up to it.
        self._published: tuple[Reading, PairEnergy[float], int, float | None] = (NO_READING, NOTHING, 0, None)
        self._peaks: deque[tuple[float, float]] = deque()
        self._errors: dict[str, int] = {}
        self._status, self._status_s = Status(), float("-inf")
        self._trace_after_ms, self._trace_steps, self._trace_again_s = float("-inf"), 0, 0.0
        self.largest_gap_ms = 0.0
        self.trace_paused = False

    def add(self, reading: Reading) -> None:
        """Add a reading: its values to the sums and to the ring, its errors to the counts."""
        with self._lock:
            self._count_errors(reading.errors)
            if (reading.watts is None and reading.joules is None) or self._is_old(reading):
                return
            self._newest, gap_ms = reading, self._total.gap_ms
            if reading.watts is not None:
                self._add_power(reading)
            self._add_to_ring(reading)
            self._note_peak(reading)
            overdue = reading.monotonic_s - self._published[0].monotonic_s > FRESH_SECONDS
            if reading.complete or self._total.gap_ms > gap_ms or overdue:
                highest_watts = self._peaks[0][1] if self._peaks else None
                self._published = (reading, self._total, self._samples, highest_watts)

    def add_error(self, name: str) -> None:
        """Count an error."""
        with self._lock:
            self._count_errors((name,))

    def set_status(self, status: Status, monotonic_s: float) -> None:
        """Replace the status, and count its errors."""
        with self._lock:
            self._status, self._status_s = status, monotonic_s
            self._count_errors(status.errors)

    def snapshot(self, monotonic_s: float) -> GpuSnapshot:
        """Return the values to publish.

        Gauges are left out if the last reading is more than 1 s old (or max_gap, if that is longer). A long
        time since the last sample is included in the gap.
        """
        with self._lock:
            reading, total, samples, highest_watts = self._published
            newest_s, open_ms = self._newest.monotonic_s, self._open_gap_ms(monotonic_s)
            errors, status, status_s = self._errors, self._status, self._status_s
        fresh = monotonic_s - newest_s <= self._fresh_s
        # If nothing else is read, only the status shows that the GPU still answers.
        if monotonic_s - status_s > (max(STATUS_SECONDS, self._fresh_s) if fresh else self._fresh_s):
            status = Status()
        if open_ms > self.max_gap_ms:
            total = total._replace(gap_ms=total.gap_ms + open_ms)
        return GpuSnapshot(reading, total, samples, highest_watts, fresh, errors, status)

    @property
    def power_joules(self) -> float:
        """The joules of all power samples so far. For the thread that adds the readings."""
        return joules(self._total.doubled)

    @property
    def total(self) -> PairEnergy[float]:
        """The sums over all pairs of power samples so far."""
        return self._total

    @property
    def samples(self) -> int:
        """The number of power samples so far."""
        return self._samples

    @property
    def errors(self) -> Mapping[str, int]:
        """The number of errors by name."""
        return self._errors

    def _count_errors(self, names: tuple[str, ...]) -> None:
        if names:
            self._errors = dict(self._errors)
            for name in names:
                self._errors[name] = self._errors.get(name, 0) + 1

    def _add_power(self, reading: Reading) -> None:
        last, watts = self._last_power, reading.watts
        if last is not None and last.watts is not None and watts is not None:
            if last.clock_steps == reading.clock_steps:
                # A gap is at least what was published while it was open, even if the clock was slewed.
                dt_ms = max(float(reading.unix_ms - last.unix_ms), self._open_gap_ms(reading.monotonic_s))
            else:
                dt_ms = float(round(1000 * (reading.monotonic_s - last.monotonic_s)))
            pair = pair_energy(last.watts, watts, dt_ms, self.max_gap_ms)
            self._total = add_energy(self._total, pair)
            self.largest_gap_ms = max(self.largest_gap_ms, pair.gap_ms)
        self._samples += 1
        self._last_power = reading

    def _add_to_ring(self, reading: Reading) -> None:
        if reading.clock_steps != self._trace_steps:
            self._trace_steps = reading.clock_steps
            self._trace_after_ms += self.max_gap_ms
            if not self.trace_paused:
                self._trace_again_s = reading.monotonic_s + self._pause_s
        self.trace_paused = reading.unix_ms <= self._trace_after_ms
        if self.trace_paused:
            if reading.monotonic_s < self._trace_again_s:
                return
            self.ring.clear()
            self.trace_paused = False
        self._trace_after_ms = reading.unix_ms
        self.ring.append(reading.unix_ms, reading.watts, reading.joules)

    def _note_peak(self, reading: Reading) -> None:
        """Keep the readings of the last minute that no later reading has exceeded."""
        peaks = self._peaks
        while peaks and reading.monotonic_s - peaks[0][0] > PEAK_SECONDS:
            peaks.popleft()
        if reading.watts is not None:
            while peaks and peaks[-1][1] <= reading.watts:
                peaks.pop()
            peaks.append((reading.monotonic_s, reading.watts))

    def _is_old(self, reading: Reading) -> bool:
        """Return whether the reading is not later than the newest one, between two steps of the clock."""
        newest = self._newest
        return newest.clock_steps == reading.clock_steps and reading.unix_ms <= newest.unix_ms

    def _open_gap_ms(self, monotonic_s: float) -> float:
        """Return the time since the last power sample minus max_gap. The gap is at least this long."""
        if self._last_power is None:
            return 0.0
        return int(1000 * (monotonic_s - self._last_power.monotonic_s)) - self.max_gap_ms
