"""Where results are written: to standard output, or atomically to a file."""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from llem_core.errors import LLEMError

STDOUT: Final = "-"


class OutputError(LLEMError):
    """A file cannot be written."""


@contextmanager
def opened(path: str, *, binary: bool) -> Iterator[IO[Any]]:
    """Yield a stream to a file, or to standard output for "-". Raises OutputError.

    The file gets its name when the block ends without an error. After an error, it does not exist, or has
    its old content. A pipe or device is written directly.
    """
    if path == STDOUT:
        yield sys.stdout.buffer if binary else sys.stdout
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    if target.exists() and not target.is_file():
        with _named(path):
            out = _stream(target, "w", binary=binary)
        with out:
            yield out
        return
    # The name is hidden and has another suffix, so that a program that watches the folder for *.prom
    # ignores it.
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    with _named(path):
        out = _stream(temporary, "x", binary=binary)
    try:
        with out:
            yield out
            with _named(path):
                out.flush()
                os.fsync(out.fileno())
        with _named(path):
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
    finally:
        with suppress(OSError):
            out.close()
        with suppress(OSError):  # after a success it no longer exists
            temporary.unlink()


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OutputError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _stream(path: Path, mode: str, *, binary: bool) -> IO[Any]:
    if binary:
        return path.open(f"{mode}b")
    return path.open(mode, encoding="utf-8", errors="replace", newline="\n")
