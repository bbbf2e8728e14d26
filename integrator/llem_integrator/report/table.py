"""The table: a window after the other, for people."""

import math
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Final

from llem_integrator.report import About
from llem_integrator.result import GpuEnergy, WindowResult
from llem_integrator.window import rfc3339

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SENSOR_NOTE: Final = (
    "low and high bound what lies between the readings; the sensor's own delay, averaging and gain "
    "(about ±5 %) are in no figure"
)
_JOULES_PER_WATT_HOUR: Final = 3600
_WIDE: Final = 160
"""Columns where the output is no terminal."""

_FIGURES: Final = {"emissions_g": 3, "price": 4, "idle_j": 1, "active_j": 1}
"""Fields that have a column where they were asked for, and their digits."""

_HEADINGS: Final = {"emissions_g": "gCO2e", "price": "price", "idle_j": "idle J", "active_j": "active J"}


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """A table a window as it comes, with what a reader must know of it below."""
    from rich.console import Console

    width = None if out.isatty() else _WIDE
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    any_joules = False
    for result in results:
        _print_window(console, result, about)
        out.flush()
        any_joules = any_joules or any(gpu.joules is not None for gpu in result.gpus)
    if any_joules:
        console.print(_SENSOR_NOTE, soft_wrap=True)
        for name, note in about.notes.items():
            console.print(f"{_HEADINGS.get(name, name)}: {note}", soft_wrap=True)


def _print_window(console: "Console", result: WindowResult, about: About) -> None:
    start, end = rfc3339(round(result.start * 1e6)), rfc3339(round(result.end * 1e6))
    name = f"{result.name}: " if result.name else ""
    nodes = {gpu.instances for gpu in result.gpus}
    one_node = f" on {', '.join(min(nodes))}" if len(nodes) == 1 and any(nodes) else ""
    console.print(f"{name}{start} to {end} ({result.duration_sec:g} s){one_node}", soft_wrap=True)
    if result.gpus:
        console.print(_table(result, about, with_node=not one_node))
    console.print(_total(result, about), soft_wrap=True)
    for gpu in result.gpus:
        others = ", ".join(f"{by} {_number(joules, 1)} J" for by, joules in gpu.joules_by_backend.items())
        if len(gpu.joules_by_backend) > 1:
            console.print(f"GPU {gpu.gpu}: {others}", soft_wrap=True)
    for line in _remarks(result):
        console.print(line, soft_wrap=True)


def _table(result: WindowResult, about: About, *, with_node: bool) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("GPU", "name", *(("node",) if with_node else ())):
        table.add_column(heading, overflow="fold")
    for heading in ("joules", "low", "high", "Wh", "mean W", "peak W", "coverage"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("by")
    more = [name for name in _FIGURES if name in about.added or name in about.notes]
    for heading in (*(_HEADINGS[name] for name in more), *_exact_headings(about)):
        table.add_column(heading, justify="right")
    for gpu in result.gpus:
        node = (",".join(gpu.instances),) if with_node else ()
        figures = [_number(getattr(gpu, name), _FIGURES[name]) for name in more]
        exact = _exact(gpu) if _exact_headings(about) else []
        table.add_row(gpu.gpu or gpu.uuid, gpu.name or "", *node, *_row(gpu), *figures, *exact)
    return table


def _total(result: WindowResult, about: About) -> str:
    """The line of totals; those of figures only where every GPU has them."""
    line = f"total {_number(result.total_j, 1)} J"
    for name in ("emissions_g", "price"):
        values = [getattr(gpu, name) for gpu in result.gpus]
        if name in about.notes and values and None not in values:
            line += f", {_HEADINGS[name]} {_number(math.fsum(values), _FIGURES[name])}"
    return f"{line}, backend {result.backend}, scope {result.scope}"


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
        f"{gpu.backend} {gpu.method or ''}{', calibrated' if gpu.calibrated else ''}".strip(),
    ]


def _exact_headings(about: About) -> tuple[str, ...]:
    return ("exact J", "error") if "exact_j" in about.added else ()


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
