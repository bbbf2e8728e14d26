"""PowerThermalSampler on the fake driver, and the polling under it."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import cast

import pynvml
import pytest
from llem_measure.sampling.polling import Poller, Reading

from llem_core.errors import ConfigError, DeviceError, DeviceLostError
from llem_measure import NVMLBackend
from llem_measure.power_thermal import PowerThermalSampler
from llem_measure.sampling.devices import DeviceInfo, Status
from tests.fake_nvml import FakeDriver
from tests.llem_measure.fake_time import FakeTime
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
    sampler = PowerThermalSampler(sample_interval_ms=20)
    gpu.throttle_reasons = 0x004
    sampler.start()
    sampler.start()
    gpu.lost = True
    wait_until(lambda: sampler.get_samples()[-1].power_w is None, "a sample of the lost GPU")
    sampler.stop()
    sampler.stop()
    first, *_, last = samples = sampler.get_samples()
    assert (first.power_w, first.thermal_throttle) == (100.0, False)
    assert first.throttle_reasons == ("sw_power_cap",)
    assert set(astuple(last)[1:]) == {None}
    assert sampler.get_power_samples() == [100.0] * sum(sample.power_w is not None for sample in samples)
    with pytest.raises(ConfigError, match="GPU 0 cannot be opened: NVML_ERROR_GPU_IS_LOST"):
        sampler.start()
    gpu.lost = False
    with sampler:
        pass
    assert sampler.get_power_samples() == [100.0, 100.0]


class ScriptedDevice:
    """A GPU whose readings are done by the test."""

    info = DeviceInfo(0, "GPU-0", "scripted")

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.watts = 100.0
        self.reads = self.statuses = self.reopened = 0

    def read_watts(self, unix_ms: int) -> float:
        del unix_ms
        self.reads += 1
        self.answers.wait()
        if self.fails:
            raise self.fails
        return self.watts

    def read_status(self) -> Status:
        self.statuses += 1
        return Status()

    def reopen(self) -> None:
        self.reopened += 1


def polled(device: ScriptedDevice, time: FakeTime | None = None) -> tuple[Poller, list[Reading]]:
    readings: list[Reading] = []
    clock = {"monotonic_s": time.monotonic_s} if time else {}
    poller = Poller(device, 0.01, readings.append, **clock)
    poller.start()
    return poller, readings


def test_it_waits_to_be_released_and_reads_once_more_at_the_end() -> None:
    """Pollers of several GPUs start together. Slow readings are read at both ends and once a second."""
    device, clock = ScriptedDevice(), FakeTime()
    poller, readings = polled(device, clock)
    assert poller.began(30)
    time.sleep(0.05)
    assert len(readings) == 1
    poller.release()
    wait_until(lambda: len(readings) >= 4, "readings")
    assert device.statuses == 1
    clock.sleep(1.0)
    wait_until(lambda: device.statuses == 2, "the next second's status")
    clock.sleep(0.5)
    ending_s = clock.monotonic_s()
    poller.stop()
    assert poller.ended(30)
    assert readings[-1].start_s == ending_s
    assert device.statuses == 3


def test_an_unexpected_exception_is_a_failed_reading(caplog: pytest.LogCaptureFixture) -> None:
    """An error of a library, which is not a DeviceError, is logged. The readings go on after it."""
    device = ScriptedDevice()
    device.fails = ValueError("odd")
    poller, readings = polled(device)
    assert poller.began(30)
    poller.release()
    device.fails = None
    wait_until(lambda: readings[-1].watts == 100.0, "a reading")
    poller.stop()
    assert poller.ended(30)
    assert (readings[0].watts, readings[0].error) == (None, "ValueError")
    assert caplog.text.count("GPU 0: power cannot be read: ValueError: odd") == 1


def test_a_gpu_that_hangs_keeps_only_its_own_thread() -> None:
    """Waiting for a hung GPU times out. The reading arrives when the driver call returns."""
    device = ScriptedDevice()
    device.answers.clear()
    poller, readings = polled(device)
    assert not poller.began(0.05)
    poller.release()
    poller.stop()
    assert not poller.ended(0.05)
    assert readings == []
    device.answers.set()
    assert poller.ended(30)
    assert [reading.watts for reading in readings] == [100.0, 100.0]


def test_an_absurd_value_is_no_sample() -> None:
    """An absurd value is an error without watts."""
    for value in (float("nan"), float("inf"), -1.0):
        device = ScriptedDevice()
        device.watts = value
        poller, readings = polled(device)
        poller.stop()
        assert poller.ended(30)
        assert {(reading.watts, reading.error) for reading in readings} == {(None, "NOT_A_SAMPLE")}


def test_a_lost_gpu_is_opened_anew_once_a_second() -> None:
    """A lost GPU is reopened once a second. After other errors it is read at every tick."""
    device, clock = ScriptedDevice(), FakeTime()
    device.fails = DeviceError("busy", "NVML_ERROR_TIMEOUT")
    poller, readings = polled(device, clock)
    poller.release()
    wait_until(lambda: device.reads >= 3, "readings")
    device.fails = DeviceLostError("gone", "NVML_ERROR_GPU_IS_LOST")
    wait_until(lambda: readings[-1].lost, "the loss")
    reads = device.reads
    time.sleep(0.1)
    assert (device.reads, device.reopened) == (reads, 0)
    device.fails = None
    clock.sleep(1.0)
    wait_until(lambda: readings[-1].watts, "power again")
    poller.stop()
    assert poller.ended(30)
    assert device.reopened == 1
    assert [reading.error for reading in readings if reading.lost] == ["NVML_ERROR_GPU_IS_LOST"]
    assert readings[-1].watts == 100.0


def test_an_interval_that_no_thread_can_keep_is_refused() -> None:
    """0 would end the sampling thread. Less than 20 ms would keep a core busy."""
    intervals_ms = [0, -5, 19.9, float("nan"), float("inf")]
    for make, interval_ms in product((NVMLBackend, PowerThermalSampler), intervals_ms):
        with pytest.raises(ConfigError, match=r"sample_interval_ms .*20"):
            make(sample_interval_ms=cast(int, interval_ms))
