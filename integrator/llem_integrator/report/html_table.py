"""Results as HTML tables, as notebooks show them."""

from collections.abc import Iterable
from html import escape
from typing import Any, Final

from llem_integrator.energy.result import GpuEnergy, WindowResult
from llem_integrator.report import About
from llem_integrator.windows.window import rfc3339

_HEADINGS: Final = {
    "gpu": "GPU",
    "name": "name",
    "instances": "node",
    "joules": "joules",
    "joules_low": "low",
    "joules_high": "high",
    "mean_watts": "mean W",
    "peak_watts": "peak W",
    "coverage": "coverage",
    "backend": "by",
    "emissions_g": "gCO2e",
    "price": "price",
    "idle_j": "idle J",
    "active_j": "active J",
    "calibrated": "calibrated",
}
_ONLY_WHERE_ASKED: Final = ("emissions_g", "price", "idle_j", "active_j", "calibrated")
_DIGITS: Final = {"coverage": 4, "emissions_g": 3, "price": 4}


def tables(results: Iterable[WindowResult], about: About) -> str:
    """A table for each window, its warnings below."""
    parts = [_window(result, about) for result in results]
    return "".join(parts) or "<p>no windows</p>"


def _window(result: WindowResult, about: About) -> str:
    names = [
        name
        for name in _HEADINGS
        if name not in _ONLY_WHERE_ASKED
        or name in about.added
        or any(getattr(gpu, name) is not None for gpu in result.gpus)
    ]
    head = "".join(f"<th>{escape(_HEADINGS[name])}</th>" for name in names)
    rows = "".join(f"<tr>{''.join(_cell(gpu, name) for name in names)}</tr>" for gpu in result.gpus)
    start, end = (rfc3339(round(edge * 1e6)) for edge in (result.start, result.end))
    total = "no joules" if result.total_j is None else f"{result.total_j:.1f} J"
    title = f"{f'{result.name}: ' if result.name else ''}{start} to {end}: {total}, {result.backend}"
    remarks = [warning.message for warning in result.warnings]
    remarks += [f"not valid: {', '.join(result.reasons)}"] if result.reasons else []
    below = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        + (f"<ul>{below}</ul>" if below else "")
    )


def _cell(gpu: GpuEnergy, name: str) -> str:
    value: Any = getattr(gpu, name)
    match value:
        case None:
            text = "-"
        case bool():
            text = "yes" if value else "no"
        case float():
            text = f"{value:.{_DIGITS.get(name, 1)}f}"
        case tuple():
            text = ", ".join(value)
        case _:
            text = str(value)
    return f"<td>{escape(text)}</td>"
