"""Decodes Prometheus's XOR chunks to arrays, with whichever decoder is loaded.

Many chunks at once pay: numpy decodes thousands side by side four times as fast as hundreds.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llem_core.errors import ChunkError
from llem_integrator.remote_read.xor.choice import DecoderChoice
from llem_integrator.remote_read.xor.layout import (
    COUNT_BYTES,
    FIRST_BYTES,
    NEXT_BITS,
    SECOND_BITS,
    Bytes,
    ChunkFault,
    DecodeInto,
    Ints,
)
from llem_integrator.series.samples import Times, Values

_choice = DecoderChoice()  # one for the process: numba is loaded once


def expect(samples: int) -> None:
    """Announce work, so that numba is loaded in advance where it pays."""
    _choice.expect(samples)


def decode(
    data: bytes | memoryview | Bytes,
    offsets: Ints,
    lengths: Ints,
    *,
    decode_into: DecodeInto | None = None,
) -> tuple[Times, Values, Ints]:
    """Return times (n,) [unix ms], values (n,) and sample counts (chunks,), in the order of the chunks.

    A chunk (encoding 1: XOR) is `lengths` bytes from `offsets` on and begins with its sample count. Values
    keep all their bits, so stale markers and other NaNs are preserved. Times are in the order in which they
    are stored. `decode_into` is for tests. Raises ChunkError for the first damaged chunk. Thread-safe.
    """
    buffer = np.ascontiguousarray(data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8))
    offsets, lengths = (np.require(numbers, np.int64, ("C", "A")) for numbers in (offsets, lengths))
    counts = _counts(buffer, offsets, lengths)
    samples = int(counts.sum())
    times, values = np.empty(samples, np.int64), np.empty(samples, np.float64)
    decoder = decode_into or _choice.decoder(samples)
    faults = decoder(buffer, offsets, offsets + lengths, counts, times, values)
    _check(faults != ChunkFault.NONE, offsets, lambda chunk: ChunkFault(int(faults[chunk])).words)
    return times, values, counts


def _counts(buffer: Bytes, offsets: Ints, lengths: Ints) -> Ints:
    """Return the sample count of each chunk; raises ChunkError if a chunk is too short for its count."""
    outside = (offsets < 0) | (lengths < 0) | (offsets > len(buffer) - lengths)
    size = f"the {len(buffer)} bytes that were received"
    _check(outside, offsets, lambda chunk: f"truncated: its {lengths[chunk]} bytes exceed {size}")
    short = lengths < COUNT_BYTES
    _check(short, offsets, lambda chunk: f"truncated: {lengths[chunk]} bytes have no sample count")
    counts = buffer[offsets].astype(np.int64) << 8 | buffer[offsets + 1]
    _check(counts == 0, offsets, lambda _: "its sample count is 0")
    bits = 8 * FIRST_BYTES + SECOND_BITS * (counts > 1) + NEXT_BITS * np.maximum(counts - 2, 0)
    short = bits > 8 * (lengths - COUNT_BYTES)
    too_few = "truncated: {} bytes are too few for {} samples"
    _check(short, offsets, lambda chunk: too_few.format(lengths[chunk], counts[chunk]))
    return counts


def _check(bad: NDArray[np.bool_], offsets: Ints, words: Callable[[int], str]) -> None:
    """Raise ChunkError for the first bad chunk."""
    if bad.any():
        chunk = int(bad.argmax())
        offset = int(offsets[chunk])
        raise ChunkError(f"XOR chunk {chunk} at byte {offset}: {words(chunk)}", chunk, offset)
