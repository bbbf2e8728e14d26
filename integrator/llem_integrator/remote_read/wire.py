"""Protocol buffers on the wire, as much as remote read needs.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from enum import IntEnum

_VARINT_BYTES = 10


class Kind(IntEnum):
    """How a field's value is laid out."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


def varint(number: int) -> bytes:
    """A whole number below 2^64; a negative one as two's complement."""
    number &= 2**64 - 1
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def number_field(field: int, number: int) -> bytes:
    return varint(field << 3 | Kind.VARINT) + varint(number)


def bytes_field(field: int, value: bytes) -> bytes:
    return varint(field << 3 | Kind.BYTES) + varint(len(value)) + value


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, and where what follows begins; raises ValueError where none ends before `end`."""
    number = shift = 0
    for place in range(at, min(end, at + _VARINT_BYTES)):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (2**64 - 1), place + 1
        shift += 7
    raise ValueError(f"no number at byte {at}")


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, Kind, int, int]]:
    """Number and kind of each field of the message in [at, end), and where its value begins and ends.

    Raises ValueError at what is no field.
    """
    while at < end:
        begin = at
        key, at = read_varint(data, at, end)
        kind = Kind(key & 7)  # ValueError: a group, or nothing known
        stop = at
        match kind:
            case Kind.VARINT:
                _, stop = read_varint(data, at, end)
            case Kind.FIXED64:
                stop = at + 8
            case Kind.FIXED32:
                stop = at + 4
            case Kind.BYTES:
                size, at = read_varint(data, at, end)
                stop = at + size
        if stop > end:
            raise ValueError(f"the field at byte {begin} reaches beyond its message")
        yield key >> 3, kind, at, stop
        at = stop


def signed(number: int) -> int:
    """A varint's 64 bits as an int64."""
    return number - 2**64 if number >= 2**63 else number
