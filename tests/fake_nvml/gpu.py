"""One GPU of the fake driver: its load, its counter, its sensor, its faults, what it reads."""

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Literal

from . import layout
from .load import Load
from .module import FakeModule
from .setting import call_delays, call_names, clocks, flag, optional, optional_text, real, text, watts, whole
from .timeline import Clock, Timeline

EnergyScope = Literal["gpu", "module"]
Stuck = Literal["zero", "frozen"]


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
    """NVML calls on one GPU, by what can be delayed, hang, or be denied on its own.

    fields: GetFieldValues without the energy field. energy: GetTotalEnergyConsumption, and GetFieldValues
    with the energy field. power: GetPowerUsage. open: GetHandleBy*. slow: all others.
    """

    fields: int
    energy: int
    power: int
    slow: int
    open: int


CALLS = tuple(field.name for field in fields(Calls))


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

    # Faults. `hung_calls` and `denied` name fields of Calls; `call_delays_s` has seconds for them.
    # A hung call ends when it is no longer named, or after 600 s with NVML_ERROR_TIMEOUT.
    lost = flag("lost")
    hung_calls = call_names("hung", CALLS)
    call_delays_s = call_delays("call_delays_s", CALLS)
    power_supported = flag("power_supported")
    instant_supported = flag("instant_supported")
    energy_supported = flag("energy_supported")
    module_power_supported = flag("module_power_supported")
    limits_supported = flag("limits_supported")
    denied = call_names("denied", CALLS)
    power_override_watts = optional("power_override_watts")
    mig_slices = whole("mig_slices")

    # Identity.
    name = text("name")
    uuid = text("uuid")
    serial = optional_text("serial")  # None: not supported
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
    # Clocks: graphics, SM, memory, video. None: not supported.
    clocks_mhz = clocks("clocks_mhz")
    max_clocks_mhz = clocks("max_clocks_mhz")

    def __init__(
        self, state: layout.Gpu, clock: Clock, index: int, load: Load, modules: Sequence[FakeModule]
    ) -> None:
        """A new H100 in `state`, without a fault."""
        self.state, self.index = state, index
        self._clock, self._modules = clock, modules
        self._timeline = Timeline(state.timeline, clock, load)
        self.state.counters[0] = layout.Counter(0.0, 0.0, 3.1e9 + 1.7e8 * index, 1.0, -1)
        self.state.counter_count = 1
        self._set_defaults()

    def _set_defaults(self) -> None:
        self.gain = 1.0
        self.power_supported = self.instant_supported = self.energy_supported = True
        self.module_power_supported = self.limits_supported = True
        self.energy_stuck = None
        self.power_override_watts = None
        self.architecture = Architecture.HOPPER
        self.name = "NVIDIA H100 80GB HBM3"
        self.uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'fake GPU {self.index}')}"
        self.module = None
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
        return self._timeline.load

    def set_load(
        self, load: Load | None = None, *, at_unix_s: float | None = None, **changes: float
    ) -> float:
        """Change the load, whole or in part; return the unix time from which the new one holds.

        Without at_unix_s it holds in a millisecond, and the call returns when it does. Later times may be
        planned, in ascending order.
        """
        return self._timeline.set_load(load, at_unix_s, **changes)

    def exact_watts(self, unix_s: float) -> float:
        """True power at an instant."""
        return self._timeline.exact_watts(unix_s)

    def exact_joules(self, start_unix_s: float, end_unix_s: float) -> float:
        """True joules in a window, over all loads that held in it; the first holds before the origin, too."""
        return self._timeline.exact_joules(start_unix_s, end_unix_s)

    # The energy counter.

    @property
    def energy_gain(self) -> float:
        """Joules counted for each true one."""
        return float(self._counter.gain)

    @energy_gain.setter
    def energy_gain(self, gain: float) -> None:
        self._restart_counter(gain=gain)

    @property
    def energy_scope(self) -> EnergyScope:
        """What the counter counts from now on: this GPU or its module. Join the module first."""
        return "gpu" if self._counter.module < 0 else "module"

    @energy_scope.setter
    def energy_scope(self, scope: EnergyScope) -> None:
        if scope == "module" and self.module is None:
            raise ValueError(f"GPU {self.index} belongs to no module")
        self._restart_counter(module=self.state.module if scope == "module" else -1)

    @property
    def energy_stuck(self) -> Stuck | None:
        """Whether the counter answers "zero", or is "frozen" at the value that it had when this was set.

        None: it counts. The joules of the meantime come back; set `energy_gain` to 0 to lose them instead.
        """
        stuck_s = self.state.energy_stuck_s
        return {math.inf: None, -math.inf: "zero"}.get(stuck_s, "frozen")

    @energy_stuck.setter
    def energy_stuck(self, stuck: Stuck | None) -> None:
        times_s = {None: math.inf, "zero": -math.inf, "frozen": self._clock.offset(time.time())}
        self.state.energy_stuck_s = times_s[stuck]

    def reset_counter(self) -> float:
        """Restart the energy counter at 0, as a GPU reset does; return the unix time from which it holds."""
        return self._restart_counter(base_mj=0.0)

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
            start = self._clock.soon()
            counted_joules = self._joules(old.module, start) - old.joules_before
            base_mj = old.base_mj + 1000 * old.gain * counted_joules + step_mj
            new = layout.Counter(start, 0.0, base_mj, old.gain, old.module)
            for name, value in changes.items():
                setattr(new, name, value)
            new.joules_before = self._joules(new.module, start)
            self.state.counters[self.state.counter_count % layout.COUNTERS] = new
            if self._clock.is_ahead(start):
                break
        self.state.counter_count += 1
        self._clock.wait(start)
        return self._clock.unix(start)

    def _joules(self, module: int, t: float) -> float:
        """True joules of a module, or of this GPU if `module` is negative, from the origin to `t`."""
        counted = self if module < 0 else self._modules[module]
        return counted.exact_joules(self._clock.unix(0), self._clock.unix(t))

    # Its module.

    @property
    def module(self) -> int | None:
        """The number of the superchip's module that this GPU belongs to; None: no superchip.

        Set it before `energy_scope`. The serial number becomes the one that all GPUs of the module have.
        """
        return None if self.state.module < 0 else int(self.state.module)

    @module.setter
    def module(self, module: int | None) -> None:
        self.state.module = -1 if module is None else module
        self.serial = f"165{self.index:010d}" if module is None else f"166{module:010d}"

    # Calls.

    @property
    def hung(self) -> bool:
        """Whether any calls hang; setting it sets all of them."""
        return bool(self.hung_calls)

    @hung.setter
    def hung(self, hung: bool) -> None:
        self.hung_calls = frozenset(CALLS if hung else ())

    @property
    def slow_call_s(self) -> float:
        """The delay of readings of power, fields and energy; setting it clears the others."""
        return self.call_delays_s.get("fields", 0.0)

    @slow_call_s.setter
    def slow_call_s(self, delay_s: float) -> None:
        self.call_delays_s = dict.fromkeys(("fields", "energy", "power"), delay_s)

    def calls(self) -> Calls:
        """NVML calls on this GPU by all processes since the driver was made."""
        return Calls(*self.state.calls)

    # The rest.

    @property
    def architecture(self) -> Architecture:
        """The architecture, which decides what can be read. Setting it also sets the compute capability."""
        return Architecture(self.state.architecture)

    @architecture.setter
    def architecture(self, architecture: Architecture) -> None:
        self.state.architecture = architecture
        self.state.compute_major, self.state.compute_minor = _COMPUTE_CAPABILITY[architecture]
