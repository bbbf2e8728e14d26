"""Superchips as real pynvml and zeus see them: power and energy of GPUs and of their modules."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import FakeDriver, NvmlProcess, constant, gb10, gb200, gh200

UNSUPPORTED = "NVMLError_NotSupported"
ENERGY = "nvml.nvmlDeviceGetTotalEnergyConsumption(gpu[{}])"
ENERGY_FIELD = "field(gpu[{}], 83, {})"
TIMED = "[time.time(), {}, time.time()]"

GPU_WATTS = (100.0, 200.0, 300.0, 400.0)
MODULE_WATTS = (100.0 + 200.0 + 135.0, 300.0 + 400.0 + 135.0)


def with_constant_loads(driver: FakeDriver) -> FakeDriver:
    """Give each GPU its watts of GPU_WATTS, from long enough ago that the 1 s mean shows nothing else."""
    for gpu, watts in zip(driver.gpus, GPU_WATTS, strict=False):
        gpu.set_load(constant(watts), at_unix_s=time.time() - 10)
    return driver


@pytest.fixture
def tray(tmp_path: Path) -> Iterator[FakeDriver]:
    """A GB200 tray with constant loads."""
    with with_constant_loads(gb200(tmp_path)) as driver:
        yield driver


@pytest.fixture
def process(tray: FakeDriver) -> Iterator[NvmlProcess]:
    """A process that reads the tray."""
    with NvmlProcess(tray) as process:
        yield process


def assert_counts(process: NvmlProcess, counter: str, exact_joules: Callable[[float, float], float]) -> None:
    """Check a counter's rise against the exact joules of the shortest and of the longest possible window."""
    (earliest, first, early), (late, second, latest) = process.ask(
        f"[{TIMED.format(counter)}, time.sleep(0.2) or {TIMED.format(counter)}]"
    )
    rise_joules = (second - first) / 1000
    assert exact_joules(early, late) - 0.0011 <= rise_joules <= exact_joules(earliest, latest) + 0.0011


def test_each_gpu_of_a_module_reads_its_own_power_and_the_modules(process: NvmlProcess) -> None:
    """GPU scope and nvmlDeviceGetPowerUsage read the GPU. Module scope reads both GPUs and the CPU."""
    for number, watts in enumerate(GPU_WATTS):
        module_watts = MODULE_WATTS[number // 2]
        for field in (185, 186):
            assert process.ask(f"field(gpu[{number}], {field}, 0)") == pytest.approx(1000 * watts, abs=1)
            answer = process.ask(f"field(gpu[{number}], {field}, 1)")
            assert answer == pytest.approx(1000 * module_watts, abs=1)
        usage = process.ask(f"nvml.nvmlDeviceGetPowerUsage(gpu[{number}])")
        assert usage == pytest.approx(1000 * watts, abs=1)
        assert process.ask(f"nvml.nvmlDeviceGetC2cModeInfoV(gpu[{number}]).isC2cEnabled") == 1


def test_serials_and_topology_tell_which_gpus_share_a_module(tray: FakeDriver, process: NvmlProcess) -> None:
    """GPUs of one module have one serial number and a nearer common ancestor than other GPUs."""
    serials = "[nvml.nvmlDeviceGetSerial(g) for g in gpu]"
    first, second, third, fourth = process.ask(serials)
    assert first == second != third == fourth
    ancestors = "[nvml.nvmlDeviceGetTopologyCommonAncestor(gpu[0], g) for g in gpu]"
    assert process.ask(ancestors) == [0, 40, 50, 50]
    tray.modules[0].topology, tray.gpus[0].serial = 10, None
    assert process.ask(ancestors) == [0, 10, 50, 50]
    assert process.ask("nvml.nvmlDeviceGetSerial(gpu[0])") == UNSUPPORTED


def test_the_counter_counts_the_gpu_or_the_module(tray: FakeDriver, process: NvmlProcess) -> None:
    """Both ways to read the counter have its scope, and the field has it in either scope of the call."""
    gpu = tray.gpus[3]
    assert gpu.energy_scope == "gpu"
    counters = [ENERGY.format(3), ENERGY_FIELD.format(3, 0), ENERGY_FIELD.format(3, 1)]
    for counter in counters:
        assert_counts(process, counter, gpu.exact_joules)
    gpu.energy_scope = "module"
    for counter in counters:
        assert_counts(process, counter, lambda a, b: tray.module_joules(1, a, b))


def test_a_change_keeps_the_counter_of_a_module_continuous(tray: FakeDriver, process: NvmlProcess) -> None:
    """A change of scope, CPU power or load adds no joules beyond those that were used."""
    gpu, module = tray.gpus[0], tray.modules[0]
    start, before, begun = process.ask(TIMED.format(ENERGY.format(0)))
    gpu.energy_scope = "module"
    switched_s = time.time()
    module.cpu_watts = 500.0
    tray.gpus[1].set_load(constant(700.0))
    late, after, end = process.ask(TIMED.format(ENERGY.format(0)))
    rise_joules = (after - before) / 1000
    least = gpu.exact_joules(begun, switched_s) + module.exact_joules(switched_s, late)
    assert least - 0.0011 <= rise_joules <= module.exact_joules(start, end) + 0.0011
    assert module.exact_watts(end) == pytest.approx(100.0 + 700.0 + 500.0)
    gpu.step_counter(-50.0)
    assert_counts(process, ENERGY.format(0), module.exact_joules)


def test_a_module_counter_needs_a_module(tmp_path: Path) -> None:
    """A GPU without a module has no module scope."""
    with FakeDriver(tmp_path, gpus=1) as driver:
        assert driver.gpus[0].module is None
        with pytest.raises(ValueError, match="GPU 0 belongs to no module"):
            driver.gpus[0].energy_scope = "module"


def test_presets(tmp_path: Path) -> None:
    """The modules and counter scopes of the presets; on a GB10 the module's power is not supported."""
    read = "[[field(g, 186, 0) for g in gpu], field(gpu[-1], 186, 1), nvml.nvmlDeviceGetName(gpu[0])]"
    presets: list[tuple[Callable[..., FakeDriver], dict[str, Any], str, list[int], Any, str]] = [
        (gb200, {}, "gpu", [0, 0, 1, 1], 835_000, "NVIDIA GB200"),
        (gb200, {"energy_scope": "module"}, "module", [0, 0, 1, 1], 835_000, "NVIDIA GB200"),
        (gh200, {"gpus": 2}, "module", [0, 1], 280_000, "NVIDIA GH200 480GB"),
    ]
    for preset, options, scope, modules, module_milliwatts, name in presets:
        with with_constant_loads(preset(tmp_path, **options)) as driver, NvmlProcess(driver) as process:
            own = [1000 * watts for watts in GPU_WATTS[: len(modules)]]
            assert process.ask(read) == [own, module_milliwatts, name]
            assert {gpu.energy_scope for gpu in driver.gpus} == {scope}
            assert [gpu.module for gpu in driver.gpus] == modules
            last = modules[-1]
            count = driver.gpus[-1] if scope == "gpu" else driver.modules[last]
            assert_counts(process, ENERGY.format(len(modules) - 1), count.exact_joules)
    with gb10(tmp_path) as driver, NvmlProcess(driver) as process:
        assert process.ask("nvml.nvmlDeviceGetC2cModeInfoV(gpu[0]).isC2cEnabled") == 1
        assert process.ask("field(gpu[0], 186, 1)") == UNSUPPORTED
        assert process.ask("field(gpu[0], 186, 0)") > 0
        assert_counts(process, ENERGY.format(0), driver.gpus[0].exact_joules)


def test_zeus_reads_the_module(tray: FakeDriver) -> None:
    """Zeus takes every GPU with C2C for a Grace Hopper, so both GPUs of a module read the same watts."""
    program = """
import json
from zeus.device import get_gpus
gpus = get_gpus()
print(json.dumps([gpus.get_instant_power_usage(number) for number in range(4)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **tray.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [435_000, 435_000, 835_000, 835_000]
