"""Decodes XOR chunks with machine code that numba compiles from the functions below (the extra `fast`).

They are plain Python until load() compiles them; numba is imported there and nowhere else. All arithmetic is
in uint64, because numba turns uint64 with int64 into floats. Reads are not checked one by one: once per
sample, the position is compared with the chunk's end, and no sample extends further than SLACK_BYTES beyond.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_integrator.remote_read.xor.layout import (
    COUNT_BYTES,
    INLINE_BITS,
    VARINT_BYTES,
    Bytes,
    ChunkFault,
    DecodeInto,
    Ints,
)
from llem_integrator.series.samples import Times, Values

_Words = NDArray[np.uint64]

SLACK_BYTES: Final = 32
"""More than can be read beyond the end of a chunk: the rest of a value and a varint (19 bytes), or a dod, a
window's size and a word (20 bytes)."""

_NONE: Final = int(ChunkFault.NONE)
_RUN_OUT: Final = int(ChunkFault.RUN_OUT)
_VARINT: Final = int(ChunkFault.VARINT)
_WINDOW: Final = int(ChunkFault.WINDOW)
_u = np.uint64


def load() -> DecodeInto:
    """Return the compiled decoder, if possible from numba's cache; raises ImportError without numba."""
    from numba import njit, types
    from numba.extending import register_jitable

    for called in (_peek, _varint, _head, _dod, _signed, _window, _decode_chunk):
        register_jitable(called)
    read = types.Array(types.int64, 1, "C", readonly=True)
    signature = types.void(
        types.Array(types.uint8, 1, "C", readonly=True),
        *(read, read, read, read),
        types.int64[::1],
        types.uint64[::1],
        types.uint8[::1],
    )
    try:
        compiled = njit(signature, nogil=True, cache=True)(_decode_chunks)
    except (RuntimeError, OSError):  # the cache cannot be written: compile for this process only
        compiled = njit(signature, nogil=True)(_decode_chunks)
    return _with_slack(compiled)


def _with_slack(decode_chunks: Callable[..., None]) -> DecodeInto:
    """Return the decoder for data without slack at its end."""

    def decode_into(
        data: Bytes, offsets: Ints, ends: Ints, counts: Ints, times: Times, values: Values
    ) -> Bytes:
        faults = np.full(len(offsets), ChunkFault.NONE, np.uint8)
        starts = np.cumsum(counts) - counts
        padded = np.append(data, np.zeros(SLACK_BYTES, np.uint8))
        decode_chunks(padded, offsets, ends, counts, starts, times, values.view(np.uint64), faults)
        return faults

    return decode_into


def _decode_chunks(
    data: Bytes,
    offsets: Ints,
    ends: Ints,
    counts: Ints,
    starts: Ints,
    times: Times,
    bits: _Words,
    faults: Bytes,
) -> None:
    """Fill times and the bits of values (n,), each chunk from its start on, and faults (chunks,)."""
    for chunk in range(len(offsets)):
        faults[chunk] = _decode_chunk(
            data, _u(offsets[chunk]), _u(ends[chunk]), counts[chunk], starts[chunk], times, bits
        )


def _decode_chunk(
    data: Bytes, offset: np.uint64, end: np.uint64, count: int, start: int, times: Times, bits: _Words
) -> int:
    """Fill the samples of one chunk up to its first ChunkFault, which it returns."""
    limit = end * _u(8)
    unix_ms, value, delta_ms, position, fault = _head(data, (offset + _u(COUNT_BYTES)) * _u(8), count)
    times[start], bits[start] = unix_ms, value
    if fault != _NONE or position > limit:
        return _RUN_OUT if position > limit else fault
    # Until a window is set, it is the whole value, as in Prometheus's own reader.
    width, trailing = _u(64), _u(0)
    for place in range(start + 1, start + count):
        word = _peek(data, position)
        if place > start + 1:
            if word >> _u(63):
                prefix, size = _dod(word)
                delta_ms += _signed(_peek(data, position + prefix) >> (_u(64) - size), size)
                position += prefix + size
                word = _peek(data, position)
            else:
                position += _u(1)
                word <<= _u(1)
        position += _u(1)
        if word >> _u(63):
            word <<= _u(1)
            position += _u(1)
            if word >> _u(63):
                width, trailing, fault = _window(word << _u(1))
                position += _u(11)
                word <<= _u(11)
                if fault != _NONE:
                    break
            word = word << _u(1) if width <= _u(INLINE_BITS) else _peek(data, position)
            value ^= (word >> (_u(64) - width)) << trailing
            position += width
        unix_ms += delta_ms
        times[place], bits[place] = unix_ms, value
        if position > limit:
            break
    return _RUN_OUT if position > limit else fault


def _head(
    data: Bytes, position: np.uint64, count: int
) -> tuple[np.int64, np.uint64, np.int64, np.uint64, int]:
    """Return the first time, the first value as bits, the first step, the next position, and the fault."""
    zigzag, position, fault = _varint(data, position)
    if fault != _NONE:
        return np.int64(0), _u(0), np.int64(0), position, fault
    unix_ms = np.int64(zigzag >> _u(1)) ^ -np.int64(zigzag & _u(1))
    value = _peek(data, position)
    position += _u(64)
    delta_ms = _u(0)
    if count > 1:
        delta_ms, position, fault = _varint(data, position)
    return unix_ms, value, np.int64(delta_ms), position, fault


def _peek(data: Bytes, position: np.uint64) -> np.uint64:
    """Return the 64 bits at a position. LLVM turns the eight loads into one."""
    at, shift = position >> _u(3), position & _u(7)
    word = (
        (_u(data[at]) << _u(56))
        | (_u(data[at + _u(1)]) << _u(48))
        | (_u(data[at + _u(2)]) << _u(40))
        | (_u(data[at + _u(3)]) << _u(32))
        | (_u(data[at + _u(4)]) << _u(24))
        | (_u(data[at + _u(5)]) << _u(16))
        | (_u(data[at + _u(6)]) << _u(8))
        | _u(data[at + _u(7)])
    )
    return (word << shift) | (_u(data[at + _u(8)]) >> (_u(8) - shift))


def _varint(data: Bytes, position: np.uint64) -> tuple[np.uint64, np.uint64, int]:
    """Return the unsigned varint at a whole byte, the position after it, and its fault."""
    number = _u(0)
    for place in range(VARINT_BYTES):
        byte = _u(data[position >> _u(3)])
        position += _u(8)
        number |= (byte & _u(127)) << _u(7 * place)
        if byte < _u(128) and (place < VARINT_BYTES - 1 or byte < _u(2)):
            return number, position, _NONE
    return number, position, _VARINT


def _dod(word: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the sizes in bits of a dod that is not 0: of its prefix and of its number."""
    if word >> _u(62) == _u(0b10):
        return _u(2), _u(14)
    if word >> _u(61) == _u(0b110):
        return _u(3), _u(17)
    if word >> _u(60) == _u(0b1110):
        return _u(4), _u(20)
    return _u(4), _u(64)


def _signed(number: np.uint64, size: np.uint64) -> np.int64:
    """Return a number of `size` bits as a signed one, in the range (-2^(size-1), 2^(size-1)]."""
    if size < _u(64) and number > _u(1) << (size - _u(1)):
        number -= _u(1) << size
    return np.int64(number)


def _window(word: np.uint64) -> tuple[np.uint64, np.uint64, int]:
    """Return a window's width, the number of zeros after it, and its fault."""
    leading, width = word >> _u(59), (word >> _u(53)) & _u(63)
    if width == _u(0):
        width = _u(64)
    if leading + width > _u(64):
        return width, _u(0), _WINDOW
    return width, _u(64) - leading - width, _NONE
