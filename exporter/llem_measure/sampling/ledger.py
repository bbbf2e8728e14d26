"""One GPU's joules: sums, newest sample and history, read as one consistent page."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Final, NamedTuple

from llem_core.energy import NOTHING, PairEnergy, joules, pair_energy
from llem_measure.sampling.devices import Status
from llem_measure.sampling.ring import Ring, Samples

FRESH_SECONDS: Final = 1.0
PEAK_SECONDS: Final = 60.0
STATUS_SECONDS: Final = 5.0
"""The slow readings are read once a second where GPUs answer, and published for this long; no longer than
power is, where they come alone."""


class Read(NamedTuple):
    """What one tick read of a GPU.

    `unix_ms` is the time of the values, mapped when the clock had made `clock_steps`; `monotonic_s` is
    the same instant. `watts` and `joules` are whole steps, or None where there is no sample; the calls
    for them took `watts_call_s` and `joules_call_s`.
    """

    tick_ms: int
    unix_ms: int
    clock_steps: int
    monotonic_s: float
    watts: float | None
    joules: float | None
    watts_call_s: float = 0.0
    joules_call_s: float = 0.0


def rounded(value: float | None, steps_per_unit: int) -> float | None:
    """The value in whole steps; None where it is no sample (None, NaN, negative, or beyond a float)."""
    if value is None or not isfinite(value * steps_per_unit) or value < 0:
        return None
    return round(value * steps_per_unit) / steps_per_unit


@dataclass(frozen=True, slots=True)
class Page:
    """What is published of one GPU: the state after its last read.

    `watts`, `peak_watts` and `joules` (the hardware's counter) are of that read, and `sample_ms` is its
    time: None while the clock catches up after a step. `doubled`, `covered_ms` and `gap_ms` are the
    sums of llem_core.energy over all `samples`.

    `joules` is None where only its own read failed, though the last count is known: a stale value must
    not carry a fresh timestamp. `status` was read at `status_s`.
    """

    watts: float | None = None
    peak_watts: float | None = None
    joules: float | None = None
    sample_ms: int | None = None
    tick_ms: int | None = None
    doubled: float = 0.0
    covered_ms: float = 0.0
    gap_ms: float = 0.0
    samples: int = 0
    watts_call_s: float = 0.0
    joules_call_s: float = 0.0
    read_s: float = float("-inf")
    status_s: float = float("-inf")
    fresh: bool = False
    errors: Mapping[str, int] = field(default_factory=dict)
    status: Status = field(default_factory=Status)

    @property
    def nvml_joules(self) -> float | None:
        return joules(self.doubled) if self.samples else None

    @property
    def integrated_s(self) -> float | None:
        return self.covered_ms / 1000 if self.samples else None

    @property
    def gap_s(self) -> float | None:
        return self.gap_ms / 1000 if self.samples else None

    @property
    def sample_unix_s(self) -> float | None:
        return None if self.sample_ms is None else self.sample_ms / 1000


class GpuLedger:
    """Integrates what one GPU's thread adds, and keeps its history.

    A sample enters the sums and the history, or neither. Times ascend; none is before a time that was
    handed out as settled; and after a step of the wall clock none is within max_gap of the last one,
    so that the step is a gap in the history, too.
    """

    def __init__(self, ring: Ring, max_gap_ms: int) -> None:
        self._max_gap_ms = max_gap_ms
        self._fresh_s = max(FRESH_SECONDS, max_gap_ms / 1000)
        self._ring = ring
        self._lock = threading.Lock()
        self._page = Page()
        self._peaks: deque[tuple[float, float]] = deque()
        self._clock_steps = 0
        self._open_from_ms = 0  # a sample of an earlier time comes too late
        self._last_power: tuple[int, float] | None = None

    def add(self, read: Read) -> None:
        """Take in what a tick read; not called where it read nothing."""
        with self._lock:
            self._page = self._after(read)

    @property
    def errors(self) -> Mapping[str, int]:
        """Failed readings by the driver's names of the errors."""
        return self._page.errors

    def add_errors(self, names: Iterable[str]) -> None:
        """Count failed readings by the driver's names of the errors."""
        with self._lock:
            errors = dict(self._page.errors)
            for name in names:
                errors[name] = errors.get(name, 0) + 1
            self._page = replace(self._page, errors=errors)

    def set_status(self, status: Status, monotonic_s: float) -> None:
        """Replace the slow readings by those of an instant."""
        with self._lock:
            self._page = replace(self._page, status=status, status_s=monotonic_s)

    def page(self, now_ms: int, monotonic_s: float) -> Page:
        """What to publish now: gauges only while they are fresh, and the gap that is still open.

        `now_ms` and `monotonic_s` are the same instant on the two clocks.
        """
        with self._lock:
            self._settle(now_ms - self._max_gap_ms)
            page, gap_ms = self._page, self._open_gap_ms()
        if gap_ms:
            page = replace(page, gap_ms=page.gap_ms + gap_ms)
        fresh = monotonic_s - page.read_s <= self._fresh_s
        if not fresh:
            page = replace(page, fresh=False, watts=None, peak_watts=None, sample_ms=None)
        # Where nothing else is read, nothing else shows that the GPU still answers.
        if monotonic_s - page.status_s > (max(STATUS_SECONDS, self._fresh_s) if fresh else self._fresh_s):
            page = replace(page, status=Status())
        return page

    def trace(self, after_ms: int, before_ms: int) -> Samples:
        """The history with after_ms < time < before_ms, to which nothing will be added any more."""
        with self._lock:
            self._settle(before_ms)
            ring = self._ring
            return ring.copy(range(ring.number_after(after_ms), ring.number_after(before_ms - 1)))

    def held_numbers(self) -> range:
        """Return the numbers of the samples that the history holds."""
        with self._lock:
            return self._ring.held_numbers()

    def number_after(self, unix_ms: int) -> int:
        """Return the number of the history's first sample after a time, or the number of the next sample."""
        with self._lock:
            return self._ring.number_after(unix_ms)

    def copy_samples(self, numbers: range) -> Samples:
        """Return the samples with these numbers that the history holds."""
        with self._lock:
            return self._ring.copy(numbers)

    def _settle(self, before_ms: int) -> None:
        self._open_from_ms = max(self._open_from_ms, before_ms)

    def _open_gap_ms(self) -> int:
        """The gap since the last power sample, as far as it is certain: the next one can only lengthen it."""
        if self._last_power is None:
            return 0
        gap_ms = self._open_from_ms - self._last_power[0]
        return gap_ms if gap_ms > self._max_gap_ms else 0

    def _after(self, read: Read) -> Page:
        page = self._page
        if read.clock_steps != self._clock_steps:
            self._clock_steps = read.clock_steps
            if self._last_power is not None:
                self._settle(self._last_power[0] + self._max_gap_ms + 1)
        published = read.unix_ms >= self._open_from_ms
        pair, samples = NOTHING, page.samples
        if published:
            self._settle(read.unix_ms + 1)
            self._ring.append(read.unix_ms, read.watts, read.joules)
            if read.watts is not None:
                pair = self._pair(read.unix_ms, read.watts)
                samples += 1
        return Page(
            fresh=True,
            read_s=read.monotonic_s,
            tick_ms=read.tick_ms,
            sample_ms=read.unix_ms if published else None,
            watts=read.watts,
            peak_watts=self._peak(read),
            joules=read.joules,
            doubled=page.doubled + pair.doubled,
            covered_ms=page.covered_ms + pair.covered_ms,
            gap_ms=page.gap_ms + pair.gap_ms,
            samples=samples,
            watts_call_s=read.watts_call_s,
            joules_call_s=read.joules_call_s,
            errors=page.errors,
            status=page.status,
            status_s=page.status_s,
        )

    def _pair(self, unix_ms: int, watts: float) -> PairEnergy[float]:
        last, self._last_power = self._last_power, (unix_ms, watts)
        if last is None:
            return NOTHING
        return pair_energy(last[1], watts, float(unix_ms - last[0]), self._max_gap_ms)

    def _peak(self, read: Read) -> float | None:
        """The highest of the last minute: `_peaks` holds what no later reading has exceeded."""
        peaks = self._peaks
        while peaks and read.monotonic_s - peaks[0][0] > PEAK_SECONDS:
            peaks.popleft()
        if read.watts is not None:
            while peaks and peaks[-1][1] <= read.watts:
                peaks.pop()
            peaks.append((read.monotonic_s, read.watts))
        return peaks[0][1] if peaks else None
