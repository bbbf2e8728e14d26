"""Find out what the energy counter of a superchip's GPU counts: the GPU, or the module around it."""

from typing import Final

from llem_core.energy import GAP_INTERVALS

GPU_SCOPE: Final = "gpu"
MODULE_SCOPE: Final = "module"

DECISION_SECONDS: Final = 10.0
DECISION_JOULES: Final = 10.0
"""The counter is compared over this much time and energy, many times its resolution and its delay."""


class EnergyScope:
    """Compares the counter's rise with the energy of the GPU and of its module over the same time.

    `scope` is "" until it is known: after `least_s` and `least_j`. It was tested with a fake driver only, not
    on hardware.
    """

    def __init__(
        self, interval_s: float, least_s: float = DECISION_SECONDS, least_j: float = DECISION_JOULES
    ) -> None:
        self.scope = ""
        self._max_gap_s, self._least_s, self._least_j = GAP_INTERVALS * interval_s, least_s, least_j
        self._last: tuple[float, float] | None = None
        self._elapsed_s = self._counted_j = self._gpu_j = self._module_j = 0.0

    def add(self, monotonic_s: float, joules: float, gpu_watts: float, module_watts: float) -> None:
        """Record one reading of the counter, the GPU's power and the module's power."""
        if self.scope:
            return
        last, self._last = self._last, (monotonic_s, joules)
        if last is None or joules < last[1] or monotonic_s - last[0] > max(1.5, self._max_gap_s):
            self._elapsed_s = self._counted_j = self._gpu_j = self._module_j = 0.0
            return
        step_s = monotonic_s - last[0]
        self._elapsed_s += step_s
        self._counted_j += joules - last[1]
        self._gpu_j += gpu_watts * step_s
        self._module_j += module_watts * step_s
        if self._elapsed_s >= self._least_s and self._counted_j >= self._least_j:
            # The one whose energy is nearer to what the counter counted.
            is_gpu = abs(self._counted_j - self._gpu_j) <= abs(self._counted_j - self._module_j)
            self.scope = GPU_SCOPE if is_gpu else MODULE_SCOPE
