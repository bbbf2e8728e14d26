"""Chunks of many series decoded at once: a decoder without a compiler is fast on many, slow on few."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_core.errors import ChunkError, SourceError
from llem_integrator import xor
from llem_integrator.series import Times, Values
from llem_integrator.sources import chunked
from llem_integrator.sources.chunked import Ints, Section
from llem_integrator.sources.parts import Part, trimmed
from llem_integrator.sources.read_protocol import Key

BATCH_BYTES: Final = 1 << 19
"""Some 2000 chunks: a quarter of a slab, so that two workers share it."""

Decoded = list[tuple[Key, Part]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Chunks of one or more frames, series by series: each section has the next of `counts` chunks."""

    data: bytes
    sections: tuple[Section, ...]
    offsets: Ints
    lengths: Ints
    counts: Ints

    @property
    def samples(self) -> int:
        return chunked.samples_in(self.data, self.offsets, self.lengths)

    def decoded(self, out: tuple[Times, Values], start_ms: int, end_ms: int, origin: str) -> Decoded:
        """Each series' samples in [start_ms, end_ms], written to `out`; a SourceError names the frame."""
        try:
            unix_ms, values, sizes = xor.decode(self.data, self.offsets, self.lengths, out=out)
        except ChunkError as exc:
            number = int(np.searchsorted(np.cumsum(self.counts), exc.chunk, "right"))
            raise SourceError(f"{origin}: frame {self.sections[number].frame}: {exc}") from exc
        ends = np.append(0, np.cumsum(sizes))[np.cumsum(self.counts)].tolist()
        return [
            (one.labels, trimmed(unix_ms[begin:end], values[begin:end], start_ms, end_ms))
            for one, begin, end in zip(self.sections, [0, *ends[:-1]], ends, strict=True)
        ]


def batch(messages: Sequence[bytes], first_frame: int) -> Batch:
    """The messages of frames that follow each other; raises FrameError and EncodingError."""
    found: list[Section] = []
    shift = 0
    for frame, message in enumerate(messages, first_frame):
        found += [one.moved(shift) for one in chunked.sections(message, frame)]
        shift += len(message)
    data = messages[0] if len(messages) == 1 else b"".join(messages)
    return Batch(data, tuple(found), *chunked.located(data, found))
