"""Calls that are slow or hang by kind, on one GPU or in the driver, and their counts."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_nvml import DriverCalls, FakeDriver, NvmlProcess
from tests.servers import wait_until

EXPRESSIONS = {
    "fields": "field(gpu[0], 186)",
    "energy": "nvml.nvmlDeviceGetTotalEnergyConsumption(gpu[0])",
    "power": "nvml.nvmlDeviceGetPowerUsage(gpu[0])",
    "slow": "nvml.nvmlDeviceGetTemperature(gpu[0], 0)",
    "open": "bool(nvml.nvmlDeviceGetHandleByIndex(0))",
}
DRIVER_EXPRESSIONS = {
    "init": "nvml.nvmlInit()",
    "shutdown": "nvml.nvmlShutdown()",
    "count": "nvml.nvmlDeviceGetCount()",
}
LONG_S = 300.0
"""Longer than any test takes, even on a busy machine."""

DURATION = "(lambda begun: ({}, time.monotonic() - begun)[1])(time.monotonic())"


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    """Two GPUs."""
    with FakeDriver(tmp_path, gpus=2) as driver:
        yield driver


@pytest.fixture
def process(driver: FakeDriver) -> Iterator[NvmlProcess]:
    """A process that has initialised NVML twice, so that one nvmlShutdown does not end it."""
    with NvmlProcess(driver) as process:
        process.ask("nvml.nvmlInit()")
        yield process


@pytest.mark.parametrize("call", EXPRESSIONS)
def test_one_kind_of_call_is_slow(driver: FakeDriver, process: NvmlProcess, call: str) -> None:
    """Calls of one kind take the set time. The others do not, nor do those on other GPUs."""
    driver.gpus[0].call_delays_s = {call: 0.05}
    assert driver.gpus[0].call_delays_s == {call: 0.05}
    assert process.ask(DURATION.format(EXPRESSIONS[call])) >= 0.05
    driver.gpus[0].call_delays_s = {call: LONG_S}
    others = [expression for name, expression in EXPRESSIONS.items() if name != call]
    others += [EXPRESSIONS[call].replace("gpu[0]", "gpu[1]").replace("ByIndex(0)", "ByIndex(1)")]
    assert process.ask(DURATION.format(f"[{', '.join(others)}]")) < LONG_S


@pytest.mark.parametrize("call", EXPRESSIONS)
def test_one_kind_of_call_hangs(driver: FakeDriver, process: NvmlProcess, call: str) -> None:
    """Calls of one kind hang until they are released. The others return."""
    others = [expression for name, expression in EXPRESSIONS.items() if name != call]
    with NvmlProcess(driver) as other:
        before = getattr(driver.calls()[0], call)
        driver.gpus[0].hung_calls = {call}
        assert driver.gpus[0].hung
        process.send(f"[{EXPRESSIONS[call]}, time.monotonic()]")
        wait_until(lambda: getattr(driver.calls()[0], call) > before, "the call")
        assert len(other.ask(f"[{', '.join(others)}]")) == len(others)
        released = time.monotonic()
        driver.gpus[0].hung_calls = frozenset()
    answer, ended = process.answer()
    assert isinstance(answer, int)
    assert ended > released


def test_the_energy_field_is_an_energy_call(driver: FakeDriver, process: NvmlProcess) -> None:
    """A call for field values that asks for the counter is slow, hangs and counts as the counter's call."""
    before = driver.calls()[0]
    driver.gpus[0].call_delays_s = {"energy": 0.05}
    assert process.ask(DURATION.format("field(gpu[0], 83)")) >= 0.05
    both = "nvml.nvmlDeviceGetFieldValues(gpu[0], [186, 83])"
    assert process.ask(DURATION.format(both)) >= 0.05
    after = driver.calls()[0]
    assert (after.energy - before.energy, after.fields - before.fields) == (2, 0)


@pytest.mark.parametrize("call", DRIVER_EXPRESSIONS)
def test_one_call_of_the_driver_is_slow(driver: FakeDriver, process: NvmlProcess, call: str) -> None:
    """nvmlInit, nvmlShutdown or nvmlDeviceGetCount takes the set time. GPUs can be read at once."""
    driver.call_delays_s = {call: 0.05}
    assert process.ask(DURATION.format(DRIVER_EXPRESSIONS[call])) >= 0.05
    driver.call_delays_s = {call: LONG_S}
    others = [expression for name, expression in DRIVER_EXPRESSIONS.items() if name != call]
    assert process.ask(DURATION.format(f"[{', '.join(sorted(others))}]")) < LONG_S
    assert process.ask(DURATION.format(EXPRESSIONS["fields"])) < LONG_S


@pytest.mark.parametrize("call", DRIVER_EXPRESSIONS)
def test_one_call_of_the_driver_hangs(driver: FakeDriver, process: NvmlProcess, call: str) -> None:
    """nvmlInit, nvmlShutdown or nvmlDeviceGetCount hangs until it is released."""
    before = getattr(driver.driver_calls(), call)
    driver.hung_calls = {call}
    process.send(f"[{DRIVER_EXPRESSIONS[call]}, time.monotonic()]")
    wait_until(lambda: getattr(driver.driver_calls(), call) > before, "the call")
    released = time.monotonic()
    driver.hung_calls = frozenset()
    _, ended = process.answer()
    assert ended > released


def test_inits_and_shutdowns_are_counted(driver: FakeDriver, process: NvmlProcess) -> None:
    """The driver counts the calls of all processes to nvmlInit, nvmlShutdown and nvmlDeviceGetCount."""
    assert driver.driver_calls() == DriverCalls(init=2, shutdown=0, count=1)
    process.ask("[nvml.nvmlShutdown(), nvml.nvmlShutdown(), nvml.nvmlInit()]")
    assert driver.driver_calls() == DriverCalls(init=3, shutdown=2, count=1)


def test_an_unknown_call_is_refused(driver: FakeDriver) -> None:
    """A delay of a call that does not exist raises an error that names the calls."""
    with pytest.raises(ValueError, match="no such call: energie; there are fields, energy"):
        driver.gpus[0].call_delays_s = {"energie": 1.0}
