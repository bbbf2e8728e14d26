"""The JSON document: numbers are not rounded, and unknown values are null.

Each GPU has its own line, because the compiled encoder of the standard library cannot indent. With an
indent, it would be five times slower.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import IO, Any, Final

from llem_integrator.report import About
from llem_integrator.results.fields import GpuEnergy, WindowResult

_IF_REQUESTED: Final = ("price", "idle_j", "active_j", "calibrated")
_ALWAYS: Final = tuple(name for name in GpuEnergy._fields if name not in _IF_REQUESTED)
_encode: Final = json.JSONEncoder(allow_nan=False).encode


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """Write the document, one window at a time."""
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
    for field in fields(WindowResult):
        value = getattr(result, field.name)
        match field.name:
            case "gpus":
                text = _list([{name: getattr(gpu, name) for name in names} for gpu in value])
            case "considered" | "warnings":
                text = _list(
                    [{each.name: getattr(item, each.name) for each in fields(item)} for item in value]
                )
            case _:
                text = _encode(value)
        lines.append(f'      "{field.name}": {text}')
    return "    {\n" + ",\n".join(lines) + "\n    }"


def _list(items: Sequence[dict[str, Any]]) -> str:
    """Return a list with one item per line."""
    if not items:
        return "[]"
    return "[\n" + ",\n".join(f"        {_encode(item)}" for item in items) + "\n      ]"
