"""How much time is asked for at once: by what the last question brought."""

from typing import Final

TARGET_SAMPLES: Final = 1_000_000
"""16 MB as arrays; two of them are held."""
_FIRST_MS: Final = 600_000
"""Unseen: of 160 GPUs at 10 Hz it is what is aimed at; what is much more is broken off."""
_SHORTEST_MS: Final = 1000
_GROWTH: Final = 16
_A_LITTLE_MORE: Final = 1.25


class TooMuchError(Exception):
    """A slab holds more than is taken, or handed out, at once."""


class Slabs:
    """[start_ms, end_ms] cut into slabs that ascend, of about `target` samples each."""

    def __init__(self, start_ms: int, end_ms: int, target: int = TARGET_SAMPLES) -> None:
        self._at, self._end_ms, self._target = start_ms, end_ms, target
        self._length_ms = _FIRST_MS

    @property
    def limit(self) -> int:
        """A slab of more samples is cut shorter."""
        return 2 * self._target

    def next(self) -> tuple[int, int] | None:
        """First and last ms of what is to be asked for now; None at the end."""
        if self._at > self._end_ms:
            return None
        left_ms, length_ms = self._end_ms - self._at + 1, self._length_ms
        # A little more is taken at once: another question costs more than its answer.
        return self._at, self._at + (left_ms if left_ms < _A_LITTLE_MORE * length_ms else length_ms) - 1

    def taken(self, samples: int) -> int:
        """The slab came, with so many samples; returns how many are to be expected of the rest."""
        start_ms, end_ms = self.next() or (0, 0)
        length_ms = end_ms - start_ms + 1
        self._at = end_ms + 1
        fitting_ms = length_ms * self._target // max(samples, 1)
        self._length_ms = max(_SHORTEST_MS, min(length_ms * _GROWTH, fitting_ms))
        return samples * max(0, self._end_ms - end_ms) // length_ms

    def shorten(self) -> bool:
        """The slab is too much at once; whether it can be shorter."""
        start_ms, end_ms = self.next() or (0, 0)
        length_ms = end_ms - start_ms + 1
        self._length_ms = max(_SHORTEST_MS, length_ms // 4)
        return length_ms > _SHORTEST_MS
