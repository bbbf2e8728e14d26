"""The layout of Prometheus's XOR chunks (encoding 1), and what can be wrong with one.

    uint16, big-endian        how many samples follow
    varint t, 64 bits v       the first
    uvarint delta, value      the second: its time's distance [ms], and its value as below
    dod, value                each further one: the change of the distance, and its value

A dod is `0` for none, or a prefix and a signed number: `10` and 14 bits, `110` and 17, `1110` and 20, `1111`
and 64. A value is XORed with the one before it: `0` for no change; `10` and the bits of the window that is in
use; `11`, 5 bits of leading zeros, 6 bits of the new window's width (0 is 64), and its bits.

Source: Prometheus, tsdb/docs/format/chunks.md and tsdb/chunkenc/xor.go.
"""

from enum import IntEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.samples import Times, Values

COUNT_BYTES: Final = 2
VARINT_BYTES: Final = 10
"""The longest varint; of its last byte only one bit lies within 64."""
FIRST_BYTES: Final = 1 + 8
"""The least that the first sample takes: a varint of one byte, and the value."""
SECOND_BITS: Final = 8 + 1
"""The least that the second takes: a varint of one byte, and an unchanged value."""
NEXT_BITS: Final = 1 + 1
"""The least that any other takes."""
INLINE_BITS: Final = 64 - 1 - 2 - 11
"""A window up to here lies in the 64 bits that its sample begins with, behind dod, prefix and size."""

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class DecodeInto(Protocol):
    """A decoder: fills times and values (n,), chunk after chunk, and returns a Fault for each chunk.

    Chunks lie at [offsets, ends) of the data, counts say how many samples each must have. Nothing outside
    the data is read, whatever is in it. The values of a chunk with a fault are undefined from there on.
    """

    def __call__(
        self, data: Bytes, offsets: Ints, ends: Ints, counts: Ints, times: Times, values: Values, /
    ) -> Bytes: ...


class Fault(IntEnum):
    """What a decoder found wrong inside a chunk."""

    NONE = 0
    RUN_OUT = 1
    VARINT = 2
    WINDOW = 3

    @property
    def words(self) -> str:
        return {
            Fault.NONE: "nothing is wrong",
            Fault.RUN_OUT: "its bits run out before its last sample",
            Fault.VARINT: "a varint is longer than 64 bits",
            Fault.WINDOW: "a value's window is wider than 64 bits",
        }[self]
