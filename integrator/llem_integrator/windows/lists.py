"""Lists of windows: a CSV of jobs, or what `sacct -P` prints."""

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import tzinfo
from itertools import chain
from pathlib import Path
from typing import IO, Final, NamedTuple

from llem_core.errors import ConfigError, LLEMError, SourceError
from llem_integrator.stores import parse_selector
from llem_integrator.windows import sacct
from llem_integrator.windows.window import Window, parse_duration_us, parse_time_us

_COLUMNS: Final = ("name", "start", "end", "match", "gpu")


class _Commas(csv.excel):
    strict = True


class _Pipes(csv.excel):
    delimiter = "|"
    quoting = csv.QUOTE_NONE


class Reading(NamedTuple):
    """What a list's times and hosts mean: now [unix µs], the zone of times without one, the nodes' label."""

    now_us: int
    zone: tzinfo | None
    node_label: str = "instance"


def read(path: str, reading: Reading) -> list[Window]:
    """The windows of a file, or of standard input for "-".

    Raises ConfigError, which names the line, and SourceError where the file cannot be read.
    """
    origin = "standard input" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise SourceError("standard input is closed")
    try:
        if path == "-":
            return parse(sys.stdin, origin, reading)
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return parse(file, origin, reading)
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{origin}: not text (byte {exc.start})") from exc


def parse(file: IO[str], origin: str, reading: Reading) -> list[Window]:
    """The windows of a list's lines. Its header says which sort it is."""
    header = file.readline()
    by_pipes = sacct.is_header(header)
    windows: list[Window] = []
    for number, row in _rows(chain([header], file), origin, _Pipes if by_pipes else _Commas):
        try:
            window = sacct.window(row, *reading) if by_pipes else _window(row, reading)
        except LLEMError as exc:
            raise ConfigError(f"{origin}: line {number}: {exc}") from exc
        if window is not None:
            windows.append(window)
    if not windows:
        raise ConfigError(f"{origin} names no job with a GPU that has begun")
    return windows


def _rows(
    lines: Iterable[str], origin: str, dialect: type[csv.Dialect]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and fields by the header's names; raises ConfigError for a line that is no row."""
    rows = csv.reader(lines, dialect)
    try:
        names = [name.strip() for name in next(rows, [])]
        if dialect is _Commas:
            names = [name.lower() for name in names]
            _check(names, origin)
        for row in rows:
            if not row or (dialect is _Commas and row[0].startswith("#")):
                continue
            if len(row) != len(names):
                where = f"{origin}: line {rows.line_num}"
                raise ConfigError(f"{where} has {len(row)} fields, and the header {len(names)}")
            yield rows.line_num, dict(zip(names, row, strict=True))
    except csv.Error as exc:
        raise ConfigError(f"{origin}: line {rows.line_num}: {exc}") from exc


def _check(names: Sequence[str], origin: str) -> None:
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown or not {"start", "end"} <= set(names) or len(set(names)) < len(names):
        raise ConfigError(
            f"{origin}: the first line must name the columns name,start,end[,match][,gpu], "
            "or be the header of sacct -P"
        )


def _window(row: Mapping[str, str], reading: Reading) -> Window | None:
    start_us = parse_time_us(row["start"], reading.now_us, reading.zone)
    end = row["end"].strip()
    if end.startswith("+"):
        end_us = start_us + parse_duration_us(end[1:])
    else:
        end_us = parse_time_us(end, reading.now_us, reading.zone)
    window = Window(start_us, end_us, row.get("name", "").strip() or None)
    if match := row.get("match", "").strip():
        window = replace(window, selectors=(parse_selector(match),))
    if gpus := tuple(row.get("gpu", "").replace(",", " ").replace(";", " ").split()):
        window = replace(window, gpus=gpus)
    return window
