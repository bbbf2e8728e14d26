"""Many lines parsed together: their series are compared as bytes, their numbers are read in bulk.

What is not just value and time, in the plainest form, is left to the parser of single lines.
"""

import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.samples import Values

_LONGEST_HEAD: Final = 2048
_LONGEST_TAIL: Final = 64
"""Value, time and the end of the line; longer with exemplars, which are not read here."""
_FIRST_REACH: Final = 16
_GROWTH: Final = 8
_NUMERIC: Final = b"0123456789.+-eENanIf \n"
_SPACE: Final = 32
_NEWLINE: Final = 10

Offsets = NDArray[np.int64]


class Block:
    """Lines that end where the text does; `starts` (n,) and `ends` (n,) are those of each line."""

    def __init__(self, text: bytes) -> None:
        self._size = len(text)
        # Windows of a head's or a tail's length are compared, beyond the end of the last line, too.
        self._padded = b"%b%b" % (text, bytes(_LONGEST_HEAD + _LONGEST_TAIL))
        self.text = text
        self.ends: Offsets = np.flatnonzero(np.frombuffer(text, np.uint8) == _NEWLINE)
        self.starts: Offsets = np.concatenate([np.zeros(1, np.int64), self.ends[:-1] + 1])

    def __len__(self) -> int:
        return len(self.ends)

    def run(self, line: int, head: bytes) -> Values:
        """Values and times (n, 2) of the lines from `line` on that begin with `head` and are plain."""
        if len(head) > _LONGEST_HEAD or not self.text.startswith(head, int(self.starts[line])):
            return np.empty((0, 2))
        found: list[Values] = []
        reach = _FIRST_REACH
        while line < len(self):
            stop = min(line + reach, len(self))
            count = self._alike(line, stop, head)
            numbers = self.numbers(np.arange(line, line + count), len(head)) if count else None
            if numbers is None:
                break
            found.append(numbers)
            line += count
            if line < stop:
                break
            reach *= _GROWTH
        return np.concatenate(found) if found else np.empty((0, 2))

    def _windows(self, width: int) -> NDArray[np.void]:
        """Every stretch of so many bytes, by its offset."""
        return np.ndarray((self._size,), np.dtype((np.void, width)), self._padded, strides=(1,))

    def _alike(self, line: int, stop: int, head: bytes) -> int:
        """How many lines from `line` on begin with `head` and are short enough."""
        starts = self.starts[line:stop]
        begun = self._windows(len(head))[starts].view(np.uint8).reshape(-1, len(head))
        good = (begun == np.frombuffer(head, np.uint8)).all(axis=1)
        good &= self.ends[line:stop] - starts < len(head) + _LONGEST_TAIL
        return len(good) if good.all() else int(good.argmin())

    def line(self, number: int) -> bytes:
        return self.text[self.starts[number] : self.ends[number]]

    def heads(self, line: int, stop: int) -> tuple[list[bytes], Offsets]:
        """What stands before the last two fields of each line, and its length; nothing where none are."""
        starts, ends = self.starts[line:stop], self.ends[line:stop]
        first = int(starts[0])
        spaces = np.flatnonzero(np.frombuffer(self.text, np.uint8)[first : int(ends[-1])] == _SPACE) + first
        before = np.searchsorted(spaces, ends) - 2
        stops = spaces[np.maximum(before, 0)] if len(spaces) else starts
        stops = np.where((before >= 0) & (stops > starts), stops, starts)
        heads = [self.text[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
        return heads, stops - starts

    def numbers(self, lines: Offsets, heads: Offsets | int) -> Values | None:
        """Values and times (n, 2) of lines after their heads; None where there is not exactly that."""
        starts = self.starts[lines] + heads
        lengths = self.ends[lines] - starts + 1
        # A tail begins inside the text: at least a newline follows a head.
        width = int(lengths.max())
        if width > _LONGEST_TAIL:
            return None
        tails = self._windows(width)[starts].view(np.uint8).reshape(-1, width)
        tail_bytes = tails[np.arange(width) < lengths[:, np.newaxis]]
        text = tail_bytes.tobytes()
        if text.translate(None, _NUMERIC):
            return None
        gaps = np.flatnonzero(tail_bytes <= _SPACE)
        kinds = tail_bytes[gaps].reshape(-1, 2) if len(gaps) == 2 * len(starts) else None
        if kinds is None or not (kinds == (_SPACE, _NEWLINE)).all():
            return None
        # A field that is empty is a number too few.
        numbers = _read(text)
        return numbers.reshape(-1, 2) if len(numbers) == len(gaps) else None


def _read(text: bytes) -> Values:
    """The numbers up to the first that is none."""
    with warnings.catch_warnings():  # what numpy says of such a text differs between its versions
        warnings.simplefilter("ignore")
        try:
            return np.fromstring(text, sep=" ")
        except ValueError:
            return np.empty(0)
