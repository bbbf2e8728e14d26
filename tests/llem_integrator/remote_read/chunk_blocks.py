"""Chunks as Prometheus itself writes them: blocks made by promtool, and their segment files read."""

import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llem_integrator.remote_read.xor import compiled, side_by_side
from llem_integrator.remote_read.xor.layout import DecodeInto
from tests.servers import PrometheusRelease, installed_prometheus

T0 = 1_795_500_000_000
"""Unix ms at which a block of two hours begins."""
BLOCK_MS = 7_200_000

Samples = Sequence[tuple[int, float]]
"""(ms after T0, value), ascending."""

_MAGIC = 0x85BD40DD
_HEADER_BYTES = 8
_CRC_BYTES = 4
_XOR = 1


@dataclass(frozen=True)
class Chunks:
    """XOR chunks in one buffer."""

    data: bytes
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def payload(self, chunk: int) -> bytes:
        return self.data[self.offsets[chunk] : self.offsets[chunk] + self.lengths[chunk]]

    def repeated(self, times: int) -> "Chunks":
        """The same again and again, each at a place of its own."""
        offsets = self.offsets + np.arange(times)[:, None] * len(self.data)
        return Chunks(self.data * times, offsets.ravel(), np.tile(self.lengths, times))


@cache
def decoders() -> dict[str, DecodeInto]:
    """Both decoders, by name."""
    return {"numpy": side_by_side.decode_into, "numba": compiled.load()}


def packed(payloads: Sequence[bytes]) -> Chunks:
    """Chunks one behind the other; the last one ends with the buffer."""
    lengths = np.array([len(one) for one in payloads], np.int64)
    return Chunks(b"".join(payloads), np.cumsum(lengths) - lengths, lengths)


def openmetrics(series: Mapping[str, Samples]) -> str:
    """A page of `m{s=NAME}` for each series."""
    lines = ["# TYPE m gauge"]
    for name, samples in sorted(series.items()):
        lines += [
            f'm{{s="{name}"}} {value!r} {(T0 + ms) // 1000}.{(T0 + ms) % 1000:03d}' for ms, value in samples
        ]
    return "\n".join([*lines, "# EOF", ""])


def made_by_promtool(
    directory: Path, series: Mapping[str, Samples], release: PrometheusRelease | None = None
) -> Chunks:
    """The chunks of series that lie in one block of two hours: series by series in their names' order."""
    text, data = directory / "samples.om", directory / "data"
    text.write_text(openmetrics(series))
    promtool = (release or installed_prometheus()).promtool
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    (block,) = blocks(data)
    return read_segments(block)


def blocks(directory: Path) -> list[Path]:
    """The blocks in a directory, oldest first."""
    return sorted(path.parent for path in directory.glob("*/meta.json"))


def read_segments(block: Path) -> Chunks:
    """All chunks of a block, in the order of its files. Source: Prometheus, tsdb/docs/format/chunks.md."""
    segments = [segment.read_bytes() for segment in sorted((block / "chunks").iterdir())]
    found, before = list[tuple[int, int]](), 0
    for segment in segments:
        assert struct.unpack_from(">I", segment) == (_MAGIC,)
        found += [(before + offset, length) for offset, length in _places(segment)]
        before += len(segment)
    offsets, lengths = np.array(found, np.int64).T
    return Chunks(b"".join(segments), np.ascontiguousarray(offsets), np.ascontiguousarray(lengths))


def _places(segment: bytes) -> Iterator[tuple[int, int]]:
    at = _HEADER_BYTES
    while at < len(segment):
        length = shift = 0
        while True:
            byte = segment[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert segment[at] == _XOR
        yield at + 1, length
        at += 1 + length + _CRC_BYTES
