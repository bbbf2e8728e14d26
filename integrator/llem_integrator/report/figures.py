"""What is worked out beside the joules: true ones by a calibration, emissions, a price, idle and active."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.energy.result import GpuEnergy, WindowResult
from llem_integrator.report.calibration import Correction

JOULES_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Figures:
    """Which figures are asked for; those that are None are not.

    `pue` (facility energy over IT energy) multiplies emissions and price, never joules. Without
    `grams_per_kwh` the emissions are those of the node's own rate by CodeCarbon, which the result has.
    """

    emissions: bool = False
    grams_per_kwh: float | None = None
    pue: float = 1.0
    price_per_kwh: float | None = None
    calibration: Mapping[str, Correction] | None = field(default=None, hash=False)
    idle_watts: float | None = None

    @property
    def added(self) -> tuple[str, ...]:
        """The fields of GpuEnergy that are asked for, in their order."""
        price, idle = self.price_per_kwh is not None, self.idle_watts is not None
        wanted = {
            "price": price,
            "idle_j": idle,
            "active_j": idle,
            "calibrated": self.calibration is not None,
        }
        return tuple(name for name, asked in wanted.items() if asked)

    @property
    def by_codecarbon(self) -> bool:
        """Whether the node's own grams per joule are needed."""
        return self.emissions and self.grams_per_kwh is None

    def notes(self) -> dict[str, str]:
        """What a reader must know of each figure, by its field's name."""
        notes = {}
        pue = f"PUE {self.pue:g}"
        if self.emissions:
            given = self.grams_per_kwh
            rate = "the node's grams per joule by CodeCarbon" if given is None else f"{given:g} g/kWh"
            notes["emissions_g"] = f"operational, location-based, the GPU's share only; {rate}, {pue}"
        if self.price_per_kwh is not None:
            notes["price"] = f"the GPU's share only; {self.price_per_kwh:g} per kWh, {pue}"
        if self.idle_watts is not None:
            notes["idle_j"] = (
                f"{self.idle_watts:g} W over the covered time, at most the joules; active_j is the rest"
            )
        if self.calibration is not None:
            notes["calibrated"] = "true = gain x reading + offset; joules_by_backend are as read"
        return notes

    def of(self, result: WindowResult) -> WindowResult:
        """The result with these figures."""
        if not self.added and not self.emissions:
            return result
        if not result.gpus and result.total_j is not None:
            text = "emissions, price and other figures are of GPUs, and the window has none"
            said = MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, text)
            return replace(result, warnings=(*result.warnings, said))
        gpus = tuple(self._gpu(gpu) for gpu in result.gpus)
        if gpus == result.gpus:
            return result
        return replace(
            result,
            gpus=gpus,
            per_gpu_j={gpu.uuid: gpu.joules for gpu in gpus},
            total_j=_total(result, gpus) if self.calibration is not None else result.total_j,
        )

    def _gpu(self, read: GpuEnergy) -> GpuEnergy:
        gpu = read
        if self.calibration is not None:
            correction = self.calibration.get(gpu.uuid)
            gpu = (correction.of(gpu) if correction else gpu)._replace(calibrated=correction is not None)
        joules = gpu.joules
        kwh = None if joules is None else joules * self.pue / JOULES_PER_KWH
        if self.price_per_kwh is not None and kwh is not None:
            gpu = gpu._replace(price=kwh * self.price_per_kwh)
        if self.emissions:
            gpu = gpu._replace(emissions_g=self._grams(read, joules, kwh))
        if self.idle_watts is not None and joules is not None:
            idle_j = min(self.idle_watts * gpu.covered_s, joules)
            gpu = gpu._replace(idle_j=idle_j, active_j=joules - idle_j)
        return gpu

    def _grams(self, read: GpuEnergy, joules: float | None, kwh: float | None) -> float | None:
        if self.grams_per_kwh is not None:
            return None if kwh is None else kwh * self.grams_per_kwh
        if read.emissions_g is None or joules == read.joules:
            return None if read.emissions_g is None else read.emissions_g * self.pue
        if not read.joules or joules is None:  # no rate can be had of 0 J
            return None
        return read.emissions_g * (joules / read.joules) * self.pue


def _total(result: WindowResult, gpus: Sequence[GpuEnergy]) -> float | None:
    """The total with the GPUs' new joules; what no GPU has of it (a total without a split) stays."""
    if result.total_j is None:
        return None
    true = [gpu.joules for gpu in gpus if gpu.joules is not None]
    if gpus and len(true) == len(gpus):
        return math.fsum(true)
    read = (-gpu.joules for gpu in result.gpus if gpu.joules is not None)
    return math.fsum([result.total_j, *read, *true])
