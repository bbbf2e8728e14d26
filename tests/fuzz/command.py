"""llem-integrate inside this process: its exit status and what it wrote, whatever it was given."""

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Final

from llem_integrator import cli

T0: Final = 1_795_507_546
"""Unix seconds at which the window of all examples begins."""

WINDOW: Final = f"{T0},+60s"


@dataclass(frozen=True, slots=True)
class Outcome:
    """An exit status, and all that went to standard output and standard error."""

    status: int
    out: str
    err: str


def integrate(*args: str) -> Outcome:
    """Run `llem-integrate ARGS`. Any exception but its exit is the caller's, and so is every warning."""
    # Real files: the command asks its streams for their descriptors.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as err,
    ):
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            _arguments(args),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")
            try:
                cli.main()
            except SystemExit as exc:
                status = int(exc.code or 0)
        for stream in (out, err):
            stream.seek(0)
        return Outcome(status, out.read(), err.read())


def well_behaved(*args: str) -> Outcome:
    """Run it, and check that it prints a result, or one line that says why not."""
    outcome = integrate(*args)
    if outcome.status in (1, 2):
        assert outcome.out == "", outcome
        assert outcome.err.startswith("error: "), outcome
        assert outcome.err.count("\n") == 1, outcome
    else:
        assert outcome.status in (0, 3, 4), outcome
        assert outcome.err == "", outcome
        if "json" in args:
            assert json.loads(outcome.out, parse_constant=_no_number)["schema"] == 1
    return outcome


@contextmanager
def _arguments(args: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["llem-integrate", *args]
    try:
        yield
    finally:
        sys.argv = before


def _no_number(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")
