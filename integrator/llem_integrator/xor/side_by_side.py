"""XOR chunks decoded by numpy alone: many side by side, step k decodes the k-th sample of each.

A row is a chunk. Rows with most samples come first, so that those which still have some are always the first
`live` ones. Positions count bits from the first bit of the first word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series import Times, Values
from llem_integrator.xor.layout import COUNT_BYTES, INLINE_BITS, VARINT_BYTES, Bytes, Fault, Ints

_u = np.uint64  # numpy makes floats of uint64 with int64
_Words = NDArray[np.uint64]
_Number = TypeVar("_Number", np.int64, np.float64)

GROUP_ROWS: Final = 4096
"""Rows decoded at once: enough to make a numpy call worth its price, few enough for the caches."""
_GROUP_CELLS: Final = 1 << 20
_DOD_PREFIX_BITS: Final = np.array([2, 2, 2, 2, 3, 3, 4, 4])
"""By the three bits after a dod's first one: 0xx, 10x, 110 and 111."""
_DOD_BITS: Final = np.array([14, 14, 14, 14, 17, 17, 20, 64])


def decode_into(data: Bytes, offsets: Ints, ends: Ints, counts: Ints, times: Times, values: Values) -> Bytes:
    """Fill times and values (n,), chunk after chunk; returns a Fault for each chunk."""
    faults = np.zeros(len(offsets), np.uint8)
    first, last = int(offsets.min(initial=len(data))), int(ends.max(initial=0))
    words = _big_endian(data[first:last])
    stops = np.cumsum(counts)
    for begin, end in _groups(counts):
        group = slice(begin, end)
        order = np.argsort(-counts[group], kind="stable")
        rows = _Rows.at(words, offsets[group][order] - first, ends[group][order] - first)
        found_times, found_values = rows.decode(counts[group][order])
        back = np.argsort(order)
        out = slice(int(stops[begin] - counts[begin]), int(stops[end - 1]))
        _lay_out(found_times, back, counts[group], times[out])
        _lay_out(found_values.view(np.float64), back, counts[group], values[out])
        faults[group] = rows.faults[back]
    return faults


def _big_endian(data: Bytes) -> _Words:
    """The bytes as words, with words of zeros behind them."""
    padded = np.zeros(len(data) // 8 * 8 + 24, np.uint8)
    padded[: len(data)] = data
    return padded.view(">u8").astype(np.uint64)


def _groups(counts: Ints) -> Iterator[tuple[int, int]]:
    """Stretches of chunks to decode at once, bounded in rows and in cells (rows x the longest's samples)."""
    spans = [(at, min(at + GROUP_ROWS, len(counts))) for at in range(0, len(counts), GROUP_ROWS)][::-1]
    while spans:
        begin, end = spans.pop()
        if end - begin > 1 and (end - begin) * int(counts[begin:end].max()) > _GROUP_CELLS:
            middle = (begin + end) // 2
            spans += [(middle, end), (begin, middle)]
        else:
            yield begin, end


def _lay_out(found: NDArray[_Number], back: Ints, counts: Ints, out: NDArray[_Number]) -> None:
    """Columns of (steps, rows) to one stretch a chunk, in the chunks' own order."""
    steps = len(found)
    if len(out) == found.size:
        out.reshape(-1, steps)[:] = found.T  # all of one length: the order is their own
    else:
        out[:] = found.T[back][np.arange(steps) < counts[:, None]]


def _peek(words: _Words, position: Ints) -> _Words:
    """The 64 bits from each position on; of positions behind the words, the last one's."""
    at, shift = position >> 6, (position & 63).view(np.uint64)
    return (words.take(at, mode="clip") << shift) | (
        words.take(at + 1, mode="clip") >> _u(1) >> (_u(63) - shift)
    )


@dataclass(slots=True)
class _Rows:
    """Where each chunk's decoder stands, all arrays (rows,)."""

    words: _Words
    end: Ints
    position: Ints
    unix_ms: Times
    delta_ms: Times
    bits: _Words
    width: _Words
    trailing: _Words
    faults: Bytes

    @classmethod
    def at(cls, words: _Words, offsets: Ints, ends: Ints) -> "_Rows":
        """Before the first sample of each chunk."""
        unix_ms, delta_ms = np.zeros((2, len(offsets)), np.int64)
        bits, width, trailing = np.zeros((3, len(offsets)), np.uint64)
        # A window that is used before one was set is the whole value, as in Prometheus's own reader.
        width[:] = 64
        position = (offsets + COUNT_BYTES) * 8
        faults = np.full(len(offsets), Fault.NONE, np.uint8)
        return cls(words, ends * 8, position, unix_ms, delta_ms, bits, width, trailing, faults)

    def decode(self, counts: Ints) -> tuple[Times, _Words]:
        """Times and values (steps, rows) of chunks whose counts descend; behind a count, nothing is set."""
        steps, rows = int(counts[0]), len(counts)
        times, values = np.empty((steps, rows), np.int64), np.empty((steps, rows), np.uint64)
        lives = np.searchsorted(-counts, -np.arange(steps), side="left").tolist()
        self._first()
        times[0], values[0] = self.unix_ms, self.bits
        for step, live in enumerate(lives[1:], start=1):
            if step == 1:
                self.delta_ms[:live] = self._varint(live).view(np.int64)
                word = _peek(self.words, self.position[:live])
            else:
                word = self._dod(live)
            self.unix_ms[:live] += self.delta_ms[:live]
            self._value(live, word)
            times[step, :live], values[step, :live] = self.unix_ms[:live], self.bits[:live]
        self._mark(np.flatnonzero(self.position > self.end), Fault.RUN_OUT)
        return times, values

    def _first(self) -> None:
        zigzag = self._varint(len(self.position))
        self.unix_ms[:] = (zigzag >> _u(1)).view(np.int64) ^ -(zigzag & _u(1)).view(np.int64)
        self.bits[:] = _peek(self.words, self.position)
        self.position += 64

    def _varint(self, live: int) -> _Words:
        """An unsigned varint of each row."""
        numbers, rows = np.zeros(live, np.uint64), np.arange(live)
        for place in range(VARINT_BYTES):
            byte = _peek(self.words, self.position[rows]) >> _u(56)
            numbers[rows] |= (byte & _u(127)) << _u(7 * place)
            self.position[rows] += 8
            if place == VARINT_BYTES - 1:
                self._mark(rows[byte > 1], Fault.VARINT)
            rows = rows[byte > 127]
            if not len(rows):
                break
        return numbers

    def _dod(self, live: int) -> _Words:
        """Take each row's change of its distance; returns what follows."""
        position = self.position[:live]
        word = _peek(self.words, position)
        rows = np.flatnonzero(word >> _u(63))
        position += 1
        word <<= _u(1)
        if len(rows):
            kind = (word[rows] >> _u(61)).view(np.int64)
            size = _DOD_BITS[kind]
            start = position[rows] + _DOD_PREFIX_BITS[kind] - 1
            number = (_peek(self.words, start) >> (64 - size).view(np.uint64)).view(np.int64)
            half = np.int64(1) << (size - 1)
            self.delta_ms[rows] += np.where((size < 64) & (number > half), number - 2 * half, number)
            position[rows] = start + size
            word[rows] = _peek(self.words, position[rows])
        return word

    def _value(self, live: int, word: _Words) -> None:
        """Take each row's value, whose first bit is the word's."""
        position, width, trailing = self.position[:live], self.width[:live], self.trailing[:live]
        changed = word >> _u(63)
        word <<= _u(1)
        rows = np.flatnonzero(changed & (word >> _u(63)))
        word <<= _u(1)
        position += (changed + _u(1)).view(np.int64)
        if len(rows):
            self._window(rows, word)
        wide = np.flatnonzero((width > INLINE_BITS) & (changed != 0))
        if len(wide):
            word[wide] = _peek(self.words, position[wide])
        flips = word >> (_u(64) - width) << trailing
        self.bits[:live] ^= flips * changed
        position += (width * changed).view(np.int64)

    def _window(self, rows: Ints, word: _Words) -> None:
        """Take the new windows of some rows, whose words begin with them."""
        size = word[rows]
        leading, width = size >> _u(59), (size >> _u(53)) & _u(63)
        width[width == 0] = 64
        self.width[rows], self.trailing[rows] = width, _u(64) - leading - width
        self.position[rows] += 11
        word[rows] = size << _u(11)
        self._mark(rows[leading + width > 64], Fault.WINDOW)

    def _mark(self, rows: Ints, fault: Fault) -> None:
        """Note the first fault of some rows; behind its end, a chunk has none but that."""
        if len(rows):
            inside = (self.position[rows] <= self.end[rows]) | (fault is Fault.RUN_OUT)
            rows = rows[inside & (self.faults[rows] == Fault.NONE)]
            self.faults[rows] = fault
