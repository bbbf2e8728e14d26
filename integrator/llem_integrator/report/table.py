"""The table: a window after the other, for people."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Final, Literal

from llem_integrator.energy.result import GpuEnergy, WindowResult
from llem_integrator.report import About, printable
from llem_integrator.windows.window import rfc3339

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SENSOR_NOTE: Final = (
    "low and high bound what lies between the readings; the sensor's own delay, averaging and gain "
    "(about ±5 %) are in no figure"
)
_JOULES_PER_WATT_HOUR: Final = 3600
_Side = Literal["left", "right"]
_FIGURES: Final = {"emissions_g": 3, "price": 4, "idle_j": 1, "active_j": 1}
"""Fields that have a column where they were asked for, and their digits."""

_HEADINGS: Final = {"emissions_g": "gCO2e", "price": "price", "idle_j": "idle J", "active_j": "active J"}


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """Yield a table for each window, with its notes below it."""
    from rich.console import Console

    folds = out.isatty()
    console = Console(file=out, highlight=False, markup=False, emoji=False)
    any_joules = False
    for result in results:
        _print_window(console, result, about, folds=folds)
        out.flush()
        any_joules = any_joules or any(gpu.joules is not None for gpu in result.gpus)
    if any_joules:
        notes = [f"{_HEADINGS.get(name, name)}: {note}" for name, note in about.notes.items()]
        console.print("\n".join([_SENSOR_NOTE, *notes]), soft_wrap=True)


def _print_window(console: "Console", result: WindowResult, about: About, *, folds: bool) -> None:
    """In as few steps as can be: rich takes its time for each, and windows may be thousands."""
    nodes = {gpu.instances for gpu in result.gpus}
    one_node = f" on {', '.join(min(nodes))}" if len(nodes) == 1 and any(nodes) else ""
    lines = [f"{_title(result)}{one_node}"]
    if result.gpus:
        columns, rows = _columns(about, with_node=not one_node), _rows(result, about, with_node=not one_node)
        if folds:
            console.print(printable(lines.pop()), soft_wrap=True)
            console.print(_folding(columns, rows))
        else:
            lines += _aligned(columns, rows)
    lines.append(_total(result, about))
    for gpu in result.gpus:
        if len(gpu.joules_by_backend) > 1:
            others = ", ".join(f"{by} {_number(joules, 1)} J" for by, joules in gpu.joules_by_backend.items())
            where = "" if one_node or not gpu.instances else f" on {', '.join(gpu.instances)}"
            lines.append(f"GPU {gpu.gpu}{where}: {others}")
    console.print("\n".join(map(printable, (*lines, *_remarks(result)))), soft_wrap=True)


def _title(result: WindowResult) -> str:
    start, end = rfc3339(round(result.start * 1e6)), rfc3339(round(result.end * 1e6))
    name = f"{result.name}: " if result.name else ""
    return f"{name}{start} to {end} ({result.duration_sec:g} s)"


def _columns(about: About, *, with_node: bool) -> list[tuple[str, _Side]]:
    """Headings, and on which side their cells begin."""
    names = ("GPU", "name", "node") if with_node else ("GPU", "name")
    figures = ("joules", "low", "high", "Wh", "mean W", "peak W", "coverage")
    more = (*(_HEADINGS[name] for name in _asked(about)), *_exact_headings(about))
    sides: dict[str, _Side] = dict.fromkeys((*names, "by"), "left")
    return [(heading, sides.get(heading, "right")) for heading in (*names, *figures, "by", *more)]


def _rows(result: WindowResult, about: About, *, with_node: bool) -> Iterator[tuple[str, ...]]:
    for gpu in result.gpus:
        node = (",".join(gpu.instances),) if with_node else ()
        figures = [_number(getattr(gpu, name), _FIGURES[name]) for name in _asked(about)]
        exact = _exact(gpu) if _exact_headings(about) else []
        yield (gpu.gpu or gpu.uuid, gpu.name or "", *node, *_row(gpu), *figures, *exact)


def _folding(columns: Sequence[tuple[str, _Side]], rows: Iterable[tuple[str, ...]]) -> "Table":
    """As wide as the terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading, side in columns:
        table.add_column(heading, justify=side, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    return table


def _aligned(columns: Sequence[tuple[str, _Side]], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A line a row, as wide as it is."""
    cells = [tuple(heading for heading, _ in columns), *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    puts = [str.ljust if side == "left" else str.rjust for _, side in columns]
    return [
        "  ".join(put(cell, width) for put, cell, width in zip(puts, row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _asked(about: About) -> list[str]:
    """The figures that have a column."""
    return [name for name in _FIGURES if name in about.added or name in about.notes]


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
