"""The closed form: by itself against numerical integration, and the library's against Python's."""

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import Architecture, FakeDriver, Load, NvmlProcess, constant, default_load
from tests.servers import wait_until

CELL_S = 0.25


def read_in_cell(process: NvmlProcess, expression: str, cell_s: float = CELL_S) -> tuple[float, Any]:
    """A reading of a sensor that updates every cell_s, and the unix time of the update that it shows."""
    while True:
        before, value, after = process.ask(f"[time.time(), {expression}, time.time()]")
        if before // cell_s == after // cell_s:
            return before // cell_s * cell_s, value


def test_joules_are_the_integral_of_watts() -> None:
    """The antiderivative agrees with a fine midpoint sum, including at edges of the square wave."""
    start, end, n = 12.345, 37.0, 80_000
    step = (end - start) / n
    for load in (*map(default_load, range(8)), constant(300.0), Load(duty=0.0), Load(duty=1.0)):
        watts = math.fsum(load.watts(start + step * (i + 0.5)) for i in range(n))
        edges = 2 * (end - start) / load.period_s + 2
        assert load.joules(start, end) == pytest.approx(watts * step, abs=edges * 400 * step)


def test_joules_are_additive_to_nine_digits() -> None:
    """A window cut into ten thousand pieces, days after the origin, has the same joules."""
    load, start = default_load(3), 3e5
    cuts = [start + i * 0.01 for i in range(10_001)]
    pieces = math.fsum(load.joules(a, b) for a, b in pairwise(cuts))
    assert pieces == pytest.approx(load.joules(cuts[0], cuts[-1]), rel=1e-9)


def test_a_load_below_zero_watts_is_refused() -> None:
    """A sine with negative power, a duty above 1 and a period of 0 raise an error."""
    for wrong in ({"sine_watts": 121.0}, {"duty": 1.1}, {"period_s": 0.0}):
        with pytest.raises(ValueError, match=r"0 W|duty"):
            Load(**wrong)


def test_library_and_python_agree_on_watts(tmp_path: Path) -> None:
    """The instant field equals exact_power_watts, and an average equals exact_joules, to half a milliwatt."""
    with FakeDriver(tmp_path, update_period_s=CELL_S) as driver, NvmlProcess(driver) as process:
        for gpu in range(4):
            at, milliwatts = read_in_cell(process, f"field(gpu[{gpu}], 186)")
            assert milliwatts / 1000 == pytest.approx(driver.exact_power_watts(gpu, at), abs=0.00051)
            at, milliwatts = read_in_cell(process, f"field(gpu[{gpu}], 185)")
            assert milliwatts / 1000 == pytest.approx(driver.exact_joules(gpu, at - 1, at), abs=0.00051)
            driver.gpus[gpu].averaging_window_s = 0.03125  # exact in binary, as unix times of the window are
            driver.gpus[gpu].gain = 1.04
            at, milliwatts = read_in_cell(process, f"field(gpu[{gpu}], 186)")
            mean = driver.exact_joules(gpu, at - 0.03125, at) / 0.03125
            assert milliwatts / 1000 == pytest.approx(1.04 * mean, abs=0.00051)


def test_library_and_python_agree_on_joules(tmp_path: Path) -> None:
    """The energy counter rises by exact_joules, to one millijoule, through both of its calls."""
    with FakeDriver(tmp_path, energy_update_period_s=CELL_S) as driver, NvmlProcess(driver) as process:
        for expression in ("field(gpu[5], 83)", "nvml.nvmlDeviceGetTotalEnergyConsumption(gpu[5])"):
            start, before = read_in_cell(process, expression)
            time.sleep(2 * CELL_S)
            end, after = read_in_cell(process, expression)
            assert (after - before) / 1000 == pytest.approx(driver.exact_joules(5, start, end), abs=0.0011)


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.5, 10.0])
def test_sensor_and_counter_update_at_any_period(tmp_path: Path, period_s: float) -> None:
    """Power and energy are those of the last update, every 20 ms, 100 ms, 500 ms or 10 s."""
    with FakeDriver(tmp_path, gpus=1) as driver, NvmlProcess(driver) as process:
        gpu = driver.gpus[0]
        gpu.update_period_s = gpu.energy_update_period_s = period_s
        at, milliwatts = read_in_cell(process, "field(gpu[0], 186)", period_s)
        assert milliwatts / 1000 == pytest.approx(gpu.exact_watts(at), abs=0.01)
        at, millijoules = read_in_cell(process, "field(gpu[0], 83)", period_s)
        gpu.energy_update_period_s = 0.0
        start, moving, end = process.ask("[time.time(), field(gpu[0], 83), time.time()]")
        rise_joules = (moving - millijoules) / 1000
        assert gpu.exact_joules(at, start) - 0.01 <= rise_joules <= gpu.exact_joules(at, end) + 0.01


def test_power_usage_is_an_average_from_ampere_on(tmp_path: Path) -> None:
    """nvmlDeviceGetPowerUsage is a 1 s average on Ampere. On Turing it is instantaneous, without fields."""
    call = "nvml.nvmlDeviceGetPowerUsage(gpu[0])"
    with FakeDriver(tmp_path, gpus=1, update_period_s=CELL_S) as driver, NvmlProcess(driver) as process:
        driver.gpus[0].architecture = Architecture.AMPERE
        at, milliwatts = read_in_cell(process, call)
        assert milliwatts / 1000 == pytest.approx(driver.exact_joules(0, at - 1, at), abs=0.00051)
        driver.gpus[0].architecture = Architecture.TURING
        at, milliwatts = read_in_cell(process, call)
        assert milliwatts / 1000 == pytest.approx(driver.exact_power_watts(0, at), abs=0.00051)
        assert process.ask("field(gpu[0], 186)") == "NVMLError_NotSupported"
        assert process.ask("field(gpu[0], 83)") > 0


def test_a_load_change_keeps_joules_continuous(tmp_path: Path) -> None:
    """The counter and exact_joules agree over windows with many load changes, some of them scheduled."""
    with (
        FakeDriver(tmp_path, gpus=1, energy_update_period_s=CELL_S) as driver,
        NvmlProcess(driver) as process,
    ):
        gpu = driver.gpus[0]
        start, before = read_in_cell(process, "field(gpu[0], 83)")
        for n in range(300):  # more than the shared file holds
            gpu.set_load(high_watts=200.0 + n)
        change = gpu.set_load(constant(300.0))
        planned = gpu.set_load(constant(100.0), at_unix_s=time.time() + 0.3)
        time.sleep(0.3 + CELL_S)
        end, after = read_in_cell(process, "field(gpu[0], 83)")
        assert end >= planned
        assert (after - before) / 1000 == pytest.approx(gpu.exact_joules(start, end), abs=0.0011)
        assert gpu.exact_joules(change, planned) == pytest.approx(300 * (planned - change), rel=1e-9)
        assert gpu.exact_joules(planned - 1e-3, planned + 1e-3) == pytest.approx(0.4, abs=1e-3)
        with pytest.raises(ValueError, match="after the one before"):
            gpu.set_load(at_unix_s=change)


def test_readers_never_see_a_torn_load(tmp_path: Path) -> None:
    """While two loads alternate, a reader always sees one of them, and its counter never falls."""
    program = (
        "[(field(gpu[0], 186), nvml.nvmlDeviceGetTotalEnergyConsumption(gpu[0])) for _ in range(60_000)]"
    )
    with FakeDriver(tmp_path, gpus=1) as driver, NvmlProcess(driver) as process:
        driver.gpus[0].set_load(constant(100.0))
        process.send(program)
        wait_until(lambda: driver.calls()[0].fields, "the first reading")
        for _ in range(100):
            driver.gpus[0].set_load(constant(500.0))
            driver.gpus[0].set_load(constant(100.0))
        watts, counts = zip(*process.answer(), strict=True)
        assert set(watts) == {100_000, 500_000}
        assert list(counts) == sorted(counts)
