"""What a power meter said of each card's sensor: true watts = gain x reading + offset."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llem_core.errors import ConfigError
from llem_integrator.energy.result import GpuEnergy

COLUMNS: Final = ("uuid", "gain", "offset_watts")
_GAINS: Final = (0.1, 10.0)
_MOST_OFFSET_WATTS: Final = 1000.0
"""Beyond these it is a slip, not a sensor."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One card's sensor: true = gain x reading + offset_watts, at any power."""

    gain: float
    offset_watts: float

    def of(self, gpu: GpuEnergy) -> GpuEnergy:
        """The GPU with its true joules, bounds and watts; never below 0, and joules_by_backend as read.

        joules' = gain x joules + offset_watts x covered_s. The upper bound holds what the gaps may have
        used, too, so its offset is that of the whole window.
        """
        return gpu._replace(
            joules=self._true(gpu.joules, gpu.covered_s),
            joules_low=self._true(gpu.joules_low, gpu.covered_s),
            joules_high=self._true(gpu.joules_high, gpu.covered_s + gpu.gap_s),
            mean_watts=self._true(gpu.mean_watts, 1.0),
            peak_watts=self._true(gpu.peak_watts, 1.0),
        )

    def _true(self, read: float | None, seconds: float) -> float | None:
        return None if read is None else max(0.0, self.gain * read + self.offset_watts * seconds)


def read(path: str) -> dict[str, Correction]:
    """The corrections of a CSV file by uuid; raises ConfigError, which names the line."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return parse(file, path)
    except OSError as exc:
        raise ConfigError(f"--calibration: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"--calibration: {path}: not text (byte {exc.start})") from exc


def parse(lines: Iterable[str], origin: str) -> dict[str, Correction]:
    """The corrections of a CSV's lines by uuid; raises ConfigError."""
    rows = csv.reader(lines, strict=True)
    found: dict[str, Correction] = {}
    try:
        names = [name.strip() for name in next(rows, [])]
        if sorted(names) != sorted(COLUMNS):
            raise ConfigError(f"{origin}: the first line must name the columns {','.join(COLUMNS)}")
        for row in rows:
            if not row:
                continue
            where = f"{origin}: line {rows.line_num}"
            if len(row) != len(names):
                raise ConfigError(f"{where} has {len(row)} fields, and the header {len(names)}")
            fields = {name: field.strip() for name, field in zip(names, row, strict=True)}
            if not fields["uuid"] or fields["uuid"] in found:
                raise ConfigError(f"{where}: {'no uuid' if not fields['uuid'] else 'this uuid comes twice'}")
            found[fields["uuid"]] = _correction(fields["gain"], fields["offset_watts"], where)
    except csv.Error as exc:
        raise ConfigError(f"{origin}: line {rows.line_num}: {exc}") from exc
    if not found:
        raise ConfigError(f"{origin} holds no card")
    return found


def _correction(gain: str, offset_watts: str, where: str) -> Correction:
    least, most = _GAINS
    values = []
    for name, text in (("gain", gain), ("offset_watts", offset_watts)):
        try:
            values.append(float(text))
        except ValueError:
            raise ConfigError(f"{where}: {name} is no number: {text[:40]!r}") from None
    if not least <= values[0] <= most:
        raise ConfigError(f"{where}: gain {gain} is not between {least:g} and {most:g} (1 is a true sensor)")
    if not abs(values[1]) <= _MOST_OFFSET_WATTS or math.isnan(values[1]):
        raise ConfigError(f"{where}: offset_watts {offset_watts} is not within ±{_MOST_OFFSET_WATTS:g}")
    return Correction(*values)
