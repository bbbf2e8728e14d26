"""Reads files of samples, plain or compressed by gzip or zstd, and standard input."""

import gzip
import io
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import IO, Any, Final, cast

from llem_core.errors import SourceError
from llem_integrator.stores.ahead import ahead
from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.text.blocks import BLOCK_BYTES
from llem_integrator.text.openmetrics import read

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""After a byte of 0x50 to 0x5f: a zstd frame without data, with which pzstd begins."""
_BLOCKS_AHEAD: Final = 3


def read_file(path: str) -> LoadedSource:
    """Return the source of a file, or of standard input for "-"; raises SourceError."""
    origin = "standard input" if path == "-" else path
    with closing(ahead(_blocks(path, origin), _BLOCKS_AHEAD)) as blocks:
        return read(blocks, origin)


def _blocks(path: str, origin: str) -> Generator[bytes, None, None]:
    """Yield the text of a file. Its first bytes, not its name, show how it is compressed."""
    try:
        with closing(_opened(path)) as raw:
            head = _head(raw)
            buffered = cast("IO[bytes]", io.BufferedReader(_Prefixed(head, raw), BLOCK_BYTES))
            if head.startswith(_GZIP):
                with gzip.GzipFile(fileobj=buffered) as stream:
                    yield from _read(stream)
            elif head == _ZSTD or (head[1:] == _SKIPPABLE and head[0] & 0xF0 == 0x50):
                from llem_integrator.text import zstd

                yield from zstd.blocks(buffered, origin)
            else:
                yield from _read(buffered)
    except EOFError as exc:
        raise SourceError(f"{origin}: truncated: its compressed data are incomplete") from exc
    except (gzip.BadGzipFile, zlib.error) as exc:
        raise SourceError(f"{origin}: its compressed data are damaged: {exc}") from exc
    except OSError as exc:
        raise SourceError(f"cannot read {origin}: {exc.strerror or exc}") from exc


def _read(stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block


def _opened(path: str) -> io.RawIOBase | io.BytesIO:
    if path != "-":
        return io.FileIO(path)
    if sys.stdin is None:
        raise SourceError("standard input is closed")
    try:
        # Without Python's own buffer: a thread that waits for it delays the exit of the interpreter.
        return io.FileIO(sys.stdin.fileno(), closefd=False)
    except io.UnsupportedOperation:
        return io.BytesIO(sys.stdin.buffer.read())


def _head(raw: io.RawIOBase | io.BytesIO) -> bytes:
    """Return the first bytes, which a pipe may deliver one by one."""
    head = b""
    while len(head) < len(_ZSTD) and (more := raw.read(len(_ZSTD) - len(head))):
        head += more
    return head


class _Prefixed(io.RawIOBase):
    """A stream together with its first bytes, which were read before."""

    def __init__(self, head: bytes, raw: io.RawIOBase | io.BytesIO) -> None:
        self._head, self._raw = head, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self._head:
            return self._raw.readinto(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count], self._head = self._head[:count], self._head[count:]
        return count
