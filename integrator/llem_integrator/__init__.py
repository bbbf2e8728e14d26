"""Reads scraped samples back and gives joules per GPU for any window.

    from llem_integrator import Request, Results, Window, integrate, open_source

    source = open_source("http://localhost:9090")
    windows = [Window.between(1795507546, 1795507606)]
    results = Results.of(source, integrate(source, windows, Request()))
    results.to_pandas()

Nothing is loaded before it is used. Errors are LLEMErrors, one line each: ConfigError for what cannot work
as asked, SourceError for a store that cannot be read.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llem_core import __version__
    from llem_core.backend import Backend
    from llem_core.errors import ConfigError, LLEMError, SourceError
    from llem_core.measurement import MeasurementWarning, WarningCode
    from llem_integrator.energy.request import Request
    from llem_integrator.energy.result import Considered, GpuEnergy, WindowResult
    from llem_integrator.integration import integrate
    from llem_integrator.report.calibration import Correction
    from llem_integrator.report.figures import Figures
    from llem_integrator.report.results import Results
    from llem_integrator.stores import Source, open_source, parse_selector
    from llem_integrator.windows.window import Window, parse_window

__all__ = [
    "Backend",
    "ConfigError",
    "Considered",
    "Correction",
    "Figures",
    "GpuEnergy",
    "LLEMError",
    "MeasurementWarning",
    "Request",
    "Results",
    "Source",
    "SourceError",
    "WarningCode",
    "Window",
    "WindowResult",
    "__version__",
    "integrate",
    "open_source",
    "parse_selector",
    "parse_window",
]

_HOMES: Final = {
    "llem_core": ("__version__",),
    "llem_core.backend": ("Backend",),
    "llem_core.errors": ("ConfigError", "LLEMError", "SourceError"),
    "llem_core.measurement": ("MeasurementWarning", "WarningCode"),
    "llem_integrator.energy.request": ("Request",),
    "llem_integrator.report.calibration": ("Correction",),
    "llem_integrator.report.figures": ("Figures",),
    "llem_integrator.integration": ("integrate",),
    "llem_integrator.energy.result": ("Considered", "GpuEnergy", "WindowResult"),
    "llem_integrator.report.results": ("Results",),
    "llem_integrator.stores": ("Source", "open_source", "parse_selector"),
    "llem_integrator.windows.window": ("Window", "parse_window"),
}


def __getattr__(name: str) -> Any:
    """A public name from the module that has it, which is imported only now."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
