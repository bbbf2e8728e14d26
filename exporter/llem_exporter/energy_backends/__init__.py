"""Energy of a block of code, in its own process: three backends behind one protocol, and their selector.

    backend = select_energy_backend("auto")
    tracker = backend.start_tracking()
    ...
    joules = backend.stop_tracking(tracker).total_j

Each library has one file that imports it, and only when it is used. llem_exporter.measure wraps it all.
"""

from llem_core.errors import ConfigError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_exporter.energy_backends.base import EnergyBackend
from llem_exporter.energy_backends.codecarbon import CodeCarbonBackend
from llem_exporter.energy_backends.nvml import NVMLBackend
from llem_exporter.energy_backends.selection import (
    get_backend,
    list_backends,
    probe_backends,
    register_backend,
    select_energy_backend,
)
from llem_exporter.energy_backends.zeus import ZeusBackend

__all__ = [
    "CodeCarbonBackend",
    "ConfigError",
    "EnergyBackend",
    "EnergyMeasurement",
    "MeasurementWarning",
    "NVMLBackend",
    "WarningCode",
    "ZeusBackend",
    "get_backend",
    "list_backends",
    "probe_backends",
    "register_backend",
    "select_energy_backend",
]
