"""Reads --calibration: a CSV file with a correction of each card's power sensor."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from llem_core.errors import ConfigError
from llem_integrator.results.request import Correction

_LIMITS: Final = {"gain": (0.1, 10.0), "offset_watts": (-1000.0, 1000.0)}
"""A value outside these limits is a mistake in the file, not a property of a sensor."""


def read(path: str) -> dict[str, Correction]:
    """Return the corrections of a CSV file by UUID. Raises ConfigError with the line."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return parse(file, path)
    except OSError as exc:
        raise ConfigError(f"--calibration: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"--calibration: {path} is not text (byte {exc.start})") from exc


def parse(lines: Iterable[str], origin: str) -> dict[str, Correction]:
    """Return the corrections of the lines of a CSV file by UUID. Raises ConfigError with the line."""
    rows = csv.reader(lines, strict=True)
    corrections: dict[str, Correction] = {}
    try:
        names = [name.strip() for name in next(rows, [])]
        if sorted(names) != ["gain", "offset_watts", "uuid"]:
            raise ConfigError(f"{origin}: the first line must name the columns uuid,gain,offset_watts")
        for row in filter(None, rows):
            where = f"{origin}: line {rows.line_num}"
            if len(row) != len(names):
                raise ConfigError(f"{where} has {len(row)} fields, but the header has {len(names)}")
            fields = {name: field.strip() for name, field in zip(names, row, strict=True)}
            uuid = fields["uuid"]
            if not uuid or uuid in corrections:
                raise ConfigError(f"{where}: {'no uuid' if not uuid else 'this uuid comes twice'}")
            corrections[uuid] = Correction(*(_number(fields[name], name, where) for name in _LIMITS))
    except csv.Error as exc:
        raise ConfigError(f"{origin}: line {rows.line_num}: {exc}") from exc
    if not corrections:
        raise ConfigError(f"{origin} contains no card")
    return corrections


def _number(text: str, name: str, where: str) -> float:
    lowest, highest = _LIMITS[name]
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{where}: {name} is not a number: {text[:40]!r}") from None
    if not lowest <= value <= highest:
        raise ConfigError(f"{where}: {name} {text} is not between {lowest:g} and {highest:g}")
    return value
