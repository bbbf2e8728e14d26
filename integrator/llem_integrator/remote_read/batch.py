"""Chunks of many series decoded at once: a decoder without a compiler is fast on many, slow on few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llem_core.errors import ChunkError, SourceError
from llem_integrator.remote_read import xor
from llem_integrator.remote_read.frames import Frame, Ints, Section, located, samples_in, sections
from llem_integrator.remote_read.messages import Key
from llem_integrator.series.samples import Times, Values
from llem_integrator.stores.parts import Part, trimmed

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
        return samples_in(self.data, self.offsets, self.lengths)

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
            for one, begin, end in zip(self.sections, [0, *ends][: len(ends)], ends, strict=True)
        ]


def batch(data: bytes, frames: Sequence[Frame]) -> Batch:
    """The chunks of frames that follow each other in `data`; raises FrameError and EncodingError."""
    found = tuple(section for frame in frames for section in sections(data, frame))
    return Batch(data, found, *located(data, found))
