"""One GPU of the fake driver: its load, its counter, its sensor, its faults, what it reads."""

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Generic, TypeVar

from . import layout
from .load import Load

T = TypeVar("T")

# A change is announced this long before it holds, so that all processes switch at the same instant.
_NOTICE_S = 0.001


class Architecture(IntEnum):
    """NVML_DEVICE_ARCH_*."""

    PASCAL = 4
    VOLTA = 5
    TURING = 6
    AMPERE = 7
    ADA = 8
    HOPPER = 9
    BLACKWELL = 10


_COMPUTE_CAPABILITY = {
    Architecture.PASCAL: (6, 0),
    Architecture.VOLTA: (7, 0),
    Architecture.TURING: (7, 5),
    Architecture.AMPERE: (8, 0),
    Architecture.ADA: (8, 9),
    Architecture.HOPPER: (9, 0),
    Architecture.BLACKWELL: (10, 0),
}


@dataclass(frozen=True, slots=True)
class Calls:
    """NVML calls on one GPU: GetFieldValues, GetTotalEnergyConsumption, GetPowerUsage, and all others."""

    fields: int
    energy: int
    power: int
    slow: int


_CALL_CLASSES = ("fields", "energy", "power", "slow")


class Setting(Generic[T]):
    """An attribute that lives in the shared state."""

    def __init__(self, field: str, read: Callable[[Any], T], write: Callable[[T], Any]) -> None:
        self._field, self._read, self._write = field, read, write

    def __get__(self, gpu: "FakeGpu", owner: type["FakeGpu"]) -> T:
        return self._read(getattr(gpu.state, self._field))

    def __set__(self, gpu: "FakeGpu", value: T) -> None:
        setattr(gpu.state, self._field, self._write(value))


def _whole(field: str) -> Setting[int]:
    return Setting(field, int, int)


def _real(field: str) -> Setting[float]:
    return Setting(field, float, float)


def _flag(field: str) -> Setting[bool]:
    return Setting(field, bool, int)


def _text(field: str) -> Setting[str]:
    return Setting(field, bytes.decode, str.encode)


def _milliwatts(field: str) -> Setting[float]:
    return Setting(field, lambda milliwatts: milliwatts / 1000, lambda watts: round(1000 * watts))


def _clocks(field: str) -> Setting[tuple[int, ...]]:
    return Setting(field, tuple, lambda clocks: clocks)


def _optional(field: str) -> Setting[float | None]:
    return Setting(field, lambda x: None if x < 0 else x, lambda x: -1 if x is None else x)


def _classes(field: str) -> Setting[frozenset[str]]:
    return Setting(
        field,
        lambda bits: frozenset(name for n, name in enumerate(_CALL_CLASSES) if bits >> n & 1),
        lambda names: sum(1 << _CALL_CLASSES.index(name) for name in names),
    )


class FakeGpu:
    """Every attribute may be set while processes read the GPU. Exact joules and watts know no sensor and no gain."""

    # The sensor. Update period 0: follows at once; averaging window 0: instantaneous.
    update_period_s = _real("update_period_s")
    update_offset_s = _real("update_offset_s")
    averaging_window_s = _real("averaging_window_s")
    gain = _real("gain")
    energy_update_period_s = _real("energy_update_period_s")

    # Faults. A hung call ends when `hung` is cleared, or after 600 s with NVML_ERROR_TIMEOUT.
    lost = _flag("lost")
    hung = _flag("hung")
    slow_call_s = _real("slow_call_s")
    power_supported = _flag("power_supported")
    instant_supported = _flag("instant_supported")
    energy_supported = _flag("energy_supported")
    denied = _classes("denied")
    power_override_watts = _optional("power_override_watts")
    mig_slices = _whole("mig_slices")

    # Identity.
    name = _text("name")
    uuid = _text("uuid")
    serial = _text("serial")
    pci_bus = _whole("pci_bus")
    pci_device_id = _whole("pci_device_id")
    minor_number = _whole("minor_number")

    # Readings.
    memory_total_bytes = _whole("memory_total_bytes")
    memory_used_bytes = _whole("memory_used_bytes")
    memory_reserved_bytes = _whole("memory_reserved_bytes")
    utilization_percent = _whole("utilization_percent")
    memory_utilization_percent = _whole("memory_utilization_percent")
    temperature_celsius = _whole("temperature_celsius")
    fan_percent = _whole("fan_percent")
    power_limit_watts = _milliwatts("power_limit_mw")
    default_limit_watts = _milliwatts("default_limit_mw")
    min_limit_watts = _milliwatts("min_limit_mw")
    max_limit_watts = _milliwatts("max_limit_mw")
    throttle_reasons = _whole("throttle_reasons")
    persistence_mode = _flag("persistence_mode")
    performance_state = _whole("performance_state")
    compute_mode = _whole("compute_mode")
    clocks_mhz = _clocks("clocks_mhz")
    max_clocks_mhz = _clocks("max_clocks_mhz")

    def __init__(self, state: layout.Gpu, origin_ns: int, index: int, load: Load) -> None:
        """A new H100 in `state`, without a fault."""
        self.state, self.index = state, index
        self._origin_ns = origin_ns
        self._pieces: list[tuple[float, Load]] = []
        self._append_piece(0.0, 0.0, load)
        self._append_counter(layout.Counter(0.0, 3.1e9 + 1.7e8 * index, 4.2e9 + 1.7e8 * index, 1.0, 0.0))
        self._set_defaults()

    def _set_defaults(self) -> None:
        self.gain = 1.0
        self.power_supported = self.instant_supported = self.energy_supported = True
        self.power_override_watts = None
        self.architecture = Architecture.HOPPER
        self.name = "NVIDIA H100 80GB HBM3"
        self.uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'fake GPU {self.index}')}"
        self.serial = f"165{self.index:010d}"
        self.pci_bus, self.pci_device_id, self.minor_number = 0x10 + self.index, 0x233010DE, self.index
        self.memory_total_bytes, self.memory_used_bytes = 81559 << 20, 30000 + self.index << 20
        self.memory_reserved_bytes = 551 << 20
        self.utilization_percent, self.memory_utilization_percent = 87, 31
        self.temperature_celsius, self.fan_percent = 45 + self.index, -1
        self.power_limit_watts = self.default_limit_watts = self.max_limit_watts = 700.0
        self.min_limit_watts = 200.0
        self.persistence_mode = True
        self.clocks_mhz, self.max_clocks_mhz = (1755, 1755, 2619, 1365), (1980, 1980, 2619, 1545)

    # The load.

    @property
    def load(self) -> Load:
        """The newest load."""
        return self._pieces[-1][1]

    def set_load(
        self, load: Load | None = None, *, at_unix_s: float | None = None, **changes: float
    ) -> float:
        """Change the load, whole or in part; return the unix time from which the new one holds.

        Without at_unix_s it holds in a millisecond, and the call returns when it does. Later times may be
        planned, in ascending order.
        """
        start = self._soon() if at_unix_s is None else self._offset(at_unix_s)
        last_start, last = self._pieces[-1]
        if start <= last_start:
            raise ValueError(
                f"a load must start after the one before it: {start} <= {last_start} s from the origin"
            )
        before = self.state.pieces[(self.state.piece_count - 1) % layout.PIECES].joules_before
        self._append_piece(start, before + last.joules(last_start, start), replace(load or last, **changes))
        if at_unix_s is None:
            self._wait(start)
        return self._origin_ns * 1e-9 + start

    def _append_piece(self, start: float, joules_before: float, load: Load) -> None:
        count = self.state.piece_count
        self.state.pieces[count % layout.PIECES] = layout.Piece(
            start,
            joules_before,
            load.low_watts,
            load.high_watts,
            load.duty,
            load.period_s,
            load.phase,
            load.sine_watts,
            load.sine_period_s,
            load.sine_phase,
        )
        self.state.piece_count = count + 1
        self._pieces.append((start, load))

    def exact_watts(self, unix_s: float) -> float:
        """True power at an instant."""
        t = self._offset(unix_s)
        return next((load for start, load in reversed(self._pieces) if start <= t), self._pieces[0][1]).watts(
            t
        )

    def exact_joules(self, start_unix_s: float, end_unix_s: float) -> float:
        """True joules in a window, over all loads that held in it; the first holds before the origin, too."""
        start, end = self._offset(start_unix_s), self._offset(end_unix_s)
        starts = [-math.inf, *(piece_start for piece_start, _ in self._pieces[1:]), math.inf]
        parts = []
        for (_, load), begins, ends in zip(self._pieces, starts, starts[1:], strict=True):
            a, b = max(start, begins), min(end, ends)
            if a < b:
                parts.append(load.joules(a, b))
        return math.fsum(parts)

    # The energy counter.

    @property
    def energy_gain(self) -> float:
        """Joules counted for each true one."""
        return float(self._counter.gain)

    @energy_gain.setter
    def energy_gain(self, gain: float) -> None:
        self._restart_counter(gain=gain)

    @property
    def module_watts(self) -> float | None:
        """What the Grace CPU of a GH200 draws beside this GPU; None: no GH200."""
        return float(self._counter.module_watts) if self.state.grace_hopper else None

    @module_watts.setter
    def module_watts(self, watts: float | None) -> None:
        self._restart_counter(module_watts=watts or 0.0)
        self.state.grace_hopper = watts is not None

    def reset_counter(self) -> float:
        """Restart the energy counter at 0, as a GPU reset does; return the unix time from which it holds."""
        return self._restart_counter(base_mj=0.0, module_base_mj=0.0)

    def step_counter(self, joules: float) -> float:
        """Move the energy counter by some joules, backwards if negative; return the unix time of the step."""
        return self._restart_counter(step_mj=1000 * joules)

    @property
    def _counter(self) -> layout.Counter:
        newest: layout.Counter = self.state.counters[(self.state.counter_count - 1) % layout.COUNTERS]
        return newest

    def _restart_counter(self, step_mj: float = 0.0, **changes: float) -> float:
        old, start = self._counter, self._soon()
        gpu_joules = self.exact_joules(self._unix(old.start_s), self._unix(start))
        module_joules = gpu_joules + old.module_watts * (start - old.start_s)
        new = layout.Counter(
            start,
            old.base_mj + 1000 * old.gain * gpu_joules + step_mj,
            old.module_base_mj + 1000 * old.gain * module_joules + step_mj,
            old.gain,
            old.module_watts,
        )
        for name, value in changes.items():
            setattr(new, name, value)
        self._append_counter(new)
        self._wait(start)
        return self._unix(start)

    def _append_counter(self, counter: layout.Counter) -> None:
        count = self.state.counter_count
        self.state.counters[count % layout.COUNTERS] = counter
        self.state.counter_count = count + 1

    # The rest.

    @property
    def architecture(self) -> Architecture:
        """Decides which readings exist; setting it sets the compute capability, too."""
        return Architecture(self.state.architecture)

    @architecture.setter
    def architecture(self, architecture: Architecture) -> None:
        self.state.architecture = architecture
        self.state.compute_major, self.state.compute_minor = _COMPUTE_CAPABILITY[architecture]

    def calls(self) -> Calls:
        """NVML calls on this GPU by all processes since the driver was made."""
        return Calls(*self.state.calls)

    def _offset(self, unix_s: float) -> float:
        return unix_s - self._origin_ns // 10**9  # exact: the origin is a whole second

    def _unix(self, t: float) -> float:
        return self._origin_ns // 10**9 + t

    def _soon(self) -> float:
        return (time.time_ns() - self._origin_ns) * 1e-9 + _NOTICE_S

    def _wait(self, t: float) -> None:
        time.sleep(max(0.0, t - (time.time_ns() - self._origin_ns) * 1e-9))
