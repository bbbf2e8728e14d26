"""The frames of a streamed remote read.

A frame is a length (varint), the CRC32C of its message (4 bytes, big-endian), and the message. Nothing marks
the end of the last frame. Source: Prometheus, storage/remote/chunked.go.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import google_crc32c

from llem_integrator.remote_read.wire import read_varint

_LARGEST_FRAME: Final = 1 << 28
"""Servers send 1 MiB and at most one chunk more, so a larger length is invalid."""
_BLOCK: Final = 1 << 19
"""About 2000 chunks: a quarter of a slab, so that two decoders share a slab."""
_LENGTH_BYTES: Final = 5
_CRC_BYTES: Final = 4


class FrameError(ValueError):
    """A frame is invalid. The text begins with the number of the frame."""


class Frame(NamedTuple):
    """The message of a frame: bytes [begin, end) of the data."""

    number: int
    begin: int
    end: int


def read_frames(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, list[Frame]]]:
    """Yield the data of a body in parts, each with the frames that are complete in it.

    `read` must return as many bytes as requested, and fewer only at the end. Raises FrameError if a frame is
    truncated or its checksum is wrong.
    """
    data, number, missing = b"", 1, 0
    while block := read(max(_BLOCK, missing)):
        data = data + block if data else block
        complete: list[Frame] = []
        at = missing = 0
        while at < len(data):
            frame, missing = _frame(data, at, number)
            if frame is None:
                break
            complete.append(frame)
            number, at = number + 1, frame.end
        if complete:
            yield data, complete
        data = data[at:]
    if data:
        raise FrameError(f"frame {number} is truncated: {missing} bytes are missing")


def _frame(data: bytes, at: int, number: int) -> tuple[Frame | None, int]:
    """Return the frame at `at`, or None and how many of its bytes are missing at least."""
    head = data[at : at + _LENGTH_BYTES]
    try:
        size, used = read_varint(head, 0, len(head))
    except ValueError:
        if len(head) < _LENGTH_BYTES:
            return None, _LENGTH_BYTES - len(head)
        raise FrameError(f"frame {number} has no valid length: {head!r}") from None
    if size > _LARGEST_FRAME:
        raise FrameError(f"frame {number} has an invalid length of {size} bytes: {head!r}")
    begin = at + used + _CRC_BYTES
    end = begin + size
    if end > len(data):
        return None, end - len(data)
    if google_crc32c.value(data[begin:end]) != int.from_bytes(data[at + used : begin], "big"):
        raise FrameError(f"frame {number} is corrupted: its checksum does not match")
    return Frame(number, begin, end), 0
