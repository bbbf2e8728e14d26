"""What a target of fuzzing is, and the folder that targets write their inputs to.

A target takes any bytes and returns; wrong inputs are told by errors that it expects. Whatever else it
raises is a finding.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes; `seeds` are inputs that mean something, to begin with."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


@cache
def folder() -> Path:
    """A folder of this process' own, for as long as it lives."""
    return Path(_folder().name)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="llem-fuzz-")
