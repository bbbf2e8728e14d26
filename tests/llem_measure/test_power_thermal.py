"""PowerThermalSampler on the fake driver."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import cast

import pynvml
import pytest

from llem_core.errors import ConfigError
from llem_measure import NVMLBackend
from llem_measure.power_thermal import PowerThermalSampler
from tests.fake_nvml import FakeDriver
from tests.servers import wait_until


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[FakeDriver]:
    """A driver for this process's pynvml: two GPUs at 100 W."""
    with FakeDriver(tmp_path, gpus=2, low_watts=100.0, high_watts=100.0, sine_watts=0.0) as driver:
        driver.load_into_this_process()
        yield driver
        with suppress(pynvml.NVMLError):
            while True:
                pynvml.nvmlShutdown()


def test_samples_say_what_the_gpu_says(loaded: FakeDriver) -> None:
    """A sample is taken at every interval and at both ends, in the units of the field names."""
    gpu = loaded.gpus[1]
    gpu.temperature_celsius, gpu.utilization_percent = 61, 87
    gpu.memory_used_bytes, gpu.memory_total_bytes, gpu.memory_reserved_bytes = 30 << 30, 80 << 30, 0
    gpu.throttle_reasons = 0x020 | 0x004
    before = time.time()
    with PowerThermalSampler(device_index=1, sample_interval_ms=20) as sampler:
        begun = time.time()
        wait_until(lambda: len(sampler.get_samples()) >= 4, "samples")
        ending = time.time()
    after = time.time()
    samples = sampler.get_samples()
    times = [sample.timestamp for sample in samples]
    assert before - 1e-3 <= times[0] <= begun + 1e-3
    assert ending - 1e-3 <= times[-1] <= after + 1e-3
    assert times == sorted(times)
    first = samples[0]
    assert (first.power_w, first.temperature_c, first.sm_utilisation) == (100.0, 61, 87)
    assert (first.memory_used_mb, first.memory_total_mb) == (30 * 1024, 80 * 1024)
    assert (first.thermal_throttle, first.throttle_reasons) == (True, ("sw_power_cap", "sw_thermal"))
    assert sampler.get_power_samples() == [100.0] * len(samples)


def test_what_cannot_be_read_is_none(loaded: FakeDriver) -> None:
    """A field that cannot be read is None. A sampler can be restarted."""
    gpu = loaded.gpus[0]
    sampler = PowerThermalSampler(sample_interval_ms=60_000)  # so that only the two ends are sampled
    gpu.throttle_reasons = 0x004
    sampler.start()
    sampler.start()
    gpu.lost = True
    sampler.stop()
    sampler.stop()
    first, last = sampler.get_samples()
    assert (first.power_w, first.thermal_throttle) == (100.0, False)
    assert first.throttle_reasons == ("sw_power_cap",)
    assert set(astuple(last)[1:]) == {None}
    assert sampler.get_power_samples() == [100.0]
    with pytest.raises(ConfigError, match="GPU 0 cannot be opened: NVML_ERROR_GPU_IS_LOST"):
        sampler.start()
    gpu.lost = False
    with sampler:
        pass
    assert sampler.get_power_samples() == [100.0, 100.0]


@pytest.mark.parametrize("calls", [{"open"}, {"fields"}])
def test_a_gpu_whose_first_call_hangs_is_named(loaded: FakeDriver, calls: set[str]) -> None:
    """start() ends after the driver's timeout, and at once when the GPU answers again."""
    loaded.gpus[1].hung_calls = frozenset(calls)
    sampler = PowerThermalSampler(1, 20, driver_timeout_s=0.2)
    with pytest.raises(ConfigError, match="GPU 1 hangs: a driver call has not returned for"):
        sampler.start()
    loaded.gpus[1].hung_calls = frozenset()
    with PowerThermalSampler(1, 60_000) as sampler:
        pass
    assert sampler.get_power_samples() == [100.0, 100.0]


def test_an_interval_that_no_thread_can_keep_is_refused() -> None:
    """0 would end the sampling thread. Less than 20 ms would keep a core busy."""
    intervals_ms = [0, -5, 19.9, float("nan"), float("inf")]
    for make, interval_ms in product((NVMLBackend, PowerThermalSampler), intervals_ms):
        with pytest.raises(ConfigError, match=r"sample_interval_ms .*20"):
            make(sample_interval_ms=cast(int, interval_ms))
