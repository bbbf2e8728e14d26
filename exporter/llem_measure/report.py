"""What llem-measure reports about a command: a table for people, a JSON document for programs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from llem_core.measurement import EnergyMeasurement, WarningCode
from llem_measure.block import Measured
from llem_measure.nvml.discovery import Gpu

SCHEMA: Final = 1

_UUID_CHARACTERS: Final = 12
"""The table shows "GPU-" and eight digits of a UUID: enough for --gpus."""


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
    gpus: tuple[Gpu, ...] = ()
    amounts: tuple[Amount, ...] = ()


def document(run: CommandRun) -> dict[str, Any]:
    """Return the JSON document: unrounded numbers, None where a value is unknown.

    It has no GPUs if the joules are those of a node without GPUs.
    """
    measurement = run.measured.measurement
    start_unix_s = measurement.start_unix_s if measurement else run.start_unix_s
    duration_s = measurement.duration_sec if measurement else run.duration_s
    rows = [_row(measurement, gpu) for gpu in run.gpus] if measurement and measurement.scope != "node" else []
    total = _total(measurement, rows)
    return {
        "schema": SCHEMA,
        "command": list(run.command),
        "exit_code": run.exit_code,
        "start_unix_s": start_unix_s,
        "end_unix_s": start_unix_s + duration_s,
        "duration_s": duration_s,
        **total,
        "coverage": measurement.coverage if measurement else None,
        "backend": measurement.backend if measurement else None,
        "scope": measurement.scope if measurement else None,
        "per_gpu": rows,
        "per": [{**asdict(amount), **_per(total, amount.amount)} for amount in run.amounts],
        "considered": [
            {"backend": tried.backend, "usable": tried.usable, "reason": tried.reason}
            for tried in run.measured.considered
        ],
        "warnings": [
            asdict(warning)
            for warning in run.measured.warnings
            if warning.code is not WarningCode.EMISSIONS_UNAVAILABLE  # the report has no emissions
        ],
    }


def _row(measurement: EnergyMeasurement, gpu: Gpu) -> dict[str, Any]:
    """Return the figures of one GPU."""
    joules = (measurement.per_gpu_j or {}).get(gpu.index)
    low, high = (measurement.per_gpu_bounds_j or {}).get(gpu.index, (None, None))
    coverage = (measurement.per_gpu_coverage or {}).get(gpu.index, measurement.coverage)
    covered_s = measurement.duration_sec * coverage
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "joules": joules,
        "joules_low": low,
        "joules_high": high if high is not None and math.isfinite(high) else None,
        "mean_watts": joules / covered_s if joules is not None and covered_s > 0 else None,
        "peak_watts": (measurement.per_gpu_peak_watts or {}).get(gpu.index),
        "coverage": coverage,
    }


def _total(measurement: EnergyMeasurement | None, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the energy of all GPUs. If a GPU has no energy or no bounds, there is no upper bound."""
    lows = [row["joules_low"] for row in rows if row["joules_low"] is not None]
    highs = [row["joules_high"] for row in rows if row["joules_high"] is not None]
    return {
        "joules": measurement.total_j if measurement else None,
        "joules_low": math.fsum(lows) if lows else None,
        "joules_high": math.fsum(highs) if rows and len(highs) == len(rows) else None,
    }


def _per(energy: dict[str, float | None], amount: float) -> dict[str, float | None]:
    """Return the energy divided by an amount."""
    return {
        name.replace("joules", "joules_per"): None if value is None else value / amount
        for name, value in energy.items()
    }


def table(run: CommandRun) -> str:
    """Return the document as a table: a line for each GPU, the total, the amounts and the warnings."""
    shown = document(run)
    backend = f"backend {shown['backend']}, scope {shown['scope']}" if shown["backend"] else "no backend"
    lines = [f"llem-measure: {shown['duration_s']:.3f} s, {backend}, exit code {run.exit_code}"]
    if rows := shown["per_gpu"]:
        lines += _aligned([_HEADINGS, *map(_cells, rows)])
    lines.append(f"total {_joules(shown, 'joules', '.1f', 'J')}")
    for each in shown["per"]:
        joules = _joules(each, "joules_per", ".4g", "J each")
        lines.append(f"{each['name']}: {each['amount']:.12g}, {joules}")
    lines += [f"warning: {warning['message']}" for warning in shown["warnings"]]
    return "\n".join(map(_printable, lines))


_HEADINGS: Final = ("GPU", "name", "uuid", "joules", "low", "high", "mean W", "peak W", "coverage")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    figures = ("joules", "joules_low", "joules_high", "mean_watts", "peak_watts")
    names = (str(row["index"]), row["name"] or "-", row["uuid"][:_UUID_CHARACTERS])
    return (*names, *(_text(row[name], ".1f") for name in figures), f"{row['coverage']:.4f}")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.ljust] * 3 + [str.rjust] * (len(widths) - 3)  # three columns of text, then numbers
    return [
        "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True))
        for row in rows
    ]


def _joules(shown: dict[str, Any], name: str, form: str, unit: str) -> str:
    joules, low, high = (_text(shown[name + end], form) for end in ("", "_low", "_high"))
    return f"{joules} {unit}" + ("" if low == high == "-" else f" ({low} to {high})")


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _printable(text: str) -> str:
    """Return the text on one line; a driver's text may hold control characters."""
    return "".join(character if character.isprintable() else " " for character in text)
