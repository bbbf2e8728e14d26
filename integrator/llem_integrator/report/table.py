"""The table for people: a table for each window, with its notes below it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import IO, Final

from llem_core.measurement import MeasurementWarning
from llem_integrator.report import About, printable
from llem_integrator.results.fields import Considered, GpuEnergy, WindowResult
from llem_integrator.results.selection import short_uuids
from llem_integrator.windows.window import rfc3339

_SENSOR_NOTE: Final = (
    "low and high bound the energy between the readings; they do not include the sensor's delay, averaging "
    "and gain error (about ±5 %)"
)
_JOULES_PER_WATT_HOUR: Final = 3600
_FIGURES: Final = {
    "emissions_g": ("gCO2e", 3),
    "price": ("price", 4),
    "idle_j": ("idle J", 1),
    "active_j": ("active J", 1),
}
"""The heading and digits of figures that have a column only if they were requested."""

_LEFT: Final = frozenset({"GPU", "UUID", "name", "node", "by"})
"""The headings of texts, which are aligned to the left."""


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """Write a table for each window. Lines are not wrapped."""
    any_joules = False
    for result in results:
        out.writelines(f"{printable(line)}\n" for line in _lines(result, about))
        out.flush()
        any_joules = any_joules or any(gpu.joules is not None for gpu in result.gpus)
    if any_joules:
        notes = [f"{_FIGURES.get(name, (name,))[0]}: {note}" for name, note in about.notes.items()]
        out.writelines(f"{line}\n" for line in [_SENSOR_NOTE, *notes])


def cells(result: WindowResult, about: About, *, with_node: bool = True) -> tuple[list[str], list[list[str]]]:
    """Return the headings of a window, and a row of texts per GPU."""
    figures = [
        name
        for name in _FIGURES
        if {name} & {*about.added, *about.notes} or any(getattr(gpu, name) is not None for gpu in result.gpus)
    ]
    headings = ["GPU", "UUID", "name", "node"] if with_node else ["GPU", "UUID", "name"]
    headings += ["joules", "low", "high", "Wh", "mean W", "peak W", "coverage", "by"]
    headings += [_FIGURES[name][0] for name in figures]
    shorten = short_uuids(gpu.uuid for gpu in result.gpus)
    rows = []
    for gpu in result.gpus:
        row = [gpu.gpu or "-", shorten[gpu.uuid], gpu.name or "", *_numbers(gpu)]
        if with_node:
            row.insert(3, ",".join(gpu.instances))
        rows.append([*row, *(_number(getattr(gpu, name), _FIGURES[name][1]) for name in figures)])
    return headings, rows


def remarks(result: WindowResult) -> list[str]:
    """Return the warnings of a window, and why it is not valid or a higher backend is not used."""
    lines = [f"warning: {_subject(warning, result)}{warning.message}" for warning in result.warnings]
    if result.valid:
        return lines + [f"note: {each.backend}: {each.reason}" for each in _passed_over(result)]
    lines.append(f"not valid: {', '.join(result.reasons)}")
    return lines + [f"  {each.backend}: {each.reason}" for each in result.considered]


def _passed_over(result: WindowResult) -> list[Considered]:
    """Return the backends that measured a GPU and have a higher priority than those that are used."""
    used = {gpu.backend for gpu in result.gpus}
    measured = {backend for gpu in result.gpus for backend in gpu.joules_by_backend}
    higher = takewhile(lambda considered: considered.backend not in used, result.considered)
    return [considered for considered in higher if considered.backend in measured]


def title(result: WindowResult) -> str:
    """Return the name and times of a window."""
    start, end = rfc3339(round(result.start * 1e6)), rfc3339(round(result.end * 1e6))
    name = f"{result.name}: " if result.name else ""
    return f"{name}{start} to {end} ({result.duration_sec:g} s)"


def _lines(result: WindowResult, about: About) -> Iterator[str]:
    nodes = {gpu.instances for gpu in result.gpus}
    one_node = f" on {', '.join(min(nodes))}" if len(nodes) == 1 and any(nodes) else ""
    yield f"{title(result)}{one_node}"
    if result.gpus:
        yield from _aligned(*cells(result, about, with_node=not one_node))
    yield _total(result, about)
    for gpu in result.gpus:
        if len(gpu.joules_by_backend) > 1:
            others = ", ".join(f"{by} {_number(joules, 1)} J" for by, joules in gpu.joules_by_backend.items())
            where = "" if one_node or not gpu.instances else f" on {', '.join(gpu.instances)}"
            yield f"GPU {gpu.gpu}{where}: {others}"
    yield from remarks(result)


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a line per row."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    align = [str.ljust if heading in _LEFT else str.rjust for heading in headings]
    for row in table:
        yield "  ".join(
            put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)
        ).rstrip()


def _total(result: WindowResult, about: About) -> str:
    """Return the line of totals. A figure has a total only if every GPU has the figure."""
    line = f"total {_number(result.total_j, 1)} J"
    for name in ("emissions_g", "price"):
        values = [getattr(gpu, name) for gpu in result.gpus]
        if name in about.notes and values and None not in values:
            heading, digits = _FIGURES[name]
            line += f", {heading} {_number(math.fsum(values), digits)}"
    return f"{line}, backend {result.backend}, scope {result.scope}"


def _numbers(gpu: GpuEnergy) -> list[str]:
    hours = None if gpu.joules is None else gpu.joules / _JOULES_PER_WATT_HOUR
    return [
        *(_number(joules, 1) for joules in (gpu.joules, gpu.joules_low, gpu.joules_high)),
        _number(hours, 3),
        _number(gpu.mean_watts, 1),
        _number(gpu.peak_watts, 1),
        f"{gpu.coverage:.4f}",
        f"{gpu.backend} {gpu.method or ''}{', calibrated' if gpu.calibrated else ''}".strip(),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _subject(warning: MeasurementWarning, result: WindowResult) -> str:
    """Return the index and UUID of the GPU that a warning concerns, or "" if it concerns the window."""
    if warning.uuid is None:
        return ""
    index = next((f" {gpu.gpu}" for gpu in result.gpus if gpu.uuid == warning.uuid and gpu.gpu), "")
    short = short_uuids([*(gpu.uuid for gpu in result.gpus), warning.uuid])[warning.uuid]
    return f"GPU{index} ({short}): "
