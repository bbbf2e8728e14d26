"""GPUs through the real pynvml, on the fake driver."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pynvml
import pytest

from llem_core.errors import ConfigError, DeviceError, DeviceLostError
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.handles import count_gpus
from llem_measure.sampling.devices import MigSlice, Status
from tests.fake_nvml import Architecture, FakeDriver, FakeGpu
from tests.fake_nvml import superchips as superchip_drivers

STEADY: dict[str, Any] = {"low_watts": 100.0, "high_watts": 100.0, "sine_watts": 0.0}


@contextmanager
def nvml_of(driver: FakeDriver) -> Iterator[FakeDriver]:
    """Make this process's pynvml load a driver."""
    driver.load_into_this_process()
    count_gpus()
    yield driver
    with suppress(pynvml.NVMLError):
        while True:
            pynvml.nvmlShutdown()


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[FakeDriver]:
    """A driver for this process's pynvml: three GPUs at 100 W."""
    with FakeDriver(tmp_path, gpus=3, **STEADY) as driver, nvml_of(driver):
        yield driver


@pytest.fixture
def superchips(tmp_path: Path) -> Iterator[FakeDriver]:
    """A GB200 tray for this process's pynvml: 100 W in each of two GPUs on each of two modules."""
    with superchip_drivers.gb200(tmp_path, **STEADY) as driver, nvml_of(driver):
        yield driver


def opened(index: int = 0) -> NvmlDevice:
    device = NvmlDevice(index)
    device.open()
    return device


def only(driver: FakeDriver) -> tuple[FakeGpu, NvmlDevice]:
    return driver.gpus[0], opened()


def test_a_gpu_says_who_it_is_and_what_it_draws(loaded: FakeDriver) -> None:
    """GPUs are in NVML's order, with names and addresses. Power is in watts."""
    devices = [opened(index) for index in range(count_gpus())]
    assert [device.info.index for device in devices] == [0, 1, 2]
    assert [device.read_watts(0) for device in devices] == [100.0, 100.0, 100.0]
    info, fake = devices[1].info, loaded.gpus[1]
    assert (info.uuid, info.name, info.driver_version) == (fake.uuid, fake.name, loaded.driver_version)
    assert (info.pci_bus_id, info.minor_number) == ("00000000:11:00.0", "1")
    assert (info.power_source, info.module) == ("instant", "")


def test_power_is_one_field_values_call(loaded: FakeDriver) -> None:
    """A power reading makes exactly one NVML call."""
    fake, device = only(loaded)
    before = fake.calls()
    for _ in range(10):
        device.read_watts(0)
    after = fake.calls()
    assert after.fields - before.fields == 10
    assert (after.power, after.energy, after.slow) == (before.power, before.energy, before.slow)


@pytest.mark.parametrize(
    ("architecture", "instant", "power", "source"),
    [
        (Architecture.HOPPER, True, True, "instant"),
        (Architecture.AMPERE, False, True, "average"),
        (Architecture.TURING, False, True, "legacy"),
        (Architecture.PASCAL, False, True, "legacy"),
        (Architecture.HOPPER, False, False, "none"),
    ],
)
def test_power_is_read_the_best_way_there_is(
    loaded: FakeDriver, architecture: Architecture, instant: bool, power: bool, source: str
) -> None:
    """Power is the instant field, or else the older call, whose averaging depends on the architecture."""
    fake = loaded.gpus[0]
    fake.architecture, fake.instant_supported, fake.power_supported = architecture, instant, power
    device = opened()
    assert device.info.power_source == source
    if power:
        assert device.read_watts(0) == 100.0
    else:
        with pytest.raises(DeviceLostError, match="NVML_ERROR_NOT_SUPPORTED"):
            device.read_watts(0)


@pytest.mark.parametrize("limit_mw", [0, 0xFFFF_FFFF])
def test_a_limit_that_the_driver_does_not_know_is_not_a_limit(loaded: FakeDriver, limit_mw: int) -> None:
    """A limit of 0 or -1 is unknown: no gauge. Power is then valid below a ceiling; 752 kW is an error."""
    fake = loaded.gpus[0]
    fake.power_limit_watts = fake.max_limit_watts = limit_mw / 1000
    device = opened()
    assert (device.read_watts(0), device.read_status().limit_watts) == (100.0, None)
    fake.power_override_watts = 4_999.0
    assert device.read_watts(0) == 4_999.0
    fake.power_override_watts = 752_000.0
    with pytest.raises(DeviceError) as failure:
        device.read_watts(0)
    assert failure.value.name == "POWER_ABOVE_LIMIT"


@pytest.mark.usefixtures("superchips")
def test_a_superchips_power_is_that_of_its_gpu() -> None:
    """The power of the module is in the status. GPUs on one module have the same name of it."""
    devices = [opened(index) for index in range(4)]
    watts = [device.read_watts(0) for device in devices]
    modules = [device.info.module for device in devices]
    assert watts == [100.0] * 4
    assert [device.read_status().module_watts for device in devices] == [335.0] * 4
    assert modules[0] == modules[1] != modules[2] == modules[3]
    assert {device.info.power_source for device in devices} == {"instant"}


def test_without_serial_numbers_modules_are_told_by_the_topology(superchips: FakeDriver) -> None:
    """The module is named by the lowest PCI address on its NUMA node."""
    for fake in superchips.gpus:
        fake.serial = None
    modules = [opened(index).info.module for index in range(4)]
    assert modules == ["00000000:10:00.0"] * 2 + ["00000000:12:00.0"] * 2


def test_module_power_that_fails_is_an_error_of_the_slow_readings(superchips: FakeDriver) -> None:
    """The GPU's own power is read on. More than 4 x the limit of a GPU is an error."""
    device = opened()
    superchips.modules[0].cpu_watts = 4 * 1200.0
    status = device.read_status()
    assert (status.module_watts, status.errors) == (None, ("POWER_ABOVE_LIMIT",))
    assert device.read_watts(0) == 100.0


def test_a_chip_without_a_power_of_its_module_has_no_module(tmp_path: Path) -> None:
    """A GB10 has the link of a superchip, and no power of a module."""
    load: dict[str, Any] = {"low_watts": 30.0, "high_watts": 30.0, "sine_watts": 0.0}
    with superchip_drivers.gb10(tmp_path, **load) as driver, nvml_of(driver):
        device = opened()
        assert (device.info.module, device.read_status().module_watts) == ("", None)
        assert (device.read_watts(0), device.read_status().errors) == (30.0, ())


def test_a_gpu_that_was_renumbered_is_opened_once(loaded: FakeDriver) -> None:
    """A GPU that was not opened yet takes the first one that no other has opened."""
    uuids = [gpu.uuid for gpu in loaded.gpus]
    device = NvmlDevice(1, 3, lambda: {uuids[1], uuids[0]})
    device.open()
    assert device.info.uuid == uuids[2]
    device = NvmlDevice(1, 3, lambda: set(uuids))
    with pytest.raises(DeviceError, match="all GPUs that can be opened are already read"):
        device.open()


def test_nvml_is_closed_before_lost_gpus_are_opened_again(loaded: FakeDriver) -> None:
    """It is only closed if no other GPU is read: a driver does not reset a GPU that is in use."""
    for may_shut_down in (False, True):
        device = NvmlDevice(0, 3, may_shut_down=lambda may=may_shut_down: may)  # type: ignore[misc]
        before = loaded.driver_calls()
        device.open()
        assert loaded.driver_calls() == before, "the first opening closes nothing"
        device.open()
        after = loaded.driver_calls()
        assert (after.shutdown > before.shutdown) == (after.init > before.init) == may_shut_down
        assert device.read_watts(0) == 100.0


def test_status_has_what_can_be_read(loaded: FakeDriver) -> None:
    """Slow readings have base units. Throttle reasons have names."""
    fake, device = only(loaded)
    fake.throttle_reasons = 0x1 | 0x4 | 0x40
    status = device.read_status()
    assert status.temperature_celsius == fake.temperature_celsius
    assert status.memory_used_bytes == fake.memory_used_bytes
    assert status.memory_total_bytes == fake.memory_total_bytes
    assert (status.utilization_ratio, status.limit_watts) == (0.87, 700.0)
    assert {name for name, active in status.throttle.items() if active} == {"sw_power_cap", "hw_thermal"}
    fake.denied = frozenset({"slow"})
    assert device.read_status() == Status(errors=("NVML_ERROR_NO_PERMISSION",))
    fake.denied = frozenset()
    assert device.read_status().errors == ()


@pytest.mark.parametrize(
    ("watts", "error"), [(0.0, "ZERO_POWER"), (1401.0, "POWER_ABOVE_LIMIT"), (4_294_967.295, "NOT_A_SAMPLE")]
)
def test_power_that_cannot_be_is_no_sample(loaded: FakeDriver, watts: float, error: str) -> None:
    """0 W, more than twice the highest limit, and NVML's "no value" are errors. A spike is a sample."""
    fake, device = only(loaded)
    fake.power_limit_watts = 400.0  # the highest that it can be set to is 700 W
    fake.power_override_watts = watts
    with pytest.raises(DeviceError) as failure:
        device.read_watts(0)
    assert (failure.value.name, type(failure.value)) == (error, DeviceError)
    fake.power_override_watts = 1399.0
    assert device.read_watts(0) == 1399.0


def test_where_all_power_is_absurd_another_way_is_looked_for(loaded: FakeDriver) -> None:
    """A GPU opened while its sensor fails has no power source until it is reopened."""
    fake = loaded.gpus[0]
    fake.power_override_watts = 0.0
    device = opened()
    assert device.info.power_source == "none"
    fake.power_override_watts = None
    with pytest.raises(DeviceLostError, match="0 W") as failure:
        device.read_watts(0)
    assert failure.value.name == "ZERO_POWER"
    device.open()
    assert (device.info.power_source, device.read_watts(0)) == ("instant", 100.0)


def test_mig_slices_are_named(loaded: FakeDriver) -> None:
    """MIG slices have a UUID and a profile.

    They are read when the GPU is reopened, not at every reading. Power is that of the whole GPU.
    """
    fake, device = only(loaded)
    assert device.read_status().slices == ()
    fake.mig_slices = 2
    assert device.read_status().slices == ()
    device.open()
    parent = fake.uuid.removeprefix("GPU-")[:-2]
    slices = device.read_status().slices
    assert slices == (MigSlice(f"MIG-{parent}00", "1g.9gb"), MigSlice(f"MIG-{parent}01", "1g.9gb"))
    assert device.read_watts(0) == 100.0


def test_a_lost_gpu_is_found_again(loaded: FakeDriver) -> None:
    """While the GPU is lost, open() fails. Later the same object can read again."""
    fake, device = only(loaded)
    fake.lost = True
    with pytest.raises(DeviceLostError) as lost:
        device.read_watts(0)
    assert lost.value.name == "NVML_ERROR_GPU_IS_LOST"
    with pytest.raises(DeviceError):
        device.open()
    fake.lost = False
    device.open()
    assert device.read_watts(0) == 100.0


def test_a_driver_loaded_anew_is_opened_anew(loaded: FakeDriver) -> None:
    """After a driver reload, NVML is initialised again and the power source is selected again."""
    fake, device = only(loaded)
    loaded.unload()
    with pytest.raises(DeviceLostError):
        device.read_watts(0)
    with pytest.raises(DeviceError):
        device.open()
    loaded.reload()
    fake.instant_supported = False
    device.open()
    assert device.read_watts(0) == 100.0
    assert device.info.power_source == "average"


def test_an_error_that_may_pass_does_not_ask_to_reopen(loaded: FakeDriver) -> None:
    """A missing permission does not mean that the GPU is lost."""
    fake, device = only(loaded)
    fake.denied = frozenset({"fields"})
    with pytest.raises(DeviceError) as error:
        device.read_watts(0)
    assert (error.value.name, type(error.value)) == ("NVML_ERROR_NO_PERMISSION", DeviceError)


def test_a_driver_that_is_not_loaded_is_named(loaded: FakeDriver) -> None:
    """The message contains NVML's reason."""
    loaded.unload()
    with pytest.raises(ConfigError, match="NVML_ERROR_DRIVER_NOT_LOADED"):
        count_gpus()
