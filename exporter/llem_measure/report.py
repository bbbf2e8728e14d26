"""What llem-measure reports about a command: a table for people, a JSON document for programs."""

import math
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from llem_core.backend import Candidate
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode

SCHEMA: Final = 1

REMEDIES: Final = {
    WarningCode.FEW_SAMPLES: "measure a longer command",
    WarningCode.SAMPLE_GAP: "if the machine was overloaded or the command was stopped, measure it again; "
    "zeus has no gaps",
    WarningCode.COUNTER_RESET: "measure again, without a driver reload or GPU reset in between",
    WarningCode.COUNTER_LATE: "measure a longer command",
    WarningCode.GPU_LOST: "look for Xid errors in dmesg, reset the GPU, and measure again",
    WarningCode.THERMAL_DRIFT: "warm the GPU up before you measure",
    WarningCode.MIG_SLICE: "run nothing else on this GPU",
}
"""What to do about a warning, where its message does not say it."""

_UUID_CHARACTERS: Final = 12
"""The table shows "GPU-" and eight digits of a UUID: enough for --gpus."""


@dataclass(frozen=True, slots=True)
class NamedGpu:
    """A GPU: NVML's index, UUID and model; "" where unknown."""

    index: int
    uuid: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of work, such as 1000 tokens, that the energy is divided by."""

    name: str
    amount: float


@dataclass(frozen=True, slots=True)
class CommandRun:
    """A command that has ended, and its measurement.

    Times are the command's own. `warnings` say why `measurement` is None.
    """

    command: tuple[str, ...]
    exit_code: int
    start_unix_s: float
    duration_s: float
    gpus: tuple[NamedGpu, ...] = ()
    measurement: EnergyMeasurement | None = None
    considered: tuple[Candidate, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()
    amounts: tuple[Amount, ...] = ()


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules with bounds. None: not measured, or nothing bounds it."""

    joules: float | None = None
    joules_low: float | None = None
    joules_high: float | None = None

    def per(self, amount: float) -> tuple[float | None, float | None, float | None]:
        """Return joules, low and high bound divided by an amount."""
        values = (self.joules, self.joules_low, self.joules_high)
        joules, low, high = (None if value is None else value / amount for value in values)
        return joules, low, high


@dataclass(frozen=True, slots=True)
class GpuRow:
    """The figures of one GPU. None is unknown."""

    gpu: NamedGpu
    energy: Energy
    mean_watts: float | None
    peak_watts: float | None
    coverage: float


def gpu_rows(run: CommandRun) -> list[GpuRow]:
    """Return a row for each GPU; none where the joules are those of a node without GPUs."""
    measurement = run.measurement
    if measurement is None or measurement.scope == "node":
        return []
    named = {gpu.index: gpu for gpu in run.gpus}
    for index in measurement.per_gpu_j or {}:
        named.setdefault(index, NamedGpu(index))
    return [_gpu_row(measurement, gpu) for gpu in named.values()]


def _gpu_row(measurement: EnergyMeasurement, gpu: NamedGpu) -> GpuRow:
    joules = (measurement.per_gpu_j or {}).get(gpu.index)
    low, high = (measurement.per_gpu_bounds_j or {}).get(gpu.index, (None, None))
    coverage = (measurement.per_gpu_coverage or {}).get(gpu.index)
    if coverage is None:
        lost = joules is None and measurement.per_gpu_j is not None
        coverage = 0.0 if lost else measurement.coverage
    covered_s = measurement.duration_sec * coverage
    return GpuRow(
        gpu=gpu,
        energy=Energy() if joules is None else Energy(joules, low, _finite(high)),
        mean_watts=joules / covered_s if joules is not None and covered_s > 0 else None,
        peak_watts=(measurement.per_gpu_peak_watts or {}).get(gpu.index),
        coverage=coverage,
    )


def total(run: CommandRun) -> Energy:
    """Return the energy of all GPUs. A GPU without joules or bounds leaves the sum without an upper bound."""
    if run.measurement is None or run.measurement.total_j is None:
        return Energy()
    rows = gpu_rows(run)
    lows = [row.energy.joules_low for row in rows if row.energy.joules_low is not None]
    highs = [row.energy.joules_high for row in rows if row.energy.joules_high is not None]
    return Energy(
        run.measurement.total_j,
        math.fsum(lows) if lows else None,
        math.fsum(highs) if rows and len(highs) == len(rows) else None,
    )


def document(run: CommandRun) -> dict[str, Any]:
    """Return the JSON document: unrounded numbers, None where a value is unknown."""
    measurement = run.measurement
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
        "backend": str(measurement.backend) if measurement else None,
        "scope": measurement.scope if measurement else None,
        "per_gpu": [_gpu_object(row) for row in gpu_rows(run)],
        "per": [_amount_object(total(run), amount) for amount in run.amounts],
        "considered": [
            {"backend": str(tried.backend), "usable": tried.usable, "reason": tried.reason}
            for tried in run.considered
        ],
        "warnings": [
            {"code": str(warning.code), "message": warning.message, "uuid": warning.uuid}
            for warning in run.warnings
        ],
    }


def _gpu_object(row: GpuRow) -> dict[str, Any]:
    return {
        "index": row.gpu.index,
        "uuid": row.gpu.uuid or None,
        "name": row.gpu.name or None,
        **asdict(row.energy),
        "mean_watts": row.mean_watts,
        "peak_watts": row.peak_watts,
        "coverage": row.coverage,
    }


def _amount_object(energy: Energy, amount: Amount) -> dict[str, Any]:
    joules, low, high = energy.per(amount.amount)
    return {**asdict(amount), "joules_per": joules, "joules_per_low": low, "joules_per_high": high}


def table(run: CommandRun) -> str:
    """Return the table: a line for each GPU, the total, the amounts and the warnings."""
    measurement = run.measurement
    duration_s = measurement.duration_sec if measurement else run.duration_s
    backend = f"backend {measurement.backend}, scope {measurement.scope}" if measurement else "no backend"
    lines = [f"llem-measure: {duration_s:.3f} s, {backend}, exit code {run.exit_code}"]
    if rows := gpu_rows(run):
        lines += _aligned([_HEADINGS, *map(_cells, rows)])
    energy = total(run)
    lines.append(
        f"total {_text(energy.joules, '.1f')} J{_range(energy.joules_low, energy.joules_high, '.1f')}"
    )
    for amount in run.amounts:
        joules, low, high = energy.per(amount.amount)
        each = f"{_text(joules, '.4g')} J each{_range(low, high, '.4g')}"
        lines.append(f"{amount.name}: {amount.amount:.12g}, {each}")
    lines += _warning_lines(run.warnings)
    return "".join(f"{_printable(line)}\n" for line in lines)


_HEADINGS: Final = ("GPU", "name", "uuid", "joules", "low", "high", "mean W", "peak W", "coverage")
_TEXT_COLUMNS: Final = 3
"""The first columns are text, aligned on the left."""


def _cells(row: GpuRow) -> tuple[str, ...]:
    energy, gpu = row.energy, row.gpu
    values = (energy.joules, energy.joules_low, energy.joules_high, row.mean_watts, row.peak_watts)
    names = (str(gpu.index), gpu.name or "-", gpu.uuid[:_UUID_CHARACTERS] or "-")
    return (*names, *(_text(value, ".1f") for value in values), f"{row.coverage:.4f}")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.ljust] * _TEXT_COLUMNS + [str.rjust] * (len(widths) - _TEXT_COLUMNS)
    return [
        "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True))
        for row in rows
    ]


def _warning_lines(warnings: Sequence[MeasurementWarning]) -> Iterator[str]:
    for warning in warnings:
        remedy = REMEDIES.get(warning.code)
        yield f"warning: {warning.message}{f'; {remedy}' if remedy else ''}"


def _range(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None and high is None else f" ({_text(low, form)} to {_text(high, form)})"


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _printable(text: str) -> str:
    """Return the text on one line; a driver's text may hold control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def write_file(path: Path, text: str) -> None:
    """Write a file atomically: until it is complete, the old file stays. Raises OSError.

    A pipe or a device is written directly.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
