"""PowerThermalSampler: one GPU's power, temperature, memory and throttling while a program runs."""

from dataclasses import dataclass
from types import TracebackType
from typing import Final

from llem_measure.backends.sampled_gpu import check_interval, new_sampler, start_sampling
from llem_measure.nvml.calls import CALL_SECONDS, DRIVER_SECONDS
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.discovery import find_some_gpus
from llem_measure.sampling.devices import Status
from llem_measure.sampling.ledger import Reading
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import WallClock

_BYTES_PER_MB: Final = 2**20
_THERMAL: Final = frozenset({"sw_thermal", "hw_thermal"})


@dataclass(frozen=True, slots=True)
class PowerThermalSample:
    """One reading of a GPU. A value that could not be read is None.

    `timestamp` is in unix seconds, power in watts, memory in MiB as nvidia-smi has it, temperature in °C, and
    utilisation in percent. `throttle_reasons` are the active ones, by the names of llem_gpu_throttle_active;
    `thermal_throttle` is True if one of them is heat. All values but power are at most a second old.
    """

    timestamp: float
    power_w: float | None
    memory_used_mb: float | None
    memory_total_mb: float | None
    temperature_c: float | None
    sm_utilisation: float | None
    thermal_throttle: bool | None
    throttle_reasons: tuple[str, ...] | None


class PowerThermalSampler:
    """Samples one GPU (NVML's index) in a thread, from start() to stop(), with a sample at both ends.

    Raises ConfigError for a sample interval below 20 ms. The GPU's first call may take `driver_timeout_s`.

    with PowerThermalSampler() as sampler:
        train()
    hottest = max(sample.temperature_c or 0 for sample in sampler.get_samples())
    """

    def __init__(
        self,
        device_index: int = 0,
        sample_interval_ms: int = 100,
        *,
        driver_timeout_s: float = DRIVER_SECONDS,
    ) -> None:
        self._device_index, self._driver_timeout_s = device_index, driver_timeout_s
        self._interval_ms = check_interval(sample_interval_ms)
        self._samples: list[PowerThermalSample] = []
        self._sampler: Sampler | None = None

    def start(self) -> None:
        """Start with no samples.

        Nothing happens if it runs. Raises ConfigError if the GPU cannot be opened.
        """
        if self._sampler is not None:
            return
        [gpu] = find_some_gpus([self._device_index], self._driver_timeout_s)
        clock, samples = WallClock(self._interval_ms), list[PowerThermalSample]()

        def keep(reading: Reading, status: Status, found: bool) -> None:
            samples.append(_sample(reading, status if found else Status()))

        sampler = new_sampler(NvmlDevice(gpu.index), self._interval_ms, clock, keep)
        self._sampler = start_sampling([sampler], self._interval_ms, clock, self._driver_timeout_s)
        self._samples = samples

    def stop(self) -> None:
        """Take the last sample and end. The samples stay."""
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler.wait_last(CALL_SECONDS)
            self._sampler = None

    def get_samples(self) -> list[PowerThermalSample]:
        """Return the samples so far, in order of time."""
        return list(self._samples)

    def get_power_samples(self) -> list[float]:
        """Return the watts of the samples that have them, in order of time."""
        return [sample.power_w for sample in self.get_samples() if sample.power_w is not None]

    def __enter__(self) -> "PowerThermalSampler":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _sample(reading: Reading, status: Status) -> PowerThermalSample:
    active = tuple(name for name, on in status.throttle.items() if on) if status.throttle else None
    return PowerThermalSample(
        timestamp=reading.unix_ms / 1000,
        power_w=reading.watts,
        memory_used_mb=_scaled(status.memory_used_bytes, 1 / _BYTES_PER_MB),
        memory_total_mb=_scaled(status.memory_total_bytes, 1 / _BYTES_PER_MB),
        temperature_c=status.temperature_celsius,
        sm_utilisation=_scaled(status.utilization_ratio, 100),
        thermal_throttle=None if active is None else not _THERMAL.isdisjoint(active),
        throttle_reasons=active,
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
