"""Chunks of many series, located in frames and decoded together: numpy is fast on many, slow on few.

Source: Prometheus, prompb/remote.proto (ChunkedReadResponse) and types.proto (Chunk).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_core.errors import ChunkError, SourceError
from llem_integrator.remote_read import xor
from llem_integrator.remote_read.frames import Frame, FrameError
from llem_integrator.remote_read.messages import WireLabels
from llem_integrator.remote_read.wire import WireType, fields, read_varint
from llem_integrator.remote_read.xor.layout import Bytes, Ints
from llem_integrator.series.samples import Series, make_series

_XOR: Final = 1
_HISTOGRAMS: Final = (2, 3, 5, 6)
"""Chunk encodings of floats and of native histograms. Source: types.proto, Chunk.Encoding."""
_LABEL_TAG: Final = 0x0A
_CHUNK_TAG: Final = 0x12
_CHUNKS_FIELD, _TYPE_FIELD, _DATA_FIELD = 2, 3, 4
_HEAD: Final = np.array([0x08] + [0x80] * 5 + [0, 0x10] + [0x80] * 5 + [0, 0x18, _XOR, 0x22], np.uint8)
"""The usual start of a chunk: two times of six bytes each, the type, and the tag of the data."""
_HEAD_MASK: Final = np.array([0xFF] + [0x80] * 6 + [0xFF] + [0x80] * 6 + [0xFF, 0xFF, 0xFF], np.uint8)


class EncodingError(Exception):
    """Chunks have an unsupported encoding; `histogram` is true for native histograms."""

    def __init__(self, encoding: int) -> None:
        super().__init__(f"chunks of encoding {encoding}")
        self.histogram = encoding in _HISTOGRAMS


@dataclass(frozen=True, slots=True)
class Section:
    """The chunks of one series in one frame: bytes [begin, end) of the data."""

    frame: int
    labels: WireLabels
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ChunkBatch:
    """The chunks of all sections in order; `counts` is the number of chunks in each section."""

    data: bytes
    sections: tuple[Section, ...]
    offsets: Ints
    lengths: Ints
    counts: Ints

    @property
    def samples(self) -> int:
        """The number of samples in all chunks, as the chunks state it."""
        raw = np.frombuffer(self.data, np.uint8)
        places = self.offsets[self.lengths >= 2]
        return int(np.sum(raw[places].astype(np.int64) * 256 + raw[places + 1]))

    def decoded(self, start_ms: int, end_ms: int, origin: str) -> list[tuple[WireLabels, Series]]:
        """Return the samples of each section in [start_ms, end_ms]; the series have no labels yet.

        Raises SourceError that names the frame of a damaged chunk.
        """
        try:
            unix_ms, values, sizes = xor.decode(self.data, self.offsets, self.lengths)
        except ChunkError as exc:
            number = int(np.searchsorted(np.cumsum(self.counts), exc.chunk, "right"))
            raise SourceError(f"{origin}: frame {self.sections[number].frame}: {exc}") from exc
        asked = start_ms, end_ms
        ends = np.append(0, np.cumsum(sizes))[np.cumsum(self.counts)].tolist()
        return [
            (
                section.labels,
                make_series({}, unix_ms[begin:end], values[begin:end], within_ms=asked),
            )
            for section, begin, end in zip(self.sections, [0, *ends][: len(ends)], ends, strict=True)
        ]


def batch(data: bytes, frames: Sequence[Frame]) -> ChunkBatch:
    """Return the chunks of consecutive frames in `data`; raises FrameError and EncodingError."""
    sections = tuple(section for frame in frames for section in _sections(data, frame))
    return ChunkBatch(data, sections, *(_uniform_chunks(data, sections) or _any_chunks(data, sections)))


def _sections(data: bytes, frame: Frame) -> Iterator[Section]:
    """Yield the sections of a frame's message; raises FrameError."""
    try:
        for field, wire_type, begin, end in fields(data, frame.begin, frame.end):
            if field == 1 and wire_type is WireType.BYTES:
                yield _section(data, frame.number, begin, end)
    except (ValueError, IndexError) as exc:
        raise FrameError(f"frame {frame.number} is not a list of chunks: {exc}") from exc


def _section(data: bytes, frame: int, at: int, end: int) -> Section:
    """Return the ChunkedSeries message in [at, end): labels, then chunks."""
    labels: list[bytes] = []
    while at < end and (tag := data[at]) != _CHUNK_TAG:
        if tag == _LABEL_TAG and data[at + 1] < 0x80:  # the usual case, without the cost of a generator
            begin = at + 2
            at = begin + data[at + 1]
            labels.append(data[begin:at])
            continue
        number, wire_type, begin, at = next(fields(data, at, end))
        if number == 1 and wire_type is WireType.BYTES:
            labels.append(data[begin:at])
    if at > end:
        raise ValueError("labels exceed their series")
    return Section(frame, tuple(labels), at, end)


def _uniform_chunks(data: bytes, sections: Sequence[Section]) -> tuple[Ints, Ints, Ints] | None:
    """Return offsets, lengths and counts of all chunks at once, found by how a chunk usually begins.

    Returns None unless each chunk is as long as it states and ends where the next one, or its section, does.
    """
    raw = np.frombuffer(data, np.uint8, sections[-1].end if sections else 0)
    tags = np.flatnonzero(raw[: -len(_HEAD) - 4] == _CHUNK_TAG)
    begins = tags + 2 + (raw[tags + 1] >= 0x80)
    alike = (raw[begins] == _HEAD[0]) & (raw[begins + 7] == _HEAD[7]) & (raw[begins + 14] == _HEAD[14])
    tags, begins = tags[alike], begins[alike]
    if not len(tags):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(raw, len(_HEAD))
    if np.any((windows[begins] & _HEAD_MASK) != _HEAD):
        return None
    sizes, _ = _short_varints(raw, tags + 1)
    lengths, used = _short_varints(raw, begins + len(_HEAD))
    ends, offsets = begins + sizes, begins + len(_HEAD) + used
    breaks = np.flatnonzero(tags[1:] != ends[:-1])
    firsts, lasts = tags[np.append(0, breaks + 1)], ends[np.append(breaks, len(ends) - 1)]
    if not (
        np.array_equal(firsts, [section.begin for section in sections])
        and np.array_equal(lasts, [section.end for section in sections])
        and np.array_equal(offsets + lengths, ends)
    ):
        return None
    return offsets, lengths, np.diff(np.concatenate([[-1], breaks, [len(tags) - 1]]))


def _short_varints(raw: Bytes, at: Ints) -> tuple[Ints, Ints]:
    """Return the varints at these places and their sizes; wrong for varints of more than two bytes."""
    low, high = raw[at].astype(np.int64), raw[at + 1].astype(np.int64)
    long = low >= 0x80
    return np.where(long, low & 0x7F | high << 7, low), 1 + long


def _any_chunks(data: bytes, sections: Sequence[Section]) -> tuple[Ints, Ints, Ints]:
    """Return offsets, lengths and counts of chunks in any valid form, one by one."""
    places = [_places(data, section) for section in sections]
    flat = np.array([place for section in places for place in section], np.int64).reshape(-1, 2)
    return flat[:, 0], flat[:, 1], np.array([len(section) for section in places], np.int64)


def _places(data: bytes, section: Section) -> list[tuple[int, int]]:
    """Return offset and length of each chunk of a section."""
    try:
        return [
            _place(data, begin, end)
            for field, wire_type, begin, end in fields(data, section.begin, section.end)
            if field == _CHUNKS_FIELD and wire_type is WireType.BYTES
        ]
    except ValueError as exc:
        raise FrameError(f"frame {section.frame} is not a list of chunks: {exc}") from exc


def _place(data: bytes, begin: int, end: int) -> tuple[int, int]:
    """Return offset and length of the data of the Chunk message in [begin, end)."""
    encoding, offset, stop = 0, begin, begin
    for field, wire_type, at, after in fields(data, begin, end):
        if field == _TYPE_FIELD and wire_type is WireType.VARINT:
            encoding, _ = read_varint(data, at, after)
        elif field == _DATA_FIELD and wire_type is WireType.BYTES:
            offset, stop = at, after
    if encoding != _XOR:
        raise EncodingError(encoding)
    return offset, stop - offset
