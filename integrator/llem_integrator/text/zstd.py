"""zstd as Python has it since 3.14, and its backport before: one module under two names."""

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
    """What all frames hold; raises EOFError where the last has no end, SourceError of what is damaged."""
    try:
        with zstd.ZstdFile(packed) as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
    except zstd.ZstdError as exc:
        raise SourceError(f"{origin}: its compressed data are damaged: {exc}") from exc
