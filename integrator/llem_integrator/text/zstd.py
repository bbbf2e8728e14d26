"""Decompresses zstd with Python's own module, or with its backport before Python 3.14."""

import sys
from collections.abc import Iterator
from typing import IO

from llem_core.errors import SourceError
from llem_integrator.text.blocks import BLOCK_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def blocks(packed: IO[bytes], origin: str) -> Iterator[bytes]:
    """Yield the data of all frames; raises EOFError if truncated, and SourceError if damaged."""
    try:
        with zstd.ZstdFile(packed) as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
    except zstd.ZstdError as exc:
        raise SourceError(f"{origin}: its compressed data are damaged: {exc}") from exc
