"""A text that comes in chunks of any size, in blocks of whole lines."""

from collections.abc import Iterable, Iterator
from typing import Final

from llem_core.errors import SourceError

BLOCK_BYTES: Final = 1 << 20
_LONGEST_LINE: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"


def whole_lines(chunks: Iterable[bytes], origin: str) -> Iterator[bytes]:
    """The same lines in blocks of about a MiB; the very last line may have no end.

    Without what Windows adds: a mark at the start, and a return before each newline.
    """
    first = True
    for block in _blocks(chunks, origin):
        text = block.removeprefix(_BOM) if first else block
        first = False
        # No newline is inside a label: there it is escaped.
        yield text.replace(b"\r\n", b"\n") if b"\r" in text else text


def _blocks(chunks: Iterable[bytes], origin: str) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        for begin in range(0, len(chunk), BLOCK_BYTES):
            held.append(chunk[begin : begin + BLOCK_BYTES])
            size += len(held[-1])
            if size < BLOCK_BYTES:
                continue
            text = b"".join(held)
            cut = text.rfind(b"\n") + 1
            if cut:
                yield text[:cut]
            held = [text[cut:]]
            size = len(held[0])
            if size > _LONGEST_LINE:
                raise SourceError(
                    f"{origin}: a line is longer than {_LONGEST_LINE >> 20} MiB: not text of samples"
                )
    if size:
        yield b"".join(held)
