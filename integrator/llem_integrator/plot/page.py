"""The plot as one HTML page, which contains data, script and style, and loads nothing."""

import base64
import importlib.resources
import json
from collections.abc import Mapping
from typing import IO, Any, Final

import numpy as np

from llem_integrator.plot.gathered import Gathered
from llem_integrator.plot.grid import Envelope, Grid

POINTS: Final = 200_000
"""Points of all GPUs together, which are about 4 MB of the page."""

COLUMNS: Final = 20_000
_MARK: Final = "{{data}}"


def draw(gathered: Gathered, envelopes: Mapping[str, Envelope], grid: Grid, out: IO[bytes]) -> None:
    """Write the page. Its data are JSON in a script element, escaped so that no text can end the element."""
    page = importlib.resources.files("llem_integrator.plot").joinpath("page.html").read_text("utf-8")
    data = {
        "title": gathered.title(),
        "start_ms": grid.start_ms,
        "end_ms": grid.end_ms,
        "windows": [[window.start_ms, window.end_ms, window.name] for window in gathered.windows],
        "gpus": [
            _gpu(gathered.caption(gpu), envelopes[uuid], grid.start_ms) for uuid, gpu in gathered.gpus.items()
        ],
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    before, _, after = page.partition(_MARK)
    out.write(f"{before}{text}{after}".encode())


def _gpu(caption: str, envelope: Envelope, start_ms: float) -> dict[str, Any]:
    """Times are ms after the start as little-endian float64, watts are float32. NaN interrupts the line."""
    points = envelope.points()
    return {
        "caption": caption,
        "gaps": envelope.gaps_ms(),
        "ms": _base64(points.unix_ms - start_ms, "<f8"),
        "low": _base64(points.low, "<f4"),
        "high": _base64(points.high, "<f4"),
    }


def _base64(values: Any, kind: str) -> str:
    return base64.b64encode(np.asarray(values, kind).tobytes()).decode()
