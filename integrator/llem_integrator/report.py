"""Results as people and programs read them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any, Final

from llem_integrator.result import GpuEnergy, WindowResult
from llem_integrator.window import rfc3339

_SENSOR_NOTE: Final = (
    "low and high bound what lies between the readings; the sensor's own delay, averaging and gain "
    "(about ±5 %) are in no figure"
)
_JOULES_PER_WATT_HOUR: Final = 3600


def to_json(source: str, results: Sequence[WindowResult]) -> str:
    """The JSON document of DESIGN "Commands": numbers unrounded, what is unknown is null."""
    windows = [_window(result) for result in results]
    return json.dumps({"schema": 1, "source": source, "windows": windows}, indent=2, allow_nan=False)


def _window(result: WindowResult) -> dict[str, Any]:
    fields = asdict(result)
    for gpu in fields["gpus"]:
        if gpu["exact_j"] is None:  # only the demo knows it
            del gpu["exact_j"]
    return fields


def print_table(results: Sequence[WindowResult], out: IO[str]) -> None:
    """A table a window, with what a reader must know of it below."""
    from rich.console import Console
    from rich.table import Table

    wide = None if out.isatty() else 160
    console = Console(file=out, width=wide, highlight=False)
    for result in results:
        start, end = rfc3339(round(result.start * 1e6)), rfc3339(round(result.end * 1e6))
        title = f"{result.name + ': ' if result.name else ''}{start} to {end} ({result.duration_sec:g} s)"
        console.print(title, markup=False)
        exact = any(gpu.exact_j is not None for gpu in result.gpus)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("GPU", "name", "node"):
            table.add_column(heading)
        for heading in ("joules", "low", "high", "Wh", "mean W", "peak W", "coverage"):
            table.add_column(heading, justify="right")
        table.add_column("by")
        for heading in ("exact J", "error") if exact else ():
            table.add_column(heading, justify="right")
        for gpu in result.gpus:
            table.add_row(*_row(gpu), *(_exact(gpu) if exact else ()))
        if result.gpus:
            console.print(table)
        total = _number(result.total_j, 1)
        console.print(f"total {total} J, backend {result.backend}, scope {result.scope}", markup=False)
        for gpu in result.gpus:
            others = ", ".join(
                f"{name} {_number(value, 1)} J" for name, value in gpu.joules_by_backend.items()
            )
            if len(gpu.joules_by_backend) > 1:
                console.print(f"GPU {gpu.gpu}: {others}", markup=False)
        for line in _remarks(result):
            console.print(line, markup=False)
    if any(gpu.joules is not None for result in results for gpu in result.gpus):
        console.print(_SENSOR_NOTE, markup=False)


def _row(gpu: GpuEnergy) -> list[str]:
    hours = None if gpu.joules is None else gpu.joules / _JOULES_PER_WATT_HOUR
    return [
        gpu.gpu or gpu.uuid,
        gpu.name or "",
        ",".join(gpu.instances),
        _number(gpu.joules, 1),
        _number(gpu.joules_low, 1),
        _number(gpu.joules_high, 1),
        _number(hours, 3),
        _number(gpu.mean_watts, 1),
        _number(gpu.peak_watts, 1),
        f"{gpu.coverage:.4f}",
        f"{gpu.backend} {gpu.method or ''}".strip(),
    ]


def _exact(gpu: GpuEnergy) -> list[str]:
    if gpu.exact_j is None or gpu.joules is None:
        return ["-", "-"]
    return [_number(gpu.exact_j, 1), f"{gpu.joules / gpu.exact_j - 1:+.4%}"]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _remarks(result: WindowResult) -> list[str]:
    lines = [
        f"warning: {f'GPU {_short(one.uuid)}: ' if one.uuid else ''}{one.message}" for one in result.warnings
    ]
    if not result.valid:
        lines.append(f"not valid: {', '.join(result.reasons)}")
        lines += [f"  {one.backend}: {one.reason}" for one in result.considered]
    return lines


def _short(uuid: str) -> str:
    return uuid if len(uuid) <= 16 else f"{uuid[:12]}…"
