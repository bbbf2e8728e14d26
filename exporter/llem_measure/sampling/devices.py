"""What a GPU is to the exporter; NVML is behind it, or a replayed trace."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Who a GPU is, and how its power is read.

    `index` is NVML's. `power_source` is "instant", "average" (over 1 s), "legacy", "replay" or, where
    power cannot be read, "none"; `scope` is "gpu" or "module" (a superchip's CPU and memory included).
    """

    index: int
    uuid: str
    name: str
    driver_version: str = ""
    pci_bus_id: str = ""
    minor_number: str = ""
    power_source: str = "none"
    scope: str = "gpu"


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A part of a GPU, as "1g.10gb"; what the GPU draws cannot be divided among them."""

    uuid: str
    profile: str


@dataclass(frozen=True, slots=True)
class Status:
    """The slow readings of a GPU; None is what could not be read. `throttle` is empty then.

    `errors` are the driver's names of what failed, each once; a reading that the GPU does not have is none.
    """

    temperature_celsius: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    utilization_ratio: float | None = None
    limit_watts: float | None = None
    throttle: dict[str, bool] = field(default_factory=dict)
    slices: tuple[MigSlice, ...] = ()
    errors: tuple[str, ...] = ()


class Device(Protocol):
    """A GPU whose power can be read, again and again, by one thread."""

    @property
    def info(self) -> DeviceInfo: ...

    def read_watts(self, unix_ms: int) -> float:
        """Power now, which is `unix_ms`. Raises DeviceError; DeviceLostError asks for `reopen`."""
        ...

    def read_status(self) -> Status: ...

    def reopen(self) -> None:
        """Find the GPU again after it was lost. Raises DeviceError while it is not there."""
        ...


class EnergyCounter(Protocol):
    """A GPU's own energy counter."""

    def read_joules(self, unix_ms: int) -> float:
        """The counter now, which is `unix_ms`. Raises DeviceError."""
        ...

    def reopen(self) -> None:
        """Find the GPU again after it was lost. Raises DeviceError while it is not there."""
        ...
