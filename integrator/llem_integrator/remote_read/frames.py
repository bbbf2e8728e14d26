"""The frames of a streamed remote read: which chunks of which series each holds, and where.

A frame is a length (varint), the CRC32C of what follows (4 bytes, big-endian), and a ChunkedReadResponse.
Nothing marks the end of all frames. Source: Prometheus, prompb/remote.proto and storage/remote/chunked.go.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from llem_integrator.remote_read.wire import Kind, fields, read_varint

Ints = NDArray[np.int64]

XOR: Final = 1
HISTOGRAMS: Final = (2, 3, 5, 6)
"""Chunk encodings: floats, and native histograms. Source: prompb/types.proto, Chunk.Encoding."""

_LARGEST_FRAME: Final = 1 << 28
"""Servers send 1 MiB, and one chunk more; a length beyond this is none."""
_BLOCK: Final = 1 << 19
"""Some 2000 chunks: a quarter of a slab, so that two workers share it."""
_LENGTH_BYTES: Final = 5
_CRC_BYTES: Final = 4
_LABEL_TAG: Final = 0x0A
_CHUNKS_TAG: Final = 0x12
_CHUNKS_FIELD, _TYPE_FIELD, _DATA_FIELD = 2, 3, 4
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


class Frame(NamedTuple):
    """A frame's message: bytes [begin, end) of what was read."""

    number: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Section:
    """One series' chunks of one frame: bytes [begin, end) of what was read; `labels` as on the wire."""

    frame: int
    labels: tuple[bytes, ...]
    begin: int
    end: int


def read_frames(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, list[Frame]]]:
    """What is read of a body, a part at a time, and the frames that are whole in it, each checked.

    `read` gives as many bytes as asked for, fewer only at the end. Raises FrameError that counts the frames.
    """
    held, number, missing = b"", 0, 0
    while True:
        block = read(max(_BLOCK, missing))
        data = held + block if held else block
        found: list[Frame] = []
        at = 0
        while at < len(data):
            frame, missing = _frame(data, at, number + 1, last=not block)
            if frame is None:
                break
            found.append(frame)
            number, at = frame.number, frame.end
        if found:
            yield data, found
        if not block:
            return
        held = data[at:]


def _frame(data: bytes, at: int, number: int, *, last: bool) -> tuple[Frame | None, int]:
    """The frame that begins at `at`; None with what is missing of it, unless this is the last to come."""
    head = data[at : at + _LENGTH_BYTES]
    try:
        size, used = read_varint(head, 0, len(head))
    except ValueError:
        if len(head) < _LENGTH_BYTES and not last:
            return None, 0
        raise FrameError(f"frame {number} has no length: {head!r}") from None
    if size > _LARGEST_FRAME:
        raise FrameError(f"frame {number} says it has {size} bytes: {head!r}")
    begin = at + used + _CRC_BYTES
    missing = begin + size - len(data)
    if missing > 0:
        if last:
            raise FrameError(f"frame {number} is cut short: {missing} bytes are missing")
        return None, missing
    if google_crc32c.value(data[begin : begin + size]) != int.from_bytes(data[at + used : begin], "big"):
        raise FrameError(f"frame {number} is corrupted: its checksum does not match")
    return Frame(number, begin, begin + size), 0


def sections(data: bytes, frame: Frame) -> Iterator[Section]:
    """The series of a frame's message; raises FrameError that names the frame."""
    try:
        for field, kind, begin, end in fields(data, frame.begin, frame.end):
            if field == 1 and kind is Kind.BYTES:
                yield _section(data, frame.number, begin, end)
    except (ValueError, IndexError) as exc:
        raise FrameError(f"frame {frame.number} holds no list of chunks: {exc}") from exc


def _section(message: bytes, frame: int, at: int, end: int) -> Section:
    """The message ChunkedSeries in [at, end): labels, then chunks."""
    labels: list[bytes] = []
    while at < end and (tag := message[at]) != _CHUNKS_TAG:
        if tag == _LABEL_TAG and message[at + 1] < 0x80:  # most of all
            begin = at + 2
            at = begin + message[at + 1]
            labels.append(message[begin:at])
            continue
        number, kind, begin, at = next(fields(message, at, end))
        if number == 1 and kind is Kind.BYTES:
            labels.append(message[begin:at])
    if at > end:
        raise ValueError("labels reach beyond their series")
    return Section(frame, tuple(labels), at, end)


def located(data: bytes, found: Sequence[Section]) -> tuple[Ints, Ints, Ints]:
    """Offsets and lengths of the XOR chunks (n,) of sections that follow each other in `data`; their counts.

    Raises FrameError and EncodingError.
    """
    at_once = _at_once(data, found)
    if at_once is not None:
        return at_once
    places = [_each(data, one) for one in found]
    offsets = [offset for one in places for offset, _ in one]
    lengths = [length for one in places for _, length in one]
    return (
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        np.array(list(map(len, places)), np.int64),
    )


def _at_once(data: bytes, found: Sequence[Section]) -> tuple[Ints, Ints, Ints] | None:
    """The chunks by how each begins.

    None unless all are as long as they say, and each ends where the next or its section does.
    """
    raw = np.frombuffer(data, np.uint8, found[-1].end if found else 0)  # behind it a frame may begin
    tags = np.flatnonzero(raw[: -len(_HEAD) - 4] == _CHUNKS_TAG)
    low = raw[tags + 1].astype(np.int64)
    begins = tags + 2 + (low >= 0x80)
    alike = (raw[begins] == _HEAD[0]) & (raw[begins + 7] == _HEAD[7]) & (raw[begins + 14] == _HEAD[14])
    tags, begins = tags[alike], begins[alike]
    if not len(tags):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(raw, len(_HEAD))
    if np.any((windows[begins] & _HEAD_MASK) != _HEAD):
        return None
    sizes, _ = _two_bytes(raw, tags + 1)
    lengths, used = _two_bytes(raw, begins + len(_HEAD))
    ends, offsets = begins + sizes, begins + len(_HEAD) + used
    breaks = np.flatnonzero(tags[1:] != ends[:-1])
    first = tags[np.append(0, breaks + 1)]
    last = ends[np.append(breaks, len(ends) - 1)]
    whole = np.array_equal(first, [one.begin for one in found])
    if not whole or not np.array_equal(last, [one.end for one in found]):
        return None
    if np.any(offsets + lengths != ends) or np.any(lengths < 2):
        return None
    return offsets, lengths, np.diff(np.concatenate([[-1], breaks, [len(tags) - 1]]))


def _two_bytes(raw: NDArray[np.uint8], at: Ints) -> tuple[Ints, Ints]:
    """The varints at these places, and how many bytes they have; of more than two bytes they are wrong."""
    low, high = raw[at].astype(np.int64), raw[at + 1].astype(np.int64)
    long = low >= 0x80
    return np.where(long, low & 0x7F | high << 7, low), 1 + long


def _each(data: bytes, section: Section) -> list[tuple[int, int]]:
    """Offset and length of each chunk of any form, one by one."""
    try:
        return [
            _place(data, begin, end)
            for field, kind, begin, end in fields(data, section.begin, section.end)
            if field == _CHUNKS_FIELD and kind is Kind.BYTES
        ]
    except ValueError as exc:
        raise FrameError(f"frame {section.frame} holds no list of chunks: {exc}") from exc


def _place(data: bytes, begin: int, end: int) -> tuple[int, int]:
    encoding, offset, stop = 0, begin, begin
    for field, kind, at, after in fields(data, begin, end):
        if field == _TYPE_FIELD and kind is Kind.VARINT:
            encoding, _ = read_varint(data, at, after)
        elif field == _DATA_FIELD and kind is Kind.BYTES:
            offset, stop = at, after
    if encoding != XOR:
        raise EncodingError(encoding)
    return offset, stop - offset


def samples_in(data: bytes, offsets: Ints, lengths: Ints) -> int:
    """How many samples chunks say they have: the first two bytes of each that has two."""
    raw = np.frombuffer(data, np.uint8)
    places = offsets[lengths >= 2]
    return int(np.sum(raw[places].astype(np.int64) * 256 + raw[places + 1]))
