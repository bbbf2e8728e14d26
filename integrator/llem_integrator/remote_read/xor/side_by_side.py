"""Decodes XOR chunks with numpy alone: many side by side; step k decodes the k-th sample of each.

A row is a chunk. Rows are ordered by their number of samples, descending, so that the rows with samples left
are always the first `live` ones. Positions count bits from the first bit of the first word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from llem_integrator.remote_read.xor.layout import (
    COUNT_BYTES,
    INLINE_BITS,
    VARINT_BYTES,
    Bytes,
    ChunkFault,
    Ints,
)
from llem_integrator.series.samples import Times, Values

_Bits = NDArray[np.uint64]
_ONE: Final = np.uint64(1)
_Number = TypeVar("_Number", np.int64, np.float64)

GROUP_ROWS: Final = 4000
"""Rows decoded at once: enough to outweigh the cost of a numpy call, few enough for the caches. Not a power
of two, because then the steps of one row would compete for the same cache lines."""
_GROUP_CELLS: Final = 1 << 20
_WIDE_STEPS: Final = 8
"""Steps after which it is checked again whether any window is wide."""
_DOD_PREFIX_BITS: Final = np.array([2, 2, 2, 2, 3, 3, 4, 4])
"""Sizes by the three bits after the first bit of a dod: 0xx, 10x, 110 and 111."""
_DOD_BITS: Final = np.array([14, 14, 14, 14, 17, 17, 20, 64])


def decode_into(data: Bytes, offsets: Ints, ends: Ints, counts: Ints, times: Times, values: Values) -> Bytes:
    """Fill times and values (n,), chunk after chunk; returns a ChunkFault for each chunk."""
    faults = np.zeros(len(offsets), np.uint8)
    first, last = int(offsets.min(initial=len(data))), int(ends.max(initial=0))
    words = _Words.of(data[first:last])
    stops = np.cumsum(counts)
    for begin, end in _groups(counts):
        group = slice(begin, end)
        order = np.argsort(-counts[group], kind="stable")
        rows = _Rows.at(words, offsets[group][order] - first, ends[group][order] - first)
        row_times, row_values = rows.decode(counts[group][order])
        back = np.argsort(order)
        out = slice(int(stops[begin] - counts[begin]), int(stops[end - 1]))
        _lay_out(row_times, back, counts[group], times[out])
        _lay_out(row_values.view(np.float64), back, counts[group], values[out])
        faults[group] = rows.faults[back]
    return faults


def _groups(counts: Ints) -> Iterator[tuple[int, int]]:
    """Yield ranges of chunks to decode at once, bounded in rows and in cells (rows x most samples)."""
    spans = [(at, min(at + GROUP_ROWS, len(counts))) for at in range(0, len(counts), GROUP_ROWS)][::-1]
    while spans:
        begin, end = spans.pop()
        if end - begin > 1 and (end - begin) * int(counts[begin:end].max()) > _GROUP_CELLS:
            middle = (begin + end) // 2
            spans += [(middle, end), (begin, middle)]
        else:
            yield begin, end


def _lay_out(steps: NDArray[_Number], back: Ints, counts: Ints, out: NDArray[_Number]) -> None:
    """Copy the columns of (steps, rows) to `out`, chunk after chunk in their original order.

    Consecutive chunks of one length are consecutive columns.
    """
    firsts = [0, *((counts[1:] != counts[:-1]).nonzero()[0] + 1).tolist(), len(counts)]
    begin = 0
    for first, last in pairwise(firsts):
        count, column = int(counts[first]), int(back[first])
        end = begin + count * (last - first)
        out[begin:end].reshape(-1, count)[:] = steps[:count, column : column + last - first].T
        begin = end


@dataclass(frozen=True, slots=True)
class _Words:
    """The bits as words of 64, and the next word of each, shifted by one so that no later shift is by 64."""

    here: _Bits
    after: _Bits

    @classmethod
    def of(cls, data: Bytes) -> "_Words":
        """Return the bytes with zeros after them as words."""
        padded = np.zeros(len(data) // 8 * 8 + 24, np.uint8)
        padded[: len(data)] = data
        words = padded.view(">u8").astype(np.uint64)
        return cls(words[:-1], words[1:] >> _ONE)

    def peek(self, position: Ints) -> _Bits:
        """Return the 64 bits at each position; positions after the end give the last word."""
        at, shift = position >> 6, (position & 63).view(np.uint64)
        word = self.here.take(at, mode="clip")
        word <<= shift
        shift ^= 63
        after = self.after.take(at, mode="clip")
        after >>= shift
        word |= after
        return word


@dataclass(slots=True)
class _Rows:
    """The state of each chunk's decoder, all arrays (rows,)."""

    words: _Words
    end: Ints
    position: Ints
    unix_ms: Times
    delta_ms: Times
    bits: _Bits
    width: Ints
    unused: _Bits
    """64 - width."""
    trailing: _Bits
    faults: Bytes
    wide: bool = True
    """Whether any window may be too wide to lie in the first word of its sample."""

    @classmethod
    def at(cls, words: _Words, offsets: Ints, ends: Ints) -> "_Rows":
        """Return the state before the first sample of each chunk."""
        rows = len(offsets)
        position, (unix_ms, delta_ms) = (offsets + COUNT_BYTES) * 8, np.zeros((2, rows), np.int64)
        bits, unused, trailing = np.zeros((3, rows), np.uint64)
        # Until a window is set, it is the whole value, as in Prometheus's own reader.
        width = np.full(rows, 64)
        faults = np.full(rows, ChunkFault.NONE, np.uint8)
        return cls(words, ends * 8, position, unix_ms, delta_ms, bits, width, unused, trailing, faults)

    def decode(self, counts: Ints) -> tuple[Times, _Bits]:
        """Return times and values (steps, rows). `counts` must descend; cells beyond them are undefined."""
        steps, rows = int(counts[0]), len(counts)
        times, values = np.empty((steps, rows), np.int64), np.empty((steps, rows), np.uint64)
        lives = np.searchsorted(-counts, -np.arange(steps), side="left").tolist()
        self._first()
        times[0], values[0] = self.unix_ms, self.bits
        for step, live in enumerate(lives[1:], start=1):
            word = self._second(live) if step == 1 else self._dod(live)
            self.unix_ms[:live] += self.delta_ms[:live]
            self._value(live, word)
            times[step, :live], values[step, :live] = self.unix_ms[:live], self.bits[:live]
            if step % _WIDE_STEPS == 0:
                self.wide = bool((self.width[:live] > INLINE_BITS).any())
        self._mark((self.position > self.end).nonzero()[0], ChunkFault.RUN_OUT)
        return times, values

    def _first(self) -> None:
        zigzag = self._varint(len(self.position))
        self.unix_ms[:] = (zigzag >> 1).view(np.int64) ^ -(zigzag & 1).view(np.int64)
        self.bits[:] = self.words.peek(self.position)
        self.position += 64

    def _second(self, live: int) -> _Bits:
        """Decode the first step of each row; returns the next word, as _dod does."""
        self.delta_ms[:live] = self._varint(live).view(np.int64)
        self.position[:live] -= 1
        return self.words.peek(self.position[:live] + 1) >> _ONE

    def _varint(self, live: int) -> _Bits:
        """Decode an unsigned varint of each row."""
        numbers, rows = np.zeros(live, np.uint64), np.arange(live)
        for place in range(VARINT_BYTES):
            byte = self.words.peek(self.position[rows]) >> 56
            numbers[rows] |= (byte & 127) << 7 * place
            self.position[rows] += 8
            if place == VARINT_BYTES - 1:
                self._mark(rows[byte > 1], ChunkFault.VARINT)
            rows = rows[byte > 127]
            if not len(rows):
                break
        return numbers

    def _dod(self, live: int) -> _Bits:
        """Decode the dod of each row; returns the next word less one bit, and stays at that bit."""
        word = self.words.peek(self.position[:live])
        rows = (word >> 63).nonzero()[0]
        if len(rows):
            kind = ((word[rows] << 1) >> 61).view(np.int64)
            size = _DOD_BITS[kind]
            start = self.position[rows] + _DOD_PREFIX_BITS[kind]
            number = (self.words.peek(start) >> (64 - size).view(np.uint64)).view(np.int64)
            half = np.int64(1) << (size - 1)
            self.delta_ms[rows] += np.where((size < 64) & (number > half), number - 2 * half, number)
            self.position[rows] = start + size - 1
            word[rows] = self.words.peek(start + size) >> _ONE
        return word

    def _value(self, live: int, word: _Bits) -> None:
        """Decode the value of each row, which follows the first bit of the word."""
        position = self.position[:live]
        changed = word >> 62
        rows = (word >> 61 == 3).nonzero()[0]
        word <<= 3
        signed = changed.view(np.int64)
        position += 2
        position += signed
        if len(rows):
            self._window(rows, word)
        if self.wide:
            some = (signed * self.width[:live] > INLINE_BITS).nonzero()[0]
            word[some] = self.words.peek(position[some])
        word >>= self.unused[:live]
        word <<= self.trailing[:live]
        word *= changed
        self.bits[:live] ^= word
        position += signed * self.width[:live]

    def _window(self, rows: Ints, word: _Bits) -> None:
        """Decode the new windows of some rows, whose words begin with them."""
        size = word[rows]
        leading, width = (size >> 59).view(np.int64), (size >> 53 & 63).view(np.int64)
        width[width == 0] = 64
        self.width[rows], self.unused[rows] = width, 64 - width
        self.trailing[rows] = 64 - leading - width
        self.position[rows] += 11
        word[rows] = size << 11
        self.wide |= bool((width > INLINE_BITS).any())
        self._mark(rows[leading + width > 64], ChunkFault.WINDOW)

    def _mark(self, rows: Ints, fault: ChunkFault) -> None:
        """Record a fault of some rows unless they have one; after its end, a chunk can only run out."""
        if len(rows):
            inside = (self.position[rows] <= self.end[rows]) | (fault is ChunkFault.RUN_OUT)
            rows = rows[inside & (self.faults[rows] == ChunkFault.NONE)]
            self.faults[rows] = fault
