"""The formats of results, one module each with a function `write(results, out, about)`.

Each function writes results as they arrive, and keeps only a few of them in memory.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import IO, Any, Final

from llem_core.errors import ConfigError
from llem_integrator.results.fields import WindowResult


@dataclass(frozen=True, slots=True)
class About:
    """What a report says about all results.

    `source` is the address of the source. `added` are the fields of GpuEnergy that are shown only on request.
    `notes` explain figures, by field.
    """

    source: str
    added: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


Write = Callable[[Iterable[WindowResult], IO[Any], About], None]

_MODULES: Final = {
    "table": "table",
    "json": "json_document",
    "csv": "csv_rows",
    "parquet": "parquet_file",
    "openmetrics": "openmetrics_text",
}
FORMATS: Final = tuple(_MODULES)
BINARY: Final = frozenset({"parquet"})
_SUFFIXES: Final = {
    "": "table",
    ".txt": "table",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".om": "openmetrics",
    ".prom": "openmetrics",
}


def format_of(path: str) -> str:
    """Return the format of a file by its suffix. Raises ConfigError if no format has the suffix."""
    suffix = PurePath(path).suffix.lower()
    if suffix not in _SUFFIXES:
        known = ", ".join(filter(None, _SUFFIXES))
        raise ConfigError(f"--output {path!r} has none of the suffixes {known}: choose a --format")
    return _SUFFIXES[suffix]


def writer(form: str) -> Write:
    """Return the function that writes a format. Raises ConfigError if a library is not installed."""
    write: Write = importlib.import_module(f"llem_integrator.report.{_MODULES[form]}").write
    if form == "parquet":
        require("pyarrow", "--format parquet", "pyarrow")
    return write


def printable(text: str) -> str:
    """Return the text with a replacement for each character that could control a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)


def require(library: str, wanted_by: str, packages: str) -> Any:
    """Import an optional library. Raises ConfigError with the packages to install."""
    try:
        return importlib.import_module(library)
    except ImportError as exc:
        raise ConfigError(f"{wanted_by} needs {library}: pip install {packages} ({exc})") from exc
