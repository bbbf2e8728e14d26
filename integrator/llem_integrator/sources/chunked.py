"""The frames of a streamed remote read: which chunks of which series each holds, and where.

A frame is a length (varint), the CRC32C of what follows (4 bytes, big-endian), and a ChunkedReadResponse.
Nothing marks the end of all frames. Source: Prometheus, prompb/remote.proto and storage/remote/chunked.go.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from llem_integrator.sources.wire import Kind, fields, read_varint

XOR: Final = 1
HISTOGRAMS: Final = (2, 3, 5, 6)
"""Chunk encodings: floats, and native histograms. Source: prompb/types.proto, Chunk.Encoding."""

_LARGEST_FRAME: Final = 1 << 28
"""Servers send 1 MiB, and one chunk more; a length beyond this is none."""
_BLOCK: Final = 1 << 18
_LENGTH_BYTES: Final = 5
_CRC_BYTES: Final = 4
_CHUNKS_TAG: Final = 0x12
_DATA_FIELD, _TYPE_FIELD = 4, 3
_HEAD: Final = np.array([0x08] + [0x80] * 5 + [0, 0x10] + [0x80] * 5 + [0, 0x18, XOR, 0x22], np.uint8)
"""How a chunk of today begins: two times of six bytes, its type, and the tag of its data."""
_HEAD_MASK: Final = np.array([0xFF] + [0x80] * 6 + [0xFF] + [0x80] * 6 + [0xFF, 0xFF, 0xFF], np.uint8)


class FrameError(ValueError):
    """What is wrong with a frame, which comes first in the text."""


class EncodingError(Exception):
    """Chunks of an encoding that is not read here; `histogram` says that there are no floats in them."""

    def __init__(self, encoding: int) -> None:
        super().__init__(f"chunks of encoding {encoding}")
        self.histogram = encoding in HISTOGRAMS


@dataclass(frozen=True, slots=True)
class Chunks:
    """XOR chunks of one series: where each begins in `data` and its length, (n,); `labels` as on the wire."""

    labels: tuple[bytes, ...]
    data: bytes
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def samples(self) -> int:
        """How many samples they say they have: the first two bytes of each."""
        raw = np.frombuffer(self.data, np.uint8)
        return int(np.sum(raw[self.offsets].astype(np.int64) * 256 + raw[self.offsets + 1]))


def frames(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The messages of a body, each checked; `read` gives as many bytes as asked for, fewer only at its end.

    Raises FrameError that counts the frames.
    """
    blocks = _Blocks(read)
    number = 0
    while head := blocks.peek(_LENGTH_BYTES + _CRC_BYTES):
        number += 1
        try:
            size, used = read_varint(head, 0, min(len(head), _LENGTH_BYTES))
        except ValueError:
            raise FrameError(f"frame {number} has no length: {_shown(head)}") from None
        if size > _LARGEST_FRAME:
            raise FrameError(f"frame {number} says it has {size} bytes: {_shown(head)}")
        whole = blocks.take(used + _CRC_BYTES + size)
        message = whole[used + _CRC_BYTES :]
        if len(message) < size:
            raise FrameError(f"frame {number} is cut short: {len(message)} of {size} bytes")
        if google_crc32c.value(message) != int.from_bytes(whole[used : used + _CRC_BYTES], "big"):
            raise FrameError(f"frame {number} is corrupted: its checksum does not match")
        yield message


class _Blocks:
    """Bytes in large reads, given out in small ones."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read, self._held, self._at = read, b"", 0

    def peek(self, size: int) -> bytes:
        self._fill(size)
        return self._held[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        self._fill(size)
        taken = self._held[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def _fill(self, size: int) -> None:
        missing = size - (len(self._held) - self._at)
        if missing > 0:
            self._held = self._held[self._at :] + self._read(max(_BLOCK, missing))
            self._at = 0


def _shown(head: bytes) -> str:
    return repr(head.decode("ascii", "replace"))


def chunks(message: bytes, frame: int) -> Iterator[Chunks]:
    """The series of a frame's message; raises FrameError that names the frame, and EncodingError."""
    try:
        for field, kind, begin, end in fields(message, 0, len(message)):
            if field == 1 and kind is Kind.BYTES:
                yield _series(message, begin, end)
    except (ValueError, IndexError) as exc:
        raise FrameError(f"frame {frame} holds no list of chunks: {exc}") from exc


def _series(message: bytes, at: int, end: int) -> Chunks:
    """The message ChunkedSeries in [at, end): labels, then chunks."""
    labels: list[bytes] = []
    while at < end and message[at] != _CHUNKS_TAG:
        _, kind, begin, at = next(fields(message, at, end))
        if kind is Kind.BYTES:
            labels.append(message[begin:at])
    bounds = _bounds(message, at, end)
    begins, ends = bounds[::2], bounds[1::2]
    found = _usual(message, begins, ends)
    offsets, lengths = _each(message, begins, ends) if found is None else found
    if np.any(lengths < 2):
        raise ValueError("a chunk without a count")
    return Chunks(tuple(labels), message, offsets, lengths)


def _bounds(message: bytes, at: int, end: int) -> NDArray[np.int64]:
    """Begin and end of each chunk's message, in turn."""
    found = _found(message, at, end)
    return _walked(message, at, end) if found is None else found


def _found(message: bytes, at: int, end: int) -> NDArray[np.int64] | None:
    """The chunks by how each begins; None unless each ends where the next begins, and the last at the end."""
    raw = np.frombuffer(message, np.uint8)[at:end]
    tags = np.flatnonzero(raw[: -len(_HEAD) - 3] == _CHUNKS_TAG)
    low = raw[tags + 1].astype(np.int64)
    long = low >= 0x80
    begins = tags + 2 + long
    alike = (raw[begins] == _HEAD[0]) & (raw[begins + 7] == _HEAD[7]) & (raw[begins + 14] == _HEAD[14])
    tags, begins, low, long = tags[alike], begins[alike], low[alike], long[alike]
    if not len(tags):
        return None
    high = raw[tags + 2].astype(np.int64)
    ends = begins + np.where(long, low & 0x7F | high << 7, low)
    if np.any(long & (high >= 0x80)) or not np.array_equal(tags, np.append(0, ends[:-1])):
        return None
    return at + np.stack([begins, ends], axis=1).ravel() if ends[-1] == len(raw) else None


def _walked(message: bytes, at: int, end: int) -> NDArray[np.int64]:
    """The chunks one by one."""
    bounds: list[int] = []
    while at < end:
        if message[at] != _CHUNKS_TAG:
            raise ValueError(f"no chunk at byte {at}")
        size, at = read_varint(message, at + 1, end)
        bounds += (at, at + size)
        at += size
        if at > end:
            raise ValueError("a chunk reaches beyond its frame")
    return np.array(bounds, np.int64)


def _usual(
    message: bytes, begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Offsets and lengths of the data, if each chunk begins like _HEAD and is as long as its data says."""
    head = len(_HEAD)
    if not len(begins) or np.any(ends - begins < head + 3):
        return None
    raw = np.frombuffer(message, np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(raw, head)
    if np.any((windows[begins] & _HEAD_MASK) != _HEAD):
        return None
    first, second = raw[begins + head].astype(np.int64), raw[begins + head + 1].astype(np.int64)
    long = first >= 0x80
    if np.any(long & (second >= 0x80)):
        return None
    lengths = np.where(long, (first & 0x7F) | second << 7, first)
    offsets = begins + head + 1 + long
    return (offsets, lengths) if np.array_equal(offsets + lengths, ends) else None


def _each(
    message: bytes, begins: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same of chunks of any form, one by one."""
    offsets, lengths = np.empty_like(begins), np.empty_like(begins)
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        encoding, offset, stop = 0, begin, begin
        for field, kind, at, after in fields(message, begin, end):
            if field == _TYPE_FIELD and kind is Kind.VARINT:
                encoding, _ = read_varint(message, at, after)
            elif field == _DATA_FIELD and kind is Kind.BYTES:
                offset, stop = at, after
        if encoding != XOR:
            raise EncodingError(encoding)
        offsets[number], lengths[number] = offset, stop - offset
    return offsets, lengths
