"""A GPU whose power is sampled in a thread: how sampling starts, and when it has started."""

import math
from collections.abc import Sequence
from typing import Final

from llem_core.energy import GAP_INTERVALS
from llem_core.errors import ConfigError
from llem_measure.nvml.calls import CALL_SECONDS, no_answer, note_asked
from llem_measure.nvml.device import NvmlDevice
from llem_measure.sampling.gpu_sampler import GpuSampler, OnReading
from llem_measure.sampling.ledger import GpuLedger
from llem_measure.sampling.ring import Ring
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import WallClock

MIN_INTERVAL_MS: Final = 20
"""No sensor updates more often, and each reading costs the GPU and the driver something."""

_END_SAMPLES: Final = 4
"""Samples that are kept beyond those of the longest wait for a last reading."""


def check_interval(sample_interval_ms: float) -> int:
    """Return the interval in whole ms. Raises ConfigError if it is below 20 ms."""
    if not MIN_INTERVAL_MS <= sample_interval_ms < math.inf:
        raise ConfigError(
            f"sample_interval_ms is {sample_interval_ms!r}; the minimum is {MIN_INTERVAL_MS} ms"
        )
    return int(sample_interval_ms)


def new_sampler(device: NvmlDevice, interval_ms: int, clock: WallClock, on_reading: OnReading) -> GpuSampler:
    """Return a sampler that reads a GPU into a ledger of its own."""
    ring = Ring(int(1000 * CALL_SECONDS / interval_ms) + _END_SAMPLES, exact_times=True)
    ledger = GpuLedger(ring, GAP_INTERVALS * interval_ms)
    return GpuSampler(device, None, ledger, clock, interval_ms, on_reading=on_reading)


def start_sampling(
    gpus: Sequence[GpuSampler], interval_ms: int, clock: WallClock, driver_timeout_s: float
) -> Sampler:
    """Start to read GPUs, and wait for the first reading of each. Raises ConfigError."""
    sampler = Sampler(gpus, clock, interval_ms)
    sampler.start()
    try:
        silent_gpus = sampler.wait_first(driver_timeout_s)
        for gpu in gpus:
            note_asked(gpu.index)
        for silent in silent_gpus:
            raise no_answer(silent.index, driver_timeout_s)
        for gpu in gpus:
            if not gpu.is_open:
                raise ConfigError(f"GPU {gpu.index} cannot be opened: {', '.join(gpu.ledger.errors)}")
    except ConfigError:
        sampler.stop()
        raise
    return sampler
