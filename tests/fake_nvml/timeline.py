"""The loads of a GPU or of a module's CPU, one after the other, and the clock that they share."""

import math
import time
from dataclasses import dataclass, replace
from itertools import pairwise

from . import layout
from .load import Load

# A change is announced this long before it holds, so that all processes switch at the same instant.
_NOTICE_S = 0.001


@dataclass(frozen=True, slots=True)
class Clock:
    """Converts unix times to seconds since the driver's origin, and back."""

    origin_unix_s: int  # whole seconds, so that the differences are exact

    def offset(self, unix_s: float) -> float:
        """Seconds from the origin to a unix time."""
        return unix_s - self.origin_unix_s

    def unix(self, t: float) -> float:
        """The unix time `t` seconds after the origin."""
        return self.origin_unix_s + t

    def soon(self) -> float:
        """The time from which the next change will hold."""
        # By way of unix time as a float64, so that callers are told exactly this time.
        return self.offset(time.time() + _NOTICE_S)

    def is_ahead(self, t: float) -> bool:
        """Return whether `t` is in the future. A change published later would not hold from there."""
        return time.time() < self.unix(t)

    def wait(self, t: float) -> None:
        """Sleep until `t`."""
        time.sleep(max(0.0, self.unix(t) - time.time()))


class Timeline:
    """The loads, in the shared state for the library, and here for the exact joules."""

    def __init__(self, state: layout.Timeline, clock: Clock, load: Load) -> None:
        """Start with one load, which holds before the origin, too."""
        self._state, self._clock = state, clock
        self._pieces: list[tuple[float, Load]] = []
        self._write(0.0, 0.0, load)
        self._publish(0.0, load)

    @property
    def load(self) -> Load:
        """The newest load."""
        return self._pieces[-1][1]

    def set_load(self, load: Load | None, at_unix_s: float | None, **changes: float) -> float:
        """Change the load, whole or in part; return the unix time from which the new one holds.

        Without at_unix_s it holds in a millisecond, and the call returns when it does.
        """
        last_start, last = self._pieces[-1]
        before = self._state.pieces[(self._state.count - 1) % layout.PIECES].joules_before
        while True:
            start = self._clock.soon() if at_unix_s is None else self._clock.offset(at_unix_s)
            if start <= last_start:
                raise ValueError(
                    f"a load must start after the one before it: {start} <= {last_start} s from the origin"
                )
            new = replace(load or last, **changes)
            self._write(start, before + last.joules(last_start, start), new)
            if at_unix_s is not None or self._clock.is_ahead(start):
                break
        self._publish(start, new)
        if at_unix_s is None:
            self._clock.wait(start)
        return self._clock.unix(start)

    def _write(self, start: float, joules_before: float, load: Load) -> None:
        """Write the next piece. No process reads it before it is published."""
        self._state.pieces[self._state.count % layout.PIECES] = layout.Piece(
            start,
            joules_before,
            load.low_watts,
            load.high_watts,
            load.duty,
            load.period_s,
            load.phase,
            load.sine_watts,
            load.sine_period_s,
            load.sine_phase,
        )

    def _publish(self, start: float, load: Load) -> None:
        self._state.count += 1
        self._pieces.append((start, load))

    def exact_watts(self, unix_s: float) -> float:
        """True power at an instant."""
        t = self._clock.offset(unix_s)
        load = next((load for start, load in reversed(self._pieces) if start <= t), self._pieces[0][1])
        return load.watts(t)

    def exact_joules(self, start_unix_s: float, end_unix_s: float) -> float:
        """True joules in a window, over all loads that held in it."""
        start, end = self._clock.offset(start_unix_s), self._clock.offset(end_unix_s)
        starts = [-math.inf, *(piece_start for piece_start, _ in self._pieces[1:]), math.inf]
        parts = []
        for (_, load), (begins, ends) in zip(self._pieces, pairwise(starts), strict=True):
            a, b = max(start, begins), min(end, ends)
            if a < b:
                parts.append(load.joules(a, b))
        return math.fsum(parts)
