"""What llem-measure reports about a command: a table for people, a JSON document for programs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, Final

from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.block import Measured

SCHEMA: Final = 1

_UUID_CHARACTERS: Final = 12
"""The table shows "GPU-" and eight digits of a UUID: enough for --gpus."""


@dataclass(frozen=True, slots=True)
class NamedGpu:
    """A GPU: NVML's index, UUID and model. The model is None if it cannot be read."""

    index: int
    uuid: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of work, such as 1000 tokens, that the energy is divided by."""

    name: str
    amount: float


@dataclass(frozen=True, slots=True)
class CommandRun:
    """A command that has ended, and what was measured. Times are the command's own."""

    command: tuple[str, ...]
    exit_code: int
    start_unix_s: float
    duration_s: float
    measured: Measured
    gpus: tuple[NamedGpu, ...] = ()
    amounts: tuple[Amount, ...] = ()


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules with bounds. A value is None if it was not measured, or if there is no such bound."""

    joules: float | None = None
    joules_low: float | None = None
    joules_high: float | None = None

    def per(self, amount: float) -> "Energy":
        """Return the energy divided by an amount."""
        return Energy(*(None if value is None else value / amount for value in astuple(self)))


@dataclass(frozen=True, slots=True)
class GpuRow:
    """The figures of one GPU, as in the document. None is unknown."""

    index: int
    uuid: str
    name: str | None
    joules: float | None
    joules_low: float | None
    joules_high: float | None
    mean_watts: float | None
    peak_watts: float | None
    coverage: float


def gpu_rows(run: CommandRun) -> list[GpuRow]:
    """Return a row for each GPU, and no rows if the joules are those of a node without GPUs."""
    measurement = run.measured.measurement
    if measurement is None or measurement.scope == "node":
        return []
    return [_gpu_row(measurement, gpu) for gpu in run.gpus]


def _gpu_row(measurement: EnergyMeasurement, gpu: NamedGpu) -> GpuRow:
    joules = (measurement.per_gpu_j or {}).get(gpu.index)
    low, high = (measurement.per_gpu_bounds_j or {}).get(gpu.index, (None, None))
    coverage = (measurement.per_gpu_coverage or {}).get(gpu.index, measurement.coverage)
    covered_s = measurement.duration_sec * coverage
    return GpuRow(
        **asdict(gpu),
        joules=joules,
        joules_low=low,
        joules_high=high if high is not None and math.isfinite(high) else None,
        mean_watts=joules / covered_s if joules is not None and covered_s > 0 else None,
        peak_watts=(measurement.per_gpu_peak_watts or {}).get(gpu.index),
        coverage=coverage,
    )


def total(run: CommandRun) -> Energy:
    """Return the energy of all GPUs. If a GPU has no energy or no bounds, the total has no upper bound."""
    measurement, rows = run.measured.measurement, gpu_rows(run)
    if measurement is None or measurement.total_j is None:
        return Energy()
    lows = [row.joules_low for row in rows if row.joules_low is not None]
    highs = [row.joules_high for row in rows if row.joules_high is not None]
    return Energy(
        measurement.total_j,
        math.fsum(lows) if lows else None,
        math.fsum(highs) if rows and len(highs) == len(rows) else None,
    )


def document(run: CommandRun) -> dict[str, Any]:
    """Return the JSON document: unrounded numbers, None where a value is unknown."""
    measurement = run.measured.measurement
    start_unix_s = measurement.start_unix_s if measurement else run.start_unix_s
    duration_s = measurement.duration_sec if measurement else run.duration_s
    return {
        "schema": SCHEMA,
        "command": list(run.command),
        "exit_code": run.exit_code,
        "start_unix_s": start_unix_s,
        "end_unix_s": start_unix_s + duration_s,
        "duration_s": duration_s,
        **asdict(total(run)),
        "coverage": measurement.coverage if measurement else None,
        "backend": measurement.backend if measurement else None,
        "scope": measurement.scope if measurement else None,
        "per_gpu": [asdict(row) for row in gpu_rows(run)],
        "per": [_amount_object(total(run), amount) for amount in run.amounts],
        "considered": [
            {"backend": tried.backend, "usable": tried.usable, "reason": tried.reason}
            for tried in run.measured.considered
        ],
        "warnings": [asdict(warning) for warning in _warnings(run)],
    }


def _warnings(run: CommandRun) -> list[MeasurementWarning]:
    """Return the warnings about joules; the report has no emissions."""
    unused = WarningCode.EMISSIONS_UNAVAILABLE
    return [warning for warning in run.measured.warnings if warning.code is not unused]


def _amount_object(energy: Energy, amount: Amount) -> dict[str, Any]:
    per = asdict(energy.per(amount.amount))
    return {**asdict(amount), **{name.replace("joules", "joules_per"): value for name, value in per.items()}}


def table(run: CommandRun) -> str:
    """Return the table: a line for each GPU, the total, the amounts and the warnings."""
    measurement = run.measured.measurement
    duration_s = measurement.duration_sec if measurement else run.duration_s
    backend = f"backend {measurement.backend}, scope {measurement.scope}" if measurement else "no backend"
    lines = [f"llem-measure: {duration_s:.3f} s, {backend}, exit code {run.exit_code}"]
    if rows := gpu_rows(run):
        lines += _aligned([_HEADINGS, *map(_cells, rows)])
    energy = total(run)
    lines.append(f"total {_joules(energy, '.1f', 'J')}")
    for amount in run.amounts:
        each = _joules(energy.per(amount.amount), ".4g", "J each")
        lines.append(f"{amount.name}: {amount.amount:.12g}, {each}")
    lines += [f"warning: {warning.message}" for warning in _warnings(run)]
    return "\n".join(map(_printable, lines))


_HEADINGS: Final = ("GPU", "name", "uuid", "joules", "low", "high", "mean W", "peak W", "coverage")


def _cells(row: GpuRow) -> tuple[str, ...]:
    values = (row.joules, row.joules_low, row.joules_high, row.mean_watts, row.peak_watts)
    names = (str(row.index), row.name or "-", row.uuid[:_UUID_CHARACTERS])
    return (*names, *(_text(value, ".1f") for value in values), f"{row.coverage:.4f}")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.ljust] * 3 + [str.rjust] * (len(widths) - 3)  # three columns of text, then numbers
    return [
        "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True))
        for row in rows
    ]


def _joules(energy: Energy, form: str, unit: str) -> str:
    joules, low, high = (_text(value, form) for value in astuple(energy))
    return f"{joules} {unit}" + ("" if low == high == "-" else f" ({low} to {high})")


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _printable(text: str) -> str:
    """Return the text on one line; a driver's text may hold control characters."""
    return "".join(character if character.isprintable() else " " for character in text)
