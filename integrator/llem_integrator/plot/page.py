"""The plot as one HTML page: data, script and style are inside, and nothing is fetched."""

import base64
import importlib.resources
import json
from collections.abc import Mapping
from typing import IO, Any, Final

import numpy as np

from llem_integrator.plot.gathered import Gathered
from llem_integrator.plot.grid import Envelope, Grid

POINTS: Final = 200_000
"""Over all GPUs: about 4 MB of page."""

COLUMNS: Final = 20_000
_MARK: Final = "{{data}}"


def draw(gathered: Gathered, envelopes: Mapping[str, Envelope], grid: Grid, out: IO[bytes]) -> None:
    """Writes the page. What it shows is JSON inside a script element, of which no text can be the end."""
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
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    before, _, after = page.partition(_MARK)
    out.write(f"{before}{text}{after}".encode())


def _gpu(caption: str, envelope: Envelope, start_ms: float) -> dict[str, Any]:
    """Times are ms after the grid's start in little-endian float64, watts float32; NaN is a break."""
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
