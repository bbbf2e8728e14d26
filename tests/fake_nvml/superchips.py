"""Fake drivers of superchips. Where a figure is not known from hardware, it is only plausible."""

from pathlib import Path
from typing import Any

from .driver import FakeDriver
from .gpu import Architecture, EnergyScope


def gb200(directory: Path, *, energy_scope: EnergyScope = "gpu", **defaults: Any) -> FakeDriver:
    """Return a driver of a GB200 tray: four GPUs, two per module, and 135 W for the CPU of each module."""
    return _driver(
        directory,
        modules=(0, 0, 1, 1),
        cpu_watts=135.0,
        energy_scope=energy_scope,
        defaults={
            "name": "NVIDIA GB200",
            "architecture": Architecture.BLACKWELL,
            "power_limit_watts": 1200.0,
            "default_limit_watts": 1200.0,
            "max_limit_watts": 1200.0,
            **defaults,
        },
    )


def gh200(
    directory: Path, gpus: int = 1, *, energy_scope: EnergyScope = "module", **defaults: Any
) -> FakeDriver:
    """Return a driver of GH200s: one GPU per module, and 80 W for its CPU. The counter is the module's."""
    return _driver(
        directory,
        modules=tuple(range(gpus)),
        cpu_watts=80.0,
        energy_scope=energy_scope,
        defaults={
            "name": "NVIDIA GH200 480GB",
            "power_limit_watts": 900.0,
            "default_limit_watts": 900.0,
            "max_limit_watts": 900.0,
            **defaults,
        },
    )


def gb10(directory: Path, **defaults: Any) -> FakeDriver:
    """Return a driver of a GB10: one GPU, C2C on, module power not supported, the counter is the GPU's."""
    return _driver(
        directory,
        modules=(0,),
        cpu_watts=20.0,
        energy_scope="gpu",
        defaults={
            "name": "NVIDIA GB10",
            "architecture": Architecture.BLACKWELL,
            "module_power_supported": False,
            **defaults,
        },
    )


def _driver(
    directory: Path,
    *,
    modules: tuple[int, ...],
    cpu_watts: float,
    energy_scope: EnergyScope,
    defaults: dict[str, Any],
) -> FakeDriver:
    """`modules` has the module of each GPU; `cpu_watts` is the power of each module's CPU."""
    driver = FakeDriver(directory, gpus=len(modules), **defaults)
    for gpu, module in zip(driver.gpus, modules, strict=True):
        gpu.module = module
    for module in set(modules):
        driver.modules[module].cpu_watts = cpu_watts
    for gpu in driver.gpus:
        gpu.energy_scope = energy_scope
    return driver
