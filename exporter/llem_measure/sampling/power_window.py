"""The rule applied as readings come: one GPU's joules and bounds between two instants."""

import threading
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from llem_core.energy import NOTHING, PairEnergy, joules, part_energy, power_bounds
from llem_measure.sampling.polling import Reading

_MS: Final = 1000

_OPEN_PAIRS: Final = 2
"""Pairs that the end may cut: when it is asked for, a reading may be under way, and one comes after."""


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Joules of a window, None where nothing is covered; `high_j` is infinite where nothing bounds it."""

    joules: float | None
    low_j: float
    high_j: float
    coverage: float
    gap_s: float
    largest_gap_s: float


class _Pair(NamedTuple):
    before: Reading
    watts0: float
    after: Reading
    watts1: float


class PowerWindow:
    """Takes one GPU's readings in order of time; keeps sums, and the last readings only.

    A reading happened somewhere within its call, so where the bounds' rectangles meet is known only to
    half a call: `_shift_low_j` and `_shift_high_j` are what that may have moved, at its worst.
    """

    def __init__(self, max_gap_s: float) -> None:
        self._max_gap_s = max_gap_s
        self._lock = threading.Lock()
        self._start_s = inf
        self._total: PairEnergy[float] = NOTHING
        self._open: deque[_Pair] = deque()
        self._last: tuple[Reading, float] | None = None
        self._first_s = inf
        self._levels: tuple[float, float] | None = None
        self._shift_low_j = self._shift_high_j = self._shift_gap_s = 0.0
        self._largest_gap_s = 0.0
        self._peak_watts = 0.0
        self._limits_watts: list[float] = []
        self.first: Reading | None = None
        self.newest: Reading | None = None
        self.samples = 0
        self.errors: dict[str, int] = {}
        self.lost_by = ""
        self.celsius: tuple[float, float] | None = None

    def begin(self, start_s: float) -> None:
        """Let the window begin at this instant, before the second reading comes."""
        with self._lock:
            self._start_s = start_s

    def add(self, reading: Reading) -> None:
        """Take in the next reading."""
        with self._lock:
            self.first = self.first or reading
            self.newest = reading
            self._note_status(reading)
            slow = reading.end_s - reading.start_s > self._max_gap_s
            error = "READ_TOO_SLOW" if slow and not reading.error else reading.error
            if error:
                self.errors[error] = self.errors.get(error, 0) + 1
                self.lost_by = error if reading.lost else self.lost_by
            elif reading.watts is not None:
                self._add_sample(reading, reading.watts)

    def end(self, end_s: float) -> WindowEnergy:
        """The energy up to this instant, which the last reading is not before."""
        with self._lock:
            while self._open:
                self._close(self._open.popleft(), end_s)
            duration_s = end_s - self._start_s
            covered_s = self._total.covered_ms / _MS
            gap_s = max(0.0, duration_s - covered_s)
            if gap_s < 1e-6 * duration_s:  # rounding
                gap_s = 0.0
            last_s = self._last[0].middle_s if self._last else self._start_s
            edges_s = (min(self._first_s, end_s) - self._start_s, end_s - last_s)
            low_j, high_j = self._bounds(gap_s)
            return WindowEnergy(
                joules=joules(self._total.doubled) if covered_s > 0 else None,
                low_j=low_j,
                high_j=high_j,
                coverage=1.0 - gap_s / duration_s if duration_s > 0 else 0.0,
                gap_s=gap_s,
                largest_gap_s=max(self._largest_gap_s, *edges_s) if gap_s else 0.0,
            )

    @property
    def peak_watts(self) -> float | None:
        """The highest power sample; None if there is none."""
        return self._peak_watts if self.samples else None

    @property
    def limit_watts(self) -> float | None:
        """The highest enforced limit seen, or power if that was higher; None where no limit was read."""
        return max(self._peak_watts, *self._limits_watts) if self._limits_watts else None

    def _bounds(self, gap_s: float) -> tuple[float, float]:
        limit_watts = self.limit_watts
        low_j, high_j = power_bounds(self._total._replace(gap_ms=gap_s * _MS), limit_watts)
        if high_j is None:
            high_j = inf
        high_j += self._shift_high_j + self._shift_gap_s * (limit_watts or 0.0)
        return max(0.0, low_j - self._shift_low_j), high_j

    def _note_status(self, reading: Reading) -> None:
        limit_watts, celsius = reading.status.limit_watts, reading.status.temperature_celsius
        if limit_watts is not None and limit_watts not in self._limits_watts:
            self._limits_watts.append(limit_watts)
        if celsius is not None:
            coldest, hottest = self.celsius or (celsius, celsius)
            self.celsius = min(coldest, celsius), max(hottest, celsius)

    def _add_sample(self, reading: Reading, watts: float) -> None:
        self.samples += 1
        self._peak_watts = max(self._peak_watts, watts)
        self._first_s = min(self._first_s, reading.middle_s)
        if self._last is not None:
            self._open.append(_Pair(*self._last, reading, watts))
        self._last = reading, watts
        if len(self._open) > _OPEN_PAIRS:
            self._close(self._open.popleft(), inf)

    def _close(self, pair: _Pair, end_s: float) -> None:
        before, watts0, after, watts1 = pair
        from_s, dt_s = before.middle_s, after.middle_s - before.middle_s
        start = max(0.0, (self._start_s - from_s) / dt_s)
        end = min(1.0, (end_s - from_s) / dt_s)
        if end <= start:
            return
        part = part_energy(watts0, watts1, dt_s * _MS, self._max_gap_s * _MS, start, end)
        self._total = PairEnergy(*(ours + its for ours, its in zip(self._total, part, strict=True)))
        covered = part.covered_ms > 0
        if not covered:
            self._largest_gap_s = max(self._largest_gap_s, dt_s * (end - start))
        levels = (min(watts0, watts1), max(watts0, watts1)) if covered else None
        if start == 0:
            self._note_shift((before.end_s - before.start_s) / 2, watts0, levels)
        self._levels = levels

    def _note_shift(self, half_call_s: float, watts: float, levels: tuple[float, float] | None) -> None:
        if self._levels is not None and levels is not None:
            self._shift_low_j += half_call_s * abs(levels[0] - self._levels[0])
            self._shift_high_j += half_call_s * abs(levels[1] - self._levels[1])
        else:
            self._shift_low_j += half_call_s * watts
            self._shift_gap_s += half_call_s
