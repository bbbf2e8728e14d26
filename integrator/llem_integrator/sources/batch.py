"""Chunks of many series decoded at once: a decoder without a compiler is fast on many, slow on few."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_core.errors import ChunkError, SourceError
from llem_integrator import xor
from llem_integrator.series import Times, Values
from llem_integrator.sources.chunked import Chunks
from llem_integrator.sources.parts import Part, trimmed
from llem_integrator.sources.read_protocol import Key

BATCH_CHUNKS: Final = 2048
"""Of 120 samples each: a quarter of a slab, so that two workers share it."""

Decoded = list[tuple[Key, Part]]


@dataclass(slots=True)
class Batch:
    """Chunks of one or more frames, in the order they came, and the number of each one's frame."""

    series: list[Chunks] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    chunks: int = 0

    def add(self, found: Chunks, frame: int) -> None:
        self.series.append(found)
        self.frames.append(frame)
        self.chunks += len(found.offsets)

    def decoded(self, out: tuple[Times, Values], start_ms: int, end_ms: int, origin: str) -> Decoded:
        """Each series' samples in [start_ms, end_ms], written to `out`; a SourceError names the frame."""
        messages, shifts = self._messages()
        offsets = [one.offsets + shift for one, shift in zip(self.series, shifts, strict=True)]
        lengths = [one.lengths for one in self.series]
        data = messages[0] if len(messages) == 1 else b"".join(messages)
        counts = [len(one) for one in offsets]
        try:
            unix_ms, values, sizes = xor.decode(
                data, np.concatenate(offsets), np.concatenate(lengths), out=out
            )
        except ChunkError as exc:
            number = int(np.searchsorted(np.cumsum(counts), exc.chunk, "right"))
            raise SourceError(f"{origin}: frame {self.frames[number]}: {exc}") from exc
        ends = np.cumsum(sizes)[np.cumsum(counts) - 1].tolist()
        return [
            (one.labels, trimmed(unix_ms[begin:end], values[begin:end], start_ms, end_ms))
            for one, begin, end in zip(self.series, [0, *ends[:-1]], ends, strict=True)
        ]

    def _messages(self) -> tuple[list[bytes], list[int]]:
        """The messages, each once, and for each series where its message begins among them."""
        messages: list[bytes] = []
        shifts: list[int] = []
        begin = end = 0
        for one in self.series:
            if not messages or one.data is not messages[-1]:
                begin, end = end, end + len(one.data)
                messages.append(one.data)
            shifts.append(begin)
        return messages, shifts
