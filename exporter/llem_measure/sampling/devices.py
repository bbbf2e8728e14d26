"""What the sampler needs of a GPU: NVML implements it, and so does a replayed trace."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A GPU's identity and how its power is read.

    `index` is NVML's. `uuid` is "" until the GPU has been opened. `power_source` is "instant", "average"
    (over 1 s), "legacy", "replay", or "none" if power cannot be read. `module` identifies the superchip
    module that the GPU is part of; it is "" for other GPUs.
    """

    index: int
    uuid: str
    name: str = ""
    driver_version: str = ""
    pci_bus_id: str = ""
    minor_number: str = ""
    power_source: str = "none"
    module: str = ""

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.uuid})" if self.uuid else f"GPU {self.index}"


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A MIG slice of a GPU, for example "1g.10gb". Power cannot be divided among the slices of a GPU."""

    uuid: str
    profile: str


@dataclass(frozen=True, slots=True)
class Status:
    """A GPU's status, read once a second. A value is None, and `throttle` is empty, if it was not read.

    `module_watts` is the power of the whole superchip module. `errors` are the driver's names of the errors
    of failed readings. A reading that the GPU does not offer is not an error.
    """

    temperature_celsius: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    utilization_ratio: float | None = None
    sm_clock_hertz: float | None = None
    limit_watts: float | None = None
    module_watts: float | None = None
    throttle: dict[str, bool] = field(default_factory=dict)
    slices: tuple[MigSlice, ...] = ()
    errors: tuple[str, ...] = ()


class Device(Protocol):
    """A GPU. One thread at a time calls these methods."""

    @property
    def info(self) -> DeviceInfo: ...

    def open(self) -> object:
        """Open the GPU, or open it again after it was lost. Raises DeviceError."""
        ...

    def read_watts(self, unix_ms: int) -> float:
        """Return the GPU's own power at `unix_ms`, which is now.

        Raises DeviceError. After DeviceLostError, the caller must call open().
        """
        ...

    def read_status(self) -> Status:
        """Return the status. Errors are part of the result."""
        ...


class EnergyCounter(Protocol):
    """A GPU's hardware energy counter. One thread at a time calls these methods."""

    def open(self) -> bool:
        """Open the counter. Returns False if the GPU has none. Raises DeviceError."""
        ...

    def read_joules(self, unix_ms: int) -> float:
        """Return the counter's value at `unix_ms`, which is now. Raises DeviceError."""
        ...
