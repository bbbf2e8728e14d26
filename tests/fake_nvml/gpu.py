"""One GPU of the fake driver: its load, its counter, its sensor, its faults, what it reads."""

import math
import time
import uuid
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

from . import layout
from .load import Load
from .setting import call_classes, clocks, flag, optional, real, text, watts, whole

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


class FakeGpu:
    """One GPU; every attribute may be set while processes read it.

    Exact joules and watts are the load's own: they know no sensor, no gain and no fault.
    """

    # The sensor. Update period 0: follows at once; averaging window 0: instantaneous.
    # Power and energy share the offset of their update grids.
    update_period_s = real("update_period_s")
    update_offset_s = real("update_offset_s")
    averaging_window_s = real("averaging_window_s")
    gain = real("gain")
    energy_update_period_s = real("energy_update_period_s")

    # Faults. A hung call ends when `hung` is cleared, or after 600 s with NVML_ERROR_TIMEOUT.
    # `slow_call_s` delays readings of power, fields and energy; `denied` names classes of Calls.
    lost = flag("lost")
    hung = flag("hung")
    slow_call_s = real("slow_call_s")
    power_supported = flag("power_supported")
    instant_supported = flag("instant_supported")
    energy_supported = flag("energy_supported")
    denied = call_classes("denied")
    power_override_watts = optional("power_override_watts")
    mig_slices = whole("mig_slices")

    # Identity.
    name = text("name")
    uuid = text("uuid")
    serial = text("serial")
    pci_bus = whole("pci_bus")
    pci_device_id = whole("pci_device_id")
    minor_number = whole("minor_number")

    # Readings.
    memory_total_bytes = whole("memory_total_bytes")
    memory_used_bytes = whole("memory_used_bytes")
    memory_reserved_bytes = whole("memory_reserved_bytes")
    utilization_percent = whole("utilization_percent")
    memory_utilization_percent = whole("memory_utilization_percent")
    temperature_celsius = whole("temperature_celsius")
    fan_percent = whole("fan_percent")
    power_limit_watts = watts("power_limit_mw")
    default_limit_watts = watts("default_limit_mw")
    min_limit_watts = watts("min_limit_mw")
    max_limit_watts = watts("max_limit_mw")
    throttle_reasons = whole("throttle_reasons")
    persistence_mode = flag("persistence_mode")
    performance_state = whole("performance_state")
    compute_mode = whole("compute_mode")
    clocks_mhz = clocks("clocks_mhz")
    max_clocks_mhz = clocks("max_clocks_mhz")

    def __init__(self, state: layout.Gpu, origin_ns: int, index: int, load: Load) -> None:
        """A new H100 in `state`, without a fault."""
        self.state, self.index = state, index
        self._origin_ns = origin_ns
        self._pieces: list[tuple[float, Load]] = []
        self._append_piece(0.0, 0.0, load)
        self._append_counter(layout.Counter(0.0, 0.0, 3.1e9 + 1.7e8 * index, 4.2e9 + 1.7e8 * index, 1.0, 0.0))
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
        last_start, last = self._pieces[-1]
        before = self.state.pieces[(self.state.piece_count - 1) % layout.PIECES].joules_before
        while True:
            start = self._soon() if at_unix_s is None else self._offset(at_unix_s)
            if start <= last_start:
                raise ValueError(
                    f"a load must start after the one before it: {start} <= {last_start} s from the origin"
                )
            new = replace(load or last, **changes)
            self._write_piece(start, before + last.joules(last_start, start), new)
            if at_unix_s is not None or self._is_ahead(start):
                break
        self._publish_piece(start, new)
        if at_unix_s is None:
            self._wait(start)
        return self._unix(start)

    def _append_piece(self, start: float, joules_before: float, load: Load) -> None:
        self._write_piece(start, joules_before, load)
        self._publish_piece(start, load)

    def _publish_piece(self, start: float, load: Load) -> None:
        self.state.piece_count += 1
        self._pieces.append((start, load))

    def _write_piece(self, start: float, joules_before: float, load: Load) -> None:
        """Write the next piece. No process reads it before it is published."""
        self.state.pieces[self.state.piece_count % layout.PIECES] = layout.Piece(
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
        for (_, load), (begins, ends) in zip(self._pieces, pairwise(starts), strict=True):
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
        old = self._counter
        while True:
            start = self._soon()
            gpu_joules = self.exact_joules(self._unix(old.start_s), self._unix(start))
            module_joules = gpu_joules + old.module_watts * (start - old.start_s)
            new = layout.Counter(
                start,
                old.joules_before + gpu_joules,
                old.base_mj + 1000 * old.gain * gpu_joules + step_mj,
                old.module_base_mj + 1000 * old.gain * module_joules + step_mj,
                old.gain,
                old.module_watts,
            )
            for name, value in changes.items():
                setattr(new, name, value)
            self.state.counters[self.state.counter_count % layout.COUNTERS] = new
            if self._is_ahead(start):
                break
        self.state.counter_count += 1
        self._wait(start)
        return self._unix(start)

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
        # By way of unix time as a float64, so that the instant that callers are told is the very one.
        return self._offset(time.time() + _NOTICE_S)

    def _append_counter(self, counter: layout.Counter) -> None:
        self.state.counters[self.state.counter_count % layout.COUNTERS] = counter
        self.state.counter_count += 1

    def _is_ahead(self, t: float) -> bool:
        """Return whether an instant is still to come. A change published later would not hold from there."""
        return time.time() < self._unix(t)

    def _wait(self, t: float) -> None:
        time.sleep(max(0.0, self._unix(t) - time.time()))
