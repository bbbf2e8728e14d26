"""Where an answer goes: standard output, or a file that is there when it is whole and not before."""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from llem_core.errors import ConfigError, LLEMError

STDOUT = "-"


class OutputError(LLEMError):
    """A file cannot be written."""


@contextmanager
def opened(path: str, *, binary: bool) -> Iterator[IO[Any]]:
    """A stream into the file, or to standard output for "-"; raises OutputError, and ConfigError.

    A file appears under its name when the block ends well; after an error nothing of it is left. What is
    no plain file (a pipe, a device) is written as it comes.
    """
    if path == STDOUT:
        yield _stdout(binary=binary)
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
    # Hidden, and without the target's suffix: who watches the folder for *.prom does not see it.
    aside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    with _named(path):
        out = _stream(aside, "x", binary=binary)
    try:
        with out:
            yield out
            with _named(path):
                out.flush()
                os.fsync(out.fileno())
        with _named(path):
            if target.exists():
                shutil.copymode(target, aside)
            aside.replace(target)
    finally:
        with suppress(OSError):
            out.close()
        with suppress(OSError):  # it is there only where the answer is not whole
            aside.unlink()


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


def _stdout(*, binary: bool) -> IO[Any]:
    if not binary:
        return sys.stdout
    if sys.stdout.isatty():
        raise ConfigError("this format is no text for a terminal; give --output FILE, or pipe it")
    return sys.stdout.buffer
