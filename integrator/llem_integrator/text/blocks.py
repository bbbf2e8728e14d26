"""Splits a text that arrives in chunks of any size into blocks of whole lines."""

from collections.abc import Iterable, Iterator
from typing import Final

from llem_core.errors import SourceError

BLOCK_BYTES: Final = 1 << 20
_LONGEST_LINE: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"


def whole_lines(chunks: Iterable[bytes], origin: str) -> Iterator[bytes]:
    """Yield the same lines in blocks of about 1 MiB. Only the very last line may lack its newline.

    Removes what Windows adds: a byte order mark at the start, and a carriage return before each newline.
    """
    bom = _BOM
    for block in _blocks(chunks, origin):
        text = block.removeprefix(bom)
        yield text.replace(b"\r\n", b"\n") if b"\r" in text else text  # newlines in labels are escaped
        bom = b""


def _blocks(chunks: Iterable[bytes], origin: str) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size < BLOCK_BYTES:
            continue
        text = b"".join(held)
        cut = text.rfind(b"\n") + 1
        if cut:
            yield text[:cut]
        held, size = [text[cut:]], len(text) - cut
        if size > _LONGEST_LINE:
            raise SourceError(
                f"{origin}: a line is longer than {_LONGEST_LINE >> 20} MiB: not a text of samples"
            )
    if size:
        yield b"".join(held)
