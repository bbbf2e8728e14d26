"""PowerThermalSampler: one GPU's power, temperature, memory and throttling while a program runs."""

from dataclasses import dataclass
from types import TracebackType
from typing import Final

from llem_measure.sampling.polling import Poller, Reading, interval_of
from llem_measure.sampling.ticks import WallClock

PATIENCE_SECONDS: Final = 2.0
"""How long a start or a stop waits for a GPU that does not answer."""

_BYTES_PER_MB: Final = 2**20
_THERMAL: Final = frozenset({"sw_thermal", "hw_thermal"})


@dataclass(frozen=True, slots=True)
class PowerThermalSample:
    """One reading of a GPU; None is what could not be read.

    `timestamp` is in unix seconds, power in watts, memory in MiB as nvidia-smi has it, temperature in °C,
    utilisation in percent. `throttle_reasons` are the active ones, by the names of llem_gpu_throttle_active;
    `thermal_throttle` is whether one of them is heat. All but power are at most a second old.
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
    """Samples one GPU (NVML's index) in a thread, from start() to stop(), with a sample at either end.

    Raises ConfigError for a sample interval below 20 ms.

    with PowerThermalSampler() as sampler:
        train()
    hottest = max(sample.temperature_c or 0 for sample in sampler.get_samples())
    """

    def __init__(self, device_index: int = 0, sample_interval_ms: int = 100) -> None:
        self._device_index, self._interval_ms = device_index, sample_interval_ms
        self._interval_s = interval_of(sample_interval_ms)
        self._samples: list[PowerThermalSample] = []
        self._poller: Poller | None = None

    def start(self) -> None:
        """Begin anew; a sampler that runs goes on. Raises ConfigError where the GPU does not answer."""
        from llem_measure.nvml import device as nvml_device
        from llem_measure.nvml import discovery as gpus

        if self._poller is not None:
            return
        [gpu] = gpus.asked_for([self._device_index])
        device = nvml_device.open_gpu(gpu.index)
        samples: list[PowerThermalSample] = []
        offset_s = WallClock(self._interval_ms).mapping.offset_s
        poller = Poller(
            device,
            self._interval_s,
            lambda reading: samples.append(_sample(reading, offset_s)),
        )
        self._samples, self._poller = samples, poller
        poller.start()
        poller.began(PATIENCE_SECONDS)
        poller.release()

    def stop(self) -> None:
        """Take the last sample and end; what was sampled stays."""
        if self._poller is not None:
            self._poller.stop()
            self._poller.ended(PATIENCE_SECONDS)
            self._poller = None

    def get_samples(self) -> list[PowerThermalSample]:
        """The samples so far, in order of time."""
        return list(self._samples)

    def get_power_samples(self) -> list[float]:
        """Watts of the samples that have them, in order of time."""
        return [sample.power_w for sample in self._samples if sample.power_w is not None]

    def __enter__(self) -> "PowerThermalSampler":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _sample(reading: Reading, offset_s: float) -> PowerThermalSample:
    status = reading.status
    active = tuple(name for name, on in status.throttle.items() if on) if status.throttle else None
    return PowerThermalSample(
        timestamp=reading.middle_s + offset_s,
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
