"""A superchip's module: a CPU and the GPUs that belong to it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import layout
from .load import constant
from .setting import whole
from .timeline import Clock, Timeline

if TYPE_CHECKING:
    from .gpu import FakeGpu

_SAME_NUMA_NODE = 40  # NVML_TOPOLOGY_NODE


class FakeModule:
    """Module `number` of the driver. A GPU joins it by `gpu.module = number`.

    Exact joules and watts are those of the CPU and all GPUs together.
    """

    # What nvmlDeviceGetTopologyCommonAncestor answers for two GPUs of this module: NVML_TOPOLOGY_*.
    topology = whole("topology")

    def __init__(
        self, state: layout.Module, clock: Clock, number: int, all_gpus: Sequence["FakeGpu"]
    ) -> None:
        """A module without GPUs, whose CPU draws nothing."""
        self.state, self.number = state, number
        self._all_gpus = all_gpus
        self._cpu = Timeline(state.cpu, clock, constant(0.0))
        self.topology = _SAME_NUMA_NODE

    @property
    def gpus(self) -> list["FakeGpu"]:
        """The GPUs of this module."""
        return [gpu for gpu in self._all_gpus if gpu.module == self.number]

    @property
    def cpu_watts(self) -> float:
        """The power of the CPU. A change keeps the joules of the module continuous."""
        return self._cpu.load.low_watts

    @cpu_watts.setter
    def cpu_watts(self, watts: float) -> None:
        self._cpu.set_load(constant(watts), None)

    def exact_watts(self, unix_s: float) -> float:
        """True power of the module at an instant."""
        return math.fsum(part.exact_watts(unix_s) for part in self._parts)

    def exact_joules(self, start_unix_s: float, end_unix_s: float) -> float:
        """True joules of the module in a window."""
        return math.fsum(part.exact_joules(start_unix_s, end_unix_s) for part in self._parts)

    @property
    def _parts(self) -> list["Timeline | FakeGpu"]:
        return [self._cpu, *self.gpus]
