"""Measure the energy that the GPUs of this machine use while a block of code runs.

    with measure() as measured:
        train()
    print(measured.measurement.total_j if measured.measurement else measured.warnings)

Three backends implement one protocol: ZeusBackend, NVMLBackend and CodeCarbonBackend. select_energy_backend
returns the first backend that works. zeus and codecarbon are imported when they are used.
"""

from llem_core.errors import ConfigError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.backends.base import EnergyBackend
from llem_measure.backends.codecarbon import CodeCarbonBackend
from llem_measure.backends.nvml import NVMLBackend
from llem_measure.backends.selection import (
    get_backend,
    list_backends,
    probe_backends,
    register_backend,
    select_energy_backend,
)
from llem_measure.backends.zeus import ZeusBackend
from llem_measure.block import Measured, measure
from llem_measure.power_thermal import PowerThermalSample, PowerThermalSampler

__all__ = [
    "CodeCarbonBackend",
    "ConfigError",
    "EnergyBackend",
    "EnergyMeasurement",
    "Measured",
    "MeasurementWarning",
    "NVMLBackend",
    "PowerThermalSample",
    "PowerThermalSampler",
    "WarningCode",
    "ZeusBackend",
    "get_backend",
    "list_backends",
    "measure",
    "probe_backends",
    "register_backend",
    "select_energy_backend",
]
