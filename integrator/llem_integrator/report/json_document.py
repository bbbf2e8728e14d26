"""The JSON document of DESIGN "Commands": numbers unrounded, what is unknown is null.

A line for each GPU: that is what the standard library's compiled encoder can do; with an indent it
falls back to Python, five times slower.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import IO, Any, Final

from llem_integrator.energy.result import GpuEnergy, WindowResult
from llem_integrator.report import About

_WHERE_ASKED: Final = ("price", "idle_j", "active_j", "calibrated", "exact_j")
_ALWAYS: Final = tuple(name for name in GpuEnergy._fields if name not in _WHERE_ASKED)
_encode: Final = json.JSONEncoder(allow_nan=False).encode


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """Yield the document, one window at a time."""
    notes = f'  "notes": {_encode(dict(about.notes))},\n' if about.notes else ""
    out.write(f'{{\n  "schema": 1,\n  "source": {_encode(about.source)},\n{notes}  "windows": [')
    names = (*_ALWAYS, *about.added)
    for number, result in enumerate(results):
        out.write(",\n" if number else "\n")
        out.write(_window(result, names))
        out.flush()
    out.write("\n  ]\n}\n")


def _window(result: WindowResult, names: Sequence[str]) -> str:
    lines = []
    for one in fields(WindowResult):
        value = getattr(result, one.name)
        match one.name:
            case "gpus":
                text = _lines([{name: getattr(gpu, name) for name in names} for gpu in value])
            case "considered" | "warnings":
                text = _lines(
                    [{each.name: getattr(item, each.name) for each in fields(item)} for item in value]
                )
            case _:
                text = _encode(value)
        lines.append(f'      "{one.name}": {text}')
    return "    {\n" + ",\n".join(lines) + "\n    }"


def _lines(items: Sequence[dict[str, Any]]) -> str:
    """A list with an item a line."""
    if not items:
        return "[]"
    return "[\n" + ",\n".join(f"        {_encode(item)}" for item in items) + "\n      ]"
