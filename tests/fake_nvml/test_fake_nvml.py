"""The driver as real pynvml sees it: readings, faults, MIG, reload, several processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import Architecture, Calls, FakeDriver, NvmlProcess, build, constant
from tests.servers import wait_until

LOST, UNSUPPORTED, DENIED = "NVMLError_GpuIsLost", "NVMLError_NotSupported", "NVMLError_NoPermission"
POWER, ENERGY = "nvml.nvmlDeviceGetPowerUsage(gpu[0])", "nvml.nvmlDeviceGetTotalEnergyConsumption(gpu[0])"
FIELD, TEMPERATURE = "field(gpu[0], 186)", "nvml.nvmlDeviceGetTemperature(gpu[0], 0)"
READINGS = (POWER, ENERGY, FIELD, TEMPERATURE)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    """Two GPUs at a constant 300 W."""
    with FakeDriver(tmp_path, gpus=2, low_watts=300.0, high_watts=300.0, sine_watts=0.0) as driver:
        yield driver


@pytest.fixture
def process(driver: FakeDriver) -> Iterator[NvmlProcess]:
    """A process that has initialised NVML."""
    with NvmlProcess(driver) as process:
        yield process


DEFAULT_READINGS: list[tuple[str, Any]] = [
    ("nvml.nvmlSystemGetDriverVersion()", "580.95.05"),
    ("nvml.nvmlSystemGetNVMLVersion()", "13.580.95.05"),
    ("nvml.nvmlSystemGetCudaDriverVersion()", 13000),
    ("nvml.nvmlDeviceGetCount()", 8),
    ("nvml.nvmlDeviceGetName(gpu[0])", "NVIDIA H100 80GB HBM3"),
    ("len({nvml.nvmlDeviceGetUUID(g) for g in gpu})", 8),
    ("nvml.nvmlDeviceGetUUID(gpu[0])", "GPU-2bae0657-88b3-5f4a-b487-d1e5914b668f"),
    ("nvml.nvmlDeviceGetSerial(gpu[1])", "1650000000001"),
    ("[nvml.nvmlDeviceGetIndex(g) for g in gpu]", [*range(8)]),
    ("nvml.nvmlDeviceGetMinorNumber(gpu[3])", 3),
    ("nvml.nvmlDeviceGetPciInfo(gpu[2]).busId", "00000000:12:00.0"),
    ("nvml.nvmlDeviceGetPciInfo(gpu[2]).busIdLegacy", "0000:12:00.0"),
    (
        "nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(gpu[4]).encode()))",
        4,
    ),
    ("nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByPciBusId(b'0000:13:00.0'))", 3),
    ("nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleBySerial(b'1650000000006'))", 6),
    ("nvml.nvmlDeviceGetHandleByUUID(b'GPU-none')", "NVMLError_NotFound"),
    ("nvml.nvmlDeviceGetHandleByIndex(8)", "NVMLError_InvalidArgument"),
    ("nvml.nvmlDeviceGetMemoryInfo(gpu[0]).total", 81559 << 20),
    ("nvml.nvmlDeviceGetMemoryInfo(gpu[0]).used", (30000 + 551) << 20),
    ("nvml.nvmlDeviceGetMemoryInfo(gpu[0], nvml.nvmlMemory_v2).used", 30000 << 20),
    ("nvml.nvmlDeviceGetMemoryInfo(gpu[0], nvml.nvmlMemory_v2).reserved", 551 << 20),
    ("nvml.nvmlDeviceGetUtilizationRates(gpu[0]).gpu", 87),
    ("nvml.nvmlDeviceGetUtilizationRates(gpu[0]).memory", 31),
    ("nvml.nvmlDeviceGetTemperature(gpu[1], nvml.NVML_TEMPERATURE_GPU)", 46),
    ("nvml.nvmlDeviceGetTemperatureV(gpu[1], nvml.NVML_TEMPERATURE_GPU)", 46),
    ("nvml.nvmlDeviceGetEnforcedPowerLimit(gpu[0])", 700_000),
    ("nvml.nvmlDeviceGetPowerManagementLimit(gpu[0])", 700_000),
    ("nvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu[0])", 700_000),
    ("nvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu[0])", [200_000, 700_000]),
    ("nvml.nvmlDeviceGetClockInfo(gpu[0], nvml.NVML_CLOCK_MEM)", 2619),
    ("nvml.nvmlDeviceGetMaxClockInfo(gpu[0], nvml.NVML_CLOCK_SM)", 1980),
    ("nvml.nvmlDeviceGetClock(gpu[0], nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_ID_CURRENT)", 1755),
    ("nvml.nvmlDeviceGetClock(gpu[0], nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_ID_CUSTOMER_BOOST_MAX)", 1980),
    ("nvml.nvmlDeviceGetClock(gpu[0], nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_ID_APP_CLOCK_TARGET)", UNSUPPORTED),
    ("nvml.nvmlDeviceGetTopologyCommonAncestor(gpu[0], gpu[1])", 50),
    ("nvml.nvmlDeviceGetFanSpeed(gpu[0])", UNSUPPORTED),
    ("nvml.nvmlDeviceGetPersistenceMode(gpu[0])", 1),
    ("nvml.nvmlDeviceGetPerformanceState(gpu[0])", 0),
    ("nvml.nvmlDeviceGetComputeMode(gpu[0])", 0),
    ("nvml.nvmlDeviceGetCudaComputeCapability(gpu[0])", [9, 0]),
    ("nvml.nvmlDeviceGetArchitecture(gpu[0])", 9),
    ("nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu[0])", 0),
    ("nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu[0])", 0),
    ("nvml.nvmlDeviceGetSupportedClocksEventReasons(gpu[0])", 0x1FF),
    ("nvml.nvmlDeviceGetComputeRunningProcesses(gpu[0])", []),
    ("nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu[0])", []),
    ("nvml.nvmlDeviceGetMPSComputeRunningProcesses(gpu[0])", []),
    ("nvml.nvmlDeviceGetC2cModeInfoV(gpu[0])", UNSUPPORTED),
    ("nvml.nvmlDeviceGetTotalEccErrors(gpu[0], 0, 0)", UNSUPPORTED),
    ("nvml.nvmlDeviceGetMigMode(gpu[0])", [0, 0]),
    ("nvml.nvmlDeviceGetMaxMigDeviceCount(gpu[0])", 0),
    ("nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu[0], 0)", "NVMLError_NotFound"),
    ("nvml.nvmlDeviceSetPersistenceMode(gpu[0], 1)", DENIED),
    ("nvml.nvmlDeviceSetPowerManagementLimit(gpu[0], 300_000)", DENIED),
    ("nvml.nvmlDeviceGetGspFirmwareMode(gpu[0])", "NVMLError_FunctionNotFound"),
    ("nvml.nvmlErrorString(nvml.NVML_ERROR_GPU_IS_LOST)", "GPU is lost"),
    ("field(gpu[0], 83) > 3_000_000_000", True),
    ("field(gpu[0], 186, 1)", UNSUPPORTED),
    ("field(gpu[0], 82)", UNSUPPORTED),
]
"""What real pynvml reads of the driver, untouched; an NVML error by its name."""


def test_pynvml_reads(tmp_path: Path) -> None:
    """The real pynvml reads the values of an H100, and gets the errors of an H100."""
    with FakeDriver(tmp_path) as driver, NvmlProcess(driver) as process:
        answers = [(expression, process.ask(expression)) for expression, _ in DEFAULT_READINGS]
    assert answers == DEFAULT_READINGS


def test_settings_are_seen_at_once(driver: FakeDriver, process: NvmlProcess) -> None:
    """A running process sees changed readings and a changed number of GPUs at once."""
    gpu = driver.gpus[0]
    gpu.name, gpu.fan_percent, gpu.throttle_reasons, gpu.power_limit_watts = "NVIDIA L4", 30, 0x44, 72.0
    assert process.ask("nvml.nvmlDeviceGetName(gpu[0])") == "NVIDIA L4"
    assert process.ask("nvml.nvmlDeviceGetFanSpeed(gpu[0])") == 30
    assert process.ask("nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu[0])") == 0x44
    assert process.ask("nvml.nvmlDeviceGetEnforcedPowerLimit(gpu[0])") == 72_000
    gpu.clocks_mhz = (210, None, 405, 1185)
    assert gpu.clocks_mhz == (210, None, 405, 1185)
    assert process.ask("nvml.nvmlDeviceGetClockInfo(gpu[0], nvml.NVML_CLOCK_GRAPHICS)") == 210
    assert process.ask("nvml.nvmlDeviceGetClockInfo(gpu[0], nvml.NVML_CLOCK_SM)") == UNSUPPORTED
    driver.gpu_count = 64
    assert process.ask("nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(63))") == driver.gpus[63].uuid


def test_limits_may_be_absurd_or_not_supported(driver: FakeDriver, process: NvmlProcess) -> None:
    """A limit may be 0, the largest 32-bit number, or not supported."""
    limits = [
        "nvml.nvmlDeviceGetEnforcedPowerLimit(gpu[0])",
        "nvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu[0])",
        "nvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu[0])[1]",
    ]
    gpu = driver.gpus[0]
    for watts in (0.0, 0xFFFFFFFF / 1000):
        gpu.power_limit_watts = gpu.default_limit_watts = gpu.max_limit_watts = watts
        assert {process.ask(limit) for limit in limits} == {round(1000 * watts)}
    gpu.limits_supported = False
    assert {process.ask(limit) for limit in limits} == {UNSUPPORTED}


def test_field_values_carry_their_time(process: NvmlProcess) -> None:
    """Each field value has an NVML timestamp between the start and the end of the call."""
    before, stamp, after = process.ask(
        "[time.time(), nvml.nvmlDeviceGetFieldValues(gpu[0], [186])[0].timestamp, time.time()]"
    )
    assert before - 1e-5 <= stamp / 1e6 <= after


def test_a_lost_gpu_answers_nothing_until_it_is_back(driver: FakeDriver, process: NvmlProcess) -> None:
    """Every call on a lost GPU fails with GPU_IS_LOST.

    Other GPUs are not affected. Afterwards all calls work.
    """
    driver.gpus[0].lost = True
    assert {process.ask(reading) for reading in READINGS} == {LOST}
    assert process.ask("nvml.nvmlDeviceGetHandleByIndex(0)") == LOST
    assert process.ask("field(gpu[1], 186)") == 300_000
    driver.gpus[0].lost = False
    assert process.ask(FIELD) == 300_000


FAULTS: list[tuple[str, Any, list[Any]]] = [
    ("power_supported", False, [UNSUPPORTED, int, UNSUPPORTED, int]),
    ("energy_supported", False, [int, UNSUPPORTED, int, int]),
    ("instant_supported", False, [int, int, UNSUPPORTED, int]),
    ("architecture", Architecture.PASCAL, [int, UNSUPPORTED, UNSUPPORTED, int]),
    ("architecture", Architecture.VOLTA, [int, int, UNSUPPORTED, int]),
    ("architecture", Architecture.BLACKWELL, [int, int, int, int]),
    ("denied", {"power", "slow"}, [DENIED, int, int, DENIED]),
    ("denied", {"fields", "energy"}, [int, DENIED, DENIED, int]),
    ("power_override_watts", 0.0, [0, int, 0, int]),
    ("power_override_watts", 10_000.0, [10_000_000, int, 10_000_000, int]),
]
"""A setting, its value, and what READINGS answer: an error's name, a number or any number."""


def test_a_fault_changes_only_its_own_calls(tmp_path: Path) -> None:
    """A fault of power, energy, the instant field or temperature changes only the calls listed for it."""
    with FakeDriver(tmp_path, gpus=len(FAULTS)) as driver, NvmlProcess(driver) as process:
        for number, (setting, value, expected) in enumerate(FAULTS):
            setattr(driver.gpus[number], setting, value)
            assert getattr(driver.gpus[number], setting) == value
            answers = [process.ask(reading.replace("gpu[0]", f"gpu[{number}]")) for reading in READINGS]
            kinds = [
                int if wanted is int and isinstance(answer, int) else answer
                for answer, wanted in zip(answers, expected, strict=True)
            ]
            assert kinds == expected, (setting, value)


def test_a_slow_call_takes_its_time(driver: FakeDriver, process: NvmlProcess) -> None:
    """Power, energy and field calls take the set time. The temperature call does not."""
    timed = "(lambda begun: ({}, time.monotonic() - begun)[1])(time.monotonic())"
    driver.gpus[0].slow_call_s = 0.1
    assert min(process.ask(timed.format(reading)) for reading in (POWER, ENERGY, FIELD)) >= 0.1
    driver.gpus[0].slow_call_s = 30.0
    assert process.ask(timed.format(TEMPERATURE)) < 30


def test_a_hung_call_is_released(driver: FakeDriver, process: NvmlProcess) -> None:
    """A call hangs until the fault is cleared, then returns. Meanwhile the other GPU can be read."""
    with NvmlProcess(driver) as other:
        driver.gpus[0].hung = True
        process.send(f"[{FIELD}, time.monotonic()]")
        wait_until(lambda: driver.calls()[0].fields, "the call")
        assert other.ask("field(gpu[1], 186)") == 300_000
        released = time.monotonic()
        driver.gpus[0].hung = False
    watts, ended = process.answer()
    assert watts == 300_000
    assert ended > released


def test_a_process_that_hangs_is_released_with_the_driver(tmp_path: Path) -> None:
    """When the FakeDriver exits, a hung call returns an error."""
    with FakeDriver(tmp_path, gpus=1) as driver:
        process = NvmlProcess(driver)
        driver.gpus[0].hung = True
        process.send(FIELD)
        wait_until(lambda: driver.calls()[0].fields, "the call")
    with process:
        assert process.answer() == "NVMLError_Uninitialized"


def test_the_counter_resets_and_steps(driver: FakeDriver, process: NvmlProcess) -> None:
    """A step moves the counter back, a reset sets it to 0. The counter continues from there."""
    start, earlier = process.ask(f"[time.time(), {ENERGY}]")
    driver.gpus[0].step_counter(joules=-1000.0)
    later, end = process.ask(f"[{ENERGY}, time.time()]")
    assert earlier - 1_000_000 < later <= earlier - 1_000_000 + 300_000 * (end - start) + 1
    at = driver.gpus[0].reset_counter()
    before, millijoules, after = process.ask(f"[time.time(), {ENERGY}, time.time()]")
    assert 300 * (before - at) - 0.0011 <= millijoules / 1000 <= 300 * (after - at) + 0.0011


def test_the_counter_has_a_gain_of_its_own(driver: FakeDriver, process: NvmlProcess) -> None:
    """A counter with gain 0.5 continues without a jump. The power reading keeps its gain of 1."""
    start, earlier = process.ask(f"[time.time(), {ENERGY}]")
    driver.gpus[0].energy_gain = 0.5
    begun, first, second, ended = process.ask(
        f"[time.time(), {ENERGY}, time.sleep(0.1) or {ENERGY}, time.time()]"
    )
    assert earlier < first <= earlier + 300_000 * (ended - start) + 1
    assert 0.1 * 150_000 <= second - first <= (ended - begun) * 150_000 + 1
    assert process.ask(FIELD) == 300_000


def test_a_counter_sticks_at_zero_or_at_its_value(driver: FakeDriver, process: NvmlProcess) -> None:
    """A stuck counter answers the same value while power is read. Then it has the joules of the meantime."""
    gpu = driver.gpus[0]
    twice = f"[{ENERGY}, field(gpu[0], 83), time.sleep(0.05) or {ENERGY}, {FIELD}]"
    start, earlier, begun = process.ask(f"[time.time(), {ENERGY}, time.time()]")
    gpu.energy_stuck = "zero"
    assert gpu.energy_stuck == "zero"
    assert process.ask(twice) == [0, 0, 0, 300_000]
    gpu.energy_stuck = "frozen"
    frozen_s = time.time()
    first, *others, milliwatts = process.ask(twice)
    assert (gpu.energy_stuck, milliwatts) == ("frozen", 300_000)
    assert others == [first, first]
    assert (first - earlier) / 1000 <= driver.exact_joules(0, start, frozen_s) + 0.0011
    gpu.energy_stuck = None
    late, later, end = process.ask(f"[time.time(), {ENERGY}, time.time()]")
    rise_joules = (later - earlier) / 1000
    least, most = driver.exact_joules(0, begun, late), driver.exact_joules(0, start, end)
    assert least - 0.0011 <= rise_joules <= most + 0.0011


def test_mig_slices_have_handles_but_no_power(driver: FakeDriver, process: NvmlProcess) -> None:
    """MIG slices have names, numbers and UUIDs. Only the whole GPU has power."""
    driver.gpus[0].mig_slices = 2
    first = "nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu[0], 1)"
    parent = driver.gpus[0].uuid.removeprefix("GPU-")
    for expression, expected in [
        ("nvml.nvmlDeviceGetMigMode(gpu[0])", [1, 1]),
        ("nvml.nvmlDeviceGetMaxMigDeviceCount(gpu[0])", 7),
        (f"nvml.nvmlDeviceGetName({first})", "NVIDIA H100 80GB HBM3 MIG 1g.9gb"),
        (f"nvml.nvmlDeviceGetUUID({first})", f"MIG-{parent[:-2]}01"),
        (f"nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(b'MIG-{parent[:-2]}01'))", 1),
        (
            f"nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle({first}))",
            f"GPU-{parent}",
        ),
        (f"nvml.nvmlDeviceIsMigDeviceHandle({first}).value", 1),
        ("nvml.nvmlDeviceIsMigDeviceHandle(gpu[0]).value", 0),
        (f"nvml.nvmlDeviceGetGpuInstanceId({first})", 2),
        (f"nvml.nvmlDeviceGetPowerUsage({first})", UNSUPPORTED),
        (f"nvml.nvmlDeviceGetTotalEnergyConsumption({first})", UNSUPPORTED),
        (f"field({first}, 186)", UNSUPPORTED),
        ("nvml.nvmlDeviceGetUtilizationRates(gpu[0])", UNSUPPORTED),
        ("nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu[0], 2)", "NVMLError_NotFound"),
        (FIELD, 300_000),
    ]:
        assert process.ask(expression) == expected, expression


def test_an_unloaded_driver_answers_nothing(driver: FakeDriver, process: NvmlProcess) -> None:
    """After an unload, old handles and nvmlInit fail, in this process and in new ones."""
    driver.unload()
    assert process.ask(FIELD) == "NVMLError_Uninitialized"
    assert process.ask("nvml.nvmlDeviceGetCount()") == "NVMLError_Uninitialized"
    assert process.ask("nvml.nvmlShutdown()") is None
    assert process.ask("nvml.nvmlInit()") == "NVMLError_DriverNotLoaded"
    with pytest.raises(RuntimeError, match="the process ended"):
        NvmlProcess(driver)


def test_a_reloaded_driver_wants_a_new_init(driver: FakeDriver, process: NvmlProcess) -> None:
    """After a reload, old handles are lost until nvmlInit, and counters start at 0."""
    driver.unload()
    reloaded_s = time.time()
    driver.reload()
    assert process.ask(FIELD) == LOST
    assert process.ask("nvml.nvmlInit()") is None
    assert process.ask(FIELD) == 300_000
    joules, read_s = process.ask(f"[{ENERGY} / 1000, time.time()]")
    assert 0 <= joules <= 300 * (read_s - reloaded_s) + 1


@pytest.mark.parametrize("content", [None, b"", b"\0" * 100])
def test_without_a_state_file_there_is_no_driver(tmp_path: Path, content: bytes | None) -> None:
    """With a missing, empty or invalid state file, the driver is not loaded."""
    state = tmp_path / "state"
    if content is not None:
        state.write_bytes(content)
    listed = subprocess.run(
        [build() / "nvidia-smi", "-L"],
        env={**os.environ, "FAKE_NVML_STATE": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 9
    assert "Driver Not Loaded" in listed.stdout


def test_counters_go_on_over_a_restart(driver: FakeDriver) -> None:
    """In a second process the counter continues, in agreement with exact_joules."""
    readings = []
    for _ in range(2):
        with NvmlProcess(driver) as process:
            readings.append(process.ask(f"[time.time(), {ENERGY}, time.time()]"))
    (earliest, first, early), (late, second, latest) = readings
    low, high = driver.exact_joules(0, early, late), driver.exact_joules(0, earliest, latest)
    assert low - 0.0011 <= (second - first) / 1000 <= high + 0.0011


def test_a_forked_child_reads_on(process: NvmlProcess) -> None:
    """A child that was forked while threads read can use the handles of its parent."""
    forked = (
        "[threading.Thread(target=lambda: [field(gpu[1], 186) for _ in range(20_000)]).start()"
        " for _ in range(4)] and [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in"
        f" [os.fork() or os._exit({FIELD} != 300_000) for _ in range(20)]]"
    )
    assert process.ask(f"exec('import threading') or {forked}") == [0] * 20


def test_calls_are_counted(driver: FakeDriver, process: NvmlProcess) -> None:
    """Calls are counted by class and GPU, over all processes. Failed calls are counted as well."""
    before = driver.calls()
    with NvmlProcess(driver) as other:
        for each in (process, other):
            each.ask(f"[({FIELD}, {FIELD}, {POWER}, {ENERGY}, {TEMPERATURE}) for _ in range(1000)]")
    driver.gpus[0].lost = True
    process.ask(POWER)
    after = driver.calls()
    assert after[0] == Calls(
        before[0].fields + 4000,
        before[0].energy + 2000,
        before[0].power + 2001,
        before[0].slow + 2000,
        before[0].open + 1,
    )
    assert after[1] == Calls(0, 0, 0, 0, before[1].open + 1)


def test_a_new_driver_in_the_same_place_leaves_old_processes_alone(tmp_path: Path) -> None:
    """A process of an earlier driver continues to read the state file of that driver."""
    with FakeDriver(tmp_path, gpus=1) as old, NvmlProcess(old) as process:
        old.gpus[0].set_load(constant(100.0))
        with FakeDriver(tmp_path, gpus=2):
            assert process.ask(FIELD) == 100_000
            assert process.ask("nvml.nvmlDeviceGetCount()") == 1


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    """An unknown keyword raises a TypeError."""
    with pytest.raises(TypeError, match="low_wats"):
        FakeDriver(tmp_path, low_wats=1.0)


def test_a_process_may_load_the_driver_by_itself(tmp_path: Path) -> None:
    """pynvml finds a driver that its own process loaded and, after nvmlShutdown, another one."""
    program = """
import pathlib, sys
import pynvml
from tests.fake_nvml import FakeDriver
for gpus in (1, 3):
    with FakeDriver(pathlib.Path(sys.argv[1]), gpus=gpus) as driver:
        driver.load_into_this_process()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == gpus
        pynvml.nvmlShutdown()
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=True)
