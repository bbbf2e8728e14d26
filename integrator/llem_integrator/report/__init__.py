"""Results as people and programs read them: one module a format, each `write(results, out, about)`.

Every writer takes results as they come and holds no more than a few of them.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from llem_core.errors import ConfigError
from llem_integrator.energy.result import WindowResult


@dataclass(frozen=True, slots=True)
class About:
    """What results were made of: the source's address, and the figures that were asked for.

    `added` are the fields of GpuEnergy that are shown only where they were asked for; `notes` say by
    field what a reader must know of it.
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


def writer(form: str) -> Write:
    """The `write` of a format; raises ConfigError where a library that it needs is not installed."""
    write: Write = importlib.import_module(f"llem_integrator.report.{_MODULES[form]}").write
    if form == "parquet":
        require("pyarrow", "--format parquet", "pyarrow")
    return write


def printable(text: str) -> str:
    """A line for people: what a terminal would obey, or a picture cannot hold, is a sign that says so."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def require(library: str, wanted_by: str, packages: str) -> Any:
    """Import a library that is not always installed. Raises ConfigError with the packages to install."""
    try:
        return importlib.import_module(library)
    except ImportError as exc:
        raise ConfigError(f"{wanted_by} needs {library}: pip install {packages} ({exc})") from exc
