"""Lists of windows: a CSV of jobs, or what `sacct -P` prints."""

import csv
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import Final

from llem_core.errors import ConfigError, LLEMError, SourceError
from llem_integrator.series.matchers import Selector, parse_selector
from llem_integrator.windows import sacct
from llem_integrator.windows.window import LocalTimeError, Window, parse_edges_us

_COLUMNS: Final = ("name", "start", "end", "match", "gpu")

_Row = Mapping[str, str]
"""The fields of a line by the names in the header."""


@dataclass(frozen=True, slots=True)
class WindowList:
    """The windows of a list in its order, and one line of text for each row that was left out."""

    windows: tuple[Window, ...]
    left_out: tuple[str, ...] = ()


def read_windows(
    path: str,
    zone: tzinfo | None = None,
    *,
    node_label: str = "instance",
    selectors: Sequence[Selector] = ((),),
    now_us: int | None = None,
) -> WindowList:
    """Return the windows of a file, or of standard input for "-"; see parse_windows.

    Also raises SourceError if the file cannot be read.
    """
    origin = "standard input" if path == "-" else path
    try:
        content = _standard_input() if path == "-" else Path(path).read_bytes()
        text = content.decode()
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{origin} is not UTF-8 text (byte {exc.start}): save it as UTF-8") from exc
    return parse_windows(text, zone, origin=origin, node_label=node_label, selectors=selectors, now_us=now_us)


def parse_windows(
    text: str,
    zone: tzinfo | None = None,
    *,
    origin: str = "list",
    node_label: str = "instance",
    selectors: Sequence[Selector] = ((),),
    now_us: int | None = None,
) -> WindowList:
    """Return the windows of a CSV with the columns name,start,end[,match][,gpu], or of sacct's output.

    Times without an offset are in `zone`. `now_us` is the time now in unix microseconds. `node_label` is the
    label that holds the names in sacct's NodeList, and `selectors` limit the series of sacct's jobs. `origin`
    is the list's name in messages.
    Rows that cannot be read are left out. Raises ConfigError if the text is not a list, or if no row can be
    read without a zone.
    """
    lines = list(io.StringIO(text.removeprefix("\ufeff"), newline=None)) or [""]
    now_us = time.time_ns() // 1000 if now_us is None else now_us
    to_window: Callable[[_Row], Window | None]
    if sacct.is_header(lines[0]):
        rows, problems = _sacct_rows(lines, origin)
        tracks_gpus = sacct.tracks_gpus(rows.values())
        to_window = sacct.SacctReader(now_us, zone, node_label, tuple(selectors), tracks_gpus).window
        nothing = "no job with GPUs that has started (check AllocTRES, and the -S and -E of sacct)"
    else:
        rows, problems = _csv_rows(lines, origin)
        to_window = partial(_window, now_us=now_us, zone=zone)
        nothing = "no rows"
    windows = _windows(rows, to_window, problems)
    left_out = {number: f"{origin}: line {number}: {problems[number]}" for number in sorted(problems)}
    if not windows and zone is None:
        for number, line in left_out.items():
            if isinstance(problems[number], LocalTimeError):
                raise ConfigError(line)
    if not windows and not left_out:
        raise ConfigError(f"{origin} contains {nothing}")
    return WindowList(tuple(windows), tuple(left_out.values()))


def _windows(
    rows: Mapping[int, _Row], to_window: Callable[[_Row], Window | None], problems: dict[int, LLEMError]
) -> list[Window]:
    """Return the windows of rows, and add what is wrong with rows to `problems`."""
    windows: list[Window] = []
    for number, row in rows.items():
        try:
            window = to_window(row)
        except LLEMError as exc:
            problems[number] = exc
        else:
            windows += [] if window is None else [window]
    return windows


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise SourceError("standard input is closed")
    return sys.stdin.buffer.read()


def _sacct_rows(lines: Sequence[str], origin: str) -> tuple[dict[int, _Row], dict[int, LLEMError]]:
    """Return rows, and what is wrong with other lines, by line number; raises ConfigError for the header."""
    names = _split_by_pipes(lines[0])
    try:
        sacct.check_columns(names)
    except ConfigError as exc:
        raise ConfigError(f"{origin}: line 1: {exc}") from exc
    jobs = {number: line for number, line in _numbered(lines) if not sacct.is_step(line)}
    return _rows(jobs, names, _split_by_pipes, "leave out columns that can contain '|', such as JobName")


def _csv_rows(lines: Sequence[str], origin: str) -> tuple[dict[int, _Row], dict[int, LLEMError]]:
    """Return rows, and what is wrong with other lines, by line number; raises ConfigError for the header."""
    try:
        names = [name.strip().lower() for name in _split_by_commas(lines[0])]
    except ConfigError:
        names = []
    if not {"start", "end"} <= set(names) <= set(_COLUMNS) or len(set(names)) < len(names):
        raise ConfigError(
            f"{origin}: the first line must name the columns name,start,end[,match][,gpu], "
            "or be the header of sacct -P"
        )
    jobs = {number: line for number, line in _numbered(lines) if not line.startswith("#")}
    return _rows(jobs, names, _split_by_commas, "put text that contains a comma in double quotes")


def _numbered(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines below the header that are not empty, with their numbers."""
    return ((number, line) for number, line in enumerate(lines[1:], 2) if line.strip())


def _rows(
    lines: Mapping[int, str], names: Sequence[str], split: Callable[[str], list[str]], remedy: str
) -> tuple[dict[int, _Row], dict[int, LLEMError]]:
    rows: dict[int, _Row] = {}
    problems: dict[int, LLEMError] = {}
    for number, line in lines.items():
        try:
            fields = split(line)
            if len(fields) != len(names):
                raise ConfigError(f"{len(fields)} fields, but the header has {len(names)}: {remedy}")
        except ConfigError as exc:
            problems[number] = exc
        else:
            rows[number] = dict(zip(names, fields, strict=True))
    return rows, problems


def _split_by_pipes(line: str) -> list[str]:
    return [field.strip() for field in line.split("|")]


def _split_by_commas(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as exc:
        raise ConfigError(f"not a row of CSV ({exc}): close quotes, and double those inside text") from exc


def _window(row: _Row, now_us: int, zone: tzinfo | None) -> Window:
    window = Window(
        *parse_edges_us(row["start"], row["end"], now_us, zone), row.get("name", "").strip() or None
    )
    if match := row.get("match", "").strip():
        window = replace(window, selectors=(parse_selector(match),))
    if gpus := tuple(row.get("gpu", "").replace(",", " ").replace(";", " ").split()):
        window = replace(window, gpus=gpus)
    return window
