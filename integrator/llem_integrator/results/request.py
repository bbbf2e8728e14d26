"""The request: which GPUs are measured, by which backend, and which figures are added to the joules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError
from llem_integrator.results.fields import GpuEnergy
from llem_integrator.series.matchers import Selector, parse_selector

LIMITS: Final = {
    "max_gap_ms": (1e-3, 1e15),
    "min_coverage": (0.0, 1.0),
    "grams_per_kwh": (0.0, 1e9),
    "pue": (1.0, 10.0),
    "price_per_kwh": (-1e9, 1e9),
    "idle_watts": (0.0, 1e9),
}
"""The lowest and highest value of each number. The limits keep every figure finite."""


@dataclass(frozen=True, slots=True)
class Correction:
    """The correction of one card's power sensor: true watts = gain x reading + offset_watts."""

    gain: float
    offset_watts: float

    def of(self, gpu: GpuEnergy) -> GpuEnergy:
        """Return the GPU with corrected joules, bounds and watts, which are at least 0.

        joules_by_backend stays as read. The upper bound includes energy in gaps, and so does its offset.
        """
        return gpu._replace(
            joules=self._corrected(gpu.joules, gpu.covered_s),
            joules_low=self._corrected(gpu.joules_low, gpu.covered_s),
            joules_high=self._corrected(gpu.joules_high, gpu.covered_s + gpu.gap_s),
            mean_watts=self._corrected(gpu.mean_watts, 1.0),
            peak_watts=self._corrected(gpu.peak_watts, 1.0),
        )

    def _corrected(self, value: float | None, seconds: float) -> float | None:
        return None if value is None else max(0.0, self.gain * value + self.offset_watts * seconds)


@dataclass(frozen=True, slots=True, init=False)
class Request:
    """What to measure in every window, and which figures to add. Invalid values raise ConfigError.

    - `backend`: None or "auto" is the first backend whose coverage reaches `min_coverage`.
    - `selectors`: matchers of labels, parsed or as text, for example 'instance="node1:9955"'. A GPU must
      match any of them. If there is none, all GPUs match.
    - `gpus`: NVML indices, UUIDs, or starts of UUIDs ("GPU-2bae"). If there is none, all GPUs are measured.
    - `max_gap_ms`: the longest step between samples that is not a gap. None is 3 x the sample interval.
    - `min_coverage`: the covered fraction of a window, from 0 to 1, that makes a result valid.
    - `emissions`: whether to add grams of CO2 equivalent, at `grams_per_kwh` if it is given (which implies
      `emissions`), otherwise at the node's rate according to CodeCarbon.
    - `pue`: facility energy divided by IT energy. It multiplies emissions and price, never joules.
    - `price_per_kwh`: adds a price in any currency.
    - `calibration`: corrections of power sensors, by UUID.
    - `idle_watts`: divides the joules into idle and active ones.
    """

    backend: Backend | None
    selectors: tuple[Selector, ...]
    gpus: tuple[str, ...]
    max_gap_ms: float | None
    min_coverage: float
    emissions: bool
    grams_per_kwh: float | None
    pue: float
    price_per_kwh: float | None
    calibration: Mapping[str, Correction] | None
    idle_watts: float | None

    def __init__(
        self,
        backend: Backend | str | None = None,
        selectors: str | Iterable[str | Selector] = (),
        gpus: str | int | Iterable[str | int] = (),
        max_gap_ms: float | None = None,
        min_coverage: float = 0.99,
        *,
        emissions: bool = False,
        grams_per_kwh: float | None = None,
        pue: float = 1.0,
        price_per_kwh: float | None = None,
        calibration: Mapping[str, Correction] | None = None,
        idle_watts: float | None = None,
    ) -> None:
        values: dict[str, Any] = {
            "backend": _backend(backend),
            "selectors": _selectors(selectors),
            "gpus": _gpus(gpus),
            "max_gap_ms": max_gap_ms,
            "min_coverage": min_coverage,
            "emissions": emissions or grams_per_kwh is not None,
            "grams_per_kwh": grams_per_kwh,
            "pue": pue,
            "price_per_kwh": price_per_kwh,
            "calibration": calibration,
            "idle_watts": idle_watts,
        }
        for name, (lowest, highest) in LIMITS.items():
            value = values[name]
            if value is not None and not (isinstance(value, int | float) and lowest <= value <= highest):
                raise ConfigError(f"{name} must be a number from {lowest:g} to {highest:g}, not {value!r}")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def emissions_by_codecarbon(self) -> bool:
        """Whether emissions are at the rate of CodeCarbon."""
        return self.emissions and self.grams_per_kwh is None


def _backend(name: Backend | str | None) -> Backend | None:
    if name is None or name == "auto":
        return None
    try:
        return Backend(name)
    except ValueError:
        names = ", ".join(["auto", *Backend])
        raise ConfigError(f"no such backend: {name!r} (one of {names})") from None


def _selectors(selectors: str | Iterable[str | Selector]) -> tuple[Selector, ...]:
    given = [selectors] if isinstance(selectors, str) else selectors
    return tuple(parse_selector(text) if isinstance(text, str) else text for text in given) or ((),)


def _gpus(gpus: str | int | Iterable[str | int]) -> tuple[str, ...]:
    given = str(gpus).split(",") if isinstance(gpus, str | int) else [str(gpu) for gpu in gpus]
    names = tuple(name.strip() for name in given if name.strip())
    if given and not names:
        raise ConfigError(f"--gpus {gpus!r} contains no GPU (write 0,1 or GPU-2bae, or omit it for all GPUs)")
    return names
