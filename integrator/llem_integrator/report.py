"""Results as people and programs read them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, Final

from llem_integrator.result import GpuEnergy, WindowResult
from llem_integrator.window import rfc3339

if TYPE_CHECKING:
    from rich.console import Console

_SENSOR_NOTE: Final = (
    "low and high bound what lies between the readings; the sensor's own delay, averaging and gain "
    "(about ±5 %) are in no figure"
)
_JOULES_PER_WATT_HOUR: Final = 3600
_WIDE: Final = 160
"""Columns where the output is no terminal."""


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

    console = Console(file=out, width=None if out.isatty() else _WIDE, highlight=False, markup=False)
    for result in results:
        _print_window(console, result)
    if any(gpu.joules is not None for result in results for gpu in result.gpus):
        console.print(_SENSOR_NOTE, soft_wrap=True)


def _print_window(console: "Console", result: WindowResult) -> None:
    from rich.table import Table

    start, end = rfc3339(round(result.start * 1e6)), rfc3339(round(result.end * 1e6))
    name = f"{result.name}: " if result.name else ""
    nodes = {gpu.instances for gpu in result.gpus}
    one_node = f" on {', '.join(min(nodes))}" if len(nodes) == 1 and any(nodes) else ""
    console.print(f"{name}{start} to {end} ({result.duration_sec:g} s){one_node}", soft_wrap=True)
    exact = any(gpu.exact_j is not None for gpu in result.gpus)
    emissions = any(gpu.emissions_g is not None for gpu in result.gpus)
    table = Table(box=None, pad_edge=False)
    for heading in ("GPU", "name", *(() if one_node else ("node",))):
        table.add_column(heading, overflow="fold")
    numbers = ("joules", "low", "high", "Wh", "mean W", "peak W", "coverage")
    for heading in numbers:
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("by")
    for heading in (*(("gCO2e",) if emissions else ()), *(("exact J", "error") if exact else ())):
        table.add_column(heading, justify="right")
    for gpu in result.gpus:
        node = () if one_node else (",".join(gpu.instances),)
        more = [_number(gpu.emissions_g, 3)] if emissions else []
        more += _exact(gpu) if exact else []
        table.add_row(gpu.gpu or gpu.uuid, gpu.name or "", *node, *_row(gpu), *more)
    if result.gpus:
        console.print(table)
    total = f"total {_number(result.total_j, 1)} J, backend {result.backend}, scope {result.scope}"
    console.print(total, soft_wrap=True)
    for gpu in result.gpus:
        others = ", ".join(f"{by} {_number(joules, 1)} J" for by, joules in gpu.joules_by_backend.items())
        if len(gpu.joules_by_backend) > 1:
            console.print(f"GPU {gpu.gpu}: {others}", soft_wrap=True)
    for line in _remarks(result):
        console.print(line, soft_wrap=True)


def _row(gpu: GpuEnergy) -> list[str]:
    hours = None if gpu.joules is None else gpu.joules / _JOULES_PER_WATT_HOUR
    return [
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
