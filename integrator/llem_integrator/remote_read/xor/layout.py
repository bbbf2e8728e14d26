"""The layout of Prometheus's XOR chunks (encoding 1), and the faults that a chunk can have.

    uint16, big-endian        the number of samples
    varint t, 64 bits v       the first sample: its time [unix ms] and its value
    uvarint delta, value      the second: the step from the first time [ms], and its value as below
    dod, value                each further sample: the change of the step, and its value

A dod (delta of deltas) is `0` for no change, or a prefix and a signed number: `10` and 14 bits, `110` and 17,
`1110` and 20, `1111` and 64. A value is XORed with the previous one: `0` for no change; `10` and the bits in
the current window; `11`, 5 bits of leading zeros, 6 bits of the new window's width (0 means 64), and its
bits.

Source: Prometheus, tsdb/docs/format/chunks.md and tsdb/chunkenc/xor.go.
"""

from enum import IntEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.samples import Times, Values

COUNT_BYTES: Final = 2
VARINT_BYTES: Final = 10
"""The longest varint. Only one bit of its last byte lies within 64 bits."""
FIRST_BYTES: Final = 1 + 8
"""The smallest first sample: a varint of one byte, and the value."""
SECOND_BITS: Final = 8 + 1
"""The smallest second sample: a varint of one byte, and an unchanged value."""
NEXT_BITS: Final = 1 + 1
"""The smallest further sample."""
INLINE_BITS: Final = 64 - 1 - 2 - 11
"""A window of at most this width lies in the first 64 bits of its sample, after dod, prefix and size."""

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class DecodeInto(Protocol):
    """A decoder. It fills times and values (n,), chunk after chunk, and returns a ChunkFault for each chunk.

    Chunks are at [offsets, ends) of the data and have `counts` samples. Nothing outside the data is read. The
    samples of a chunk after its fault are undefined.
    """

    def __call__(
        self, data: Bytes, offsets: Ints, ends: Ints, counts: Ints, times: Times, values: Values, /
    ) -> Bytes: ...


class ChunkFault(IntEnum):
    """The first fault that a decoder found in a chunk."""

    NONE = 0
    RUN_OUT = 1
    VARINT = 2
    WINDOW = 3

    @property
    def words(self) -> str:
        """The fault in words."""
        return {
            ChunkFault.NONE: "no fault",
            ChunkFault.RUN_OUT: "truncated: it ends before its last sample",
            ChunkFault.VARINT: "a varint is longer than 64 bits",
            ChunkFault.WINDOW: "the window of a value is wider than 64 bits",
        }[self]
