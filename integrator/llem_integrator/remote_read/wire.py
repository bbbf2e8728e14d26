"""The encoding of protocol buffers, as far as remote read needs it.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

_VARINT_BYTES: Final = 10


class WireType(IntEnum):
    """How the value of a field is encoded."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


def varint(number: int) -> bytes:
    """Return a non-negative integer below 2^64 as a varint."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def number_field(field: int, number: int) -> bytes:
    """Return an integer field; a negative number is encoded as two's complement."""
    return varint(field << 3 | WireType.VARINT) + varint(number & (2**64 - 1))


def bytes_field(field: int, value: bytes) -> bytes:
    """Return a field of bytes, text or a message."""
    return varint(field << 3 | WireType.BYTES) + varint(len(value)) + value


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the varint at `at` and the place after it; raises ValueError if it is invalid."""
    number = shift = 0
    for place in range(at, min(end, at + _VARINT_BYTES)):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (2**64 - 1), place + 1
        shift += 7
    raise ValueError(f"no valid number at byte {at}")


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, WireType, int, int]]:
    """Yield number, type, begin and end of each field's value in the message [at, end).

    Raises ValueError if a field is invalid.
    """
    while at < end:
        begin = at
        tag, at = read_varint(data, at, end)
        wire_type = WireType(tag & 7)  # raises ValueError for groups and unknown types
        stop = at
        match wire_type:
            case WireType.VARINT:
                _, stop = read_varint(data, at, end)
            case WireType.FIXED64:
                stop = at + 8
            case WireType.FIXED32:
                stop = at + 4
            case WireType.BYTES:
                size, at = read_varint(data, at, end)
                stop = at + size
        if stop > end:
            raise ValueError(f"the field at byte {begin} exceeds its message")
        yield tag >> 3, wire_type, at, stop
        at = stop
