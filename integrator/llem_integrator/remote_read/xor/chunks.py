"""Prometheus's XOR chunks as arrays: the one way in, whichever decoder does the work.

Many chunks at once pay: numpy decodes thousands side by side four times as fast as hundreds.
"""

import numpy as np

from llem_core.errors import ChunkError
from llem_integrator.remote_read.xor.choice import DecoderChoice
from llem_integrator.remote_read.xor.layout import (
    COUNT_BYTES,
    FIRST_BYTES,
    NEXT_BITS,
    SECOND_BITS,
    Bytes,
    DecodeInto,
    Fault,
    Ints,
)
from llem_integrator.series.samples import Times, Values

_choice = DecoderChoice()  # one for the process: numba is loaded once


def expect(samples: int) -> None:
    """Say how many samples are about to come, so that numba is loaded meanwhile where that pays."""
    _choice.expect(samples)


def decode(
    data: bytes | memoryview | Bytes,
    offsets: Ints,
    lengths: Ints,
    *,
    out: tuple[Times, Values] | None = None,
    decode_into: DecodeInto | None = None,
) -> tuple[Times, Values, Ints]:
    """Times (n,) [unix ms], values (n,) and counts (chunks,) of chunks in a buffer, in the order given.

    A chunk (encoding 1: XOR) is `lengths` bytes from `offsets` on and begins with its sample count. Values
    keep their bits, stale markers and other NaNs included; times are as stored, in any order. `out` is
    where to write, if it is large enough: then times and values are views of it, and no new memory is
    touched, which costs more than decoding. `decode_into` is for tests; else the work decides.
    Raises ChunkError for the first chunk that is damaged. Safe to call from many threads at once.
    """
    buffer = np.ascontiguousarray(data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8))
    offsets, lengths = (np.require(numbers, np.int64, ("C", "A")) for numbers in (offsets, lengths))
    counts = _counts(buffer, offsets, lengths)
    samples = int(counts.sum())
    times, values = _room(samples, out)
    decoder = decode_into or _choice.decoder(samples)
    faults = decoder(buffer, offsets, offsets + lengths, counts, times, values)
    if faults.any():
        chunk = int(faults.argmax())  # of a chunk's first fault
        raise _error(chunk, offsets, Fault(int(faults[chunk])).words)
    return times, values, counts


def _counts(buffer: Bytes, offsets: Ints, lengths: Ints) -> Ints:
    """The sample count of each chunk; raises ChunkError where a chunk cannot hold that many."""
    outside = (offsets < 0) | (lengths < 0) | (offsets > len(buffer) - lengths)
    if outside.any():
        chunk = int(outside.argmax())
        what = f"its {lengths[chunk]} bytes are not in the {len(buffer)} bytes that came: truncated"
        raise _error(chunk, offsets, what)
    if (lengths < COUNT_BYTES).any():
        chunk = int((lengths < COUNT_BYTES).argmax())
        raise _error(chunk, offsets, f"truncated: {lengths[chunk]} bytes hold no sample count")
    counts = buffer[offsets].astype(np.int64) << 8 | buffer[offsets + 1]
    if not counts.all():
        raise _error(int((counts == 0).argmax()), offsets, "it counts 0 samples")
    bits = 8 * FIRST_BYTES + SECOND_BITS * (counts > 1) + NEXT_BITS * np.maximum(counts - 2, 0)
    short = bits > 8 * (lengths - COUNT_BYTES)
    if short.any():
        chunk = int(short.argmax())
        what = (
            f"truncated: its {lengths[chunk]} bytes cannot hold the samples that it counts ({counts[chunk]})"
        )
        raise _error(chunk, offsets, what)
    return counts


def _room(samples: int, out: tuple[Times, Values] | None) -> tuple[Times, Values]:
    if out is not None and min(map(len, out)) >= samples:
        return out[0][:samples], out[1][:samples]
    return np.empty(samples, np.int64), np.empty(samples, np.float64)


def _error(chunk: int, offsets: Ints, what: str) -> ChunkError:
    offset = int(offsets[chunk])
    return ChunkError(f"XOR chunk {chunk} at byte {offset}: {what}", chunk, offset)
