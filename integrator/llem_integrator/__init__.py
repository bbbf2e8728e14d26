"""Reads scraped samples, and returns the energy of each GPU in windows of time.

    from llem_integrator import Request, Window, open_source, run

    source = open_source("http://localhost:9090")
    results = run(source, [Window.between(1795507546, 1795507606)], Request(min_coverage=0.95))
    results.to_pandas()

The trapezoid and the gap factor are in llem_core.energy, and the priority of the backends is in
llem_core.backend. The exporter and llem-measure use the same.

Modules are imported when they are first used. All errors are LLEMErrors with a message of one line:
ConfigError for values that are invalid, SourceError for a source that cannot be read.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llem_core import __version__
    from llem_core.backend import Backend
    from llem_core.errors import ConfigError, LLEMError, SourceError
    from llem_core.measurement import MeasurementWarning, WarningCode
    from llem_integrator.api import Results, run, stream
    from llem_integrator.contents import Contents, list_contents
    from llem_integrator.http.access import HttpConfig, Tls, http_config
    from llem_integrator.results.fields import Considered, GpuEnergy, WindowResult
    from llem_integrator.results.request import Correction, Request
    from llem_integrator.stores import Source, open_source, parse_selector
    from llem_integrator.windows.job_lookup import find_job
    from llem_integrator.windows.lists import WindowList, parse_windows, read_windows
    from llem_integrator.windows.wait import wait_for_samples
    from llem_integrator.windows.window import Window, parse_window

__all__ = [
    "Backend",
    "ConfigError",
    "Considered",
    "Contents",
    "Correction",
    "GpuEnergy",
    "HttpConfig",
    "LLEMError",
    "MeasurementWarning",
    "Request",
    "Results",
    "Source",
    "SourceError",
    "Tls",
    "WarningCode",
    "Window",
    "WindowList",
    "WindowResult",
    "__version__",
    "find_job",
    "http_config",
    "list_contents",
    "open_source",
    "parse_selector",
    "parse_window",
    "parse_windows",
    "read_windows",
    "run",
    "stream",
    "wait_for_samples",
]

_MODULES: Final = {
    "llem_core": ("__version__",),
    "llem_core.backend": ("Backend",),
    "llem_core.errors": ("ConfigError", "LLEMError", "SourceError"),
    "llem_core.measurement": ("MeasurementWarning", "WarningCode"),
    "llem_integrator.api": ("Results", "run", "stream"),
    "llem_integrator.contents": ("Contents", "list_contents"),
    "llem_integrator.http.access": ("HttpConfig", "Tls", "http_config"),
    "llem_integrator.results.fields": ("Considered", "GpuEnergy", "WindowResult"),
    "llem_integrator.results.request": ("Correction", "Request"),
    "llem_integrator.stores": ("Source", "open_source", "parse_selector"),
    "llem_integrator.windows.job_lookup": ("find_job",),
    "llem_integrator.windows.lists": ("WindowList", "parse_windows", "read_windows"),
    "llem_integrator.windows.wait": ("wait_for_samples",),
    "llem_integrator.windows.window": ("Window", "parse_window"),
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
