"""nvmlInit and MIG attributes as real pynvml sees them: a driver that hangs, a fork, a slice's profile."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver, NvmlProcess


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    """One GPU."""
    with FakeDriver(tmp_path, gpus=1) as driver:
        yield driver


def test_nvml_init_hangs_until_it_is_let_go(driver: FakeDriver) -> None:
    """nvmlInit hangs until the fault is cleared. An initialised process can still read."""
    with NvmlProcess(driver) as earlier:
        driver.init_hung = True
        assert earlier.ask("nvml.nvmlDeviceGetIndex(gpu[0])") == 0
        begun_s = time.monotonic()
        threading.Timer(0.5, setattr, (driver, "init_hung", False)).start()
        with NvmlProcess(driver) as later:
            assert time.monotonic() - begun_s >= 0.5
            assert later.ask("nvml.nvmlDeviceGetIndex(gpu[0])") == 0


def test_a_driver_that_was_replaced_is_not_opened(driver: FakeDriver) -> None:
    """After a driver upgrade, the old library gets a version mismatch."""
    with NvmlProcess(driver) as process:
        driver.replaced = True
        driver.reload()
        assert process.ask("nvml.nvmlInit()") == "NVMLError_LibRmVersionMismatch"
        assert process.ask("nvml.nvmlDeviceGetIndex(gpu[0])") == "NVMLError_GpuIsLost"
        driver.replaced = False
        assert process.ask("nvml.nvmlInit() or nvml.nvmlDeviceGetIndex(gpu[0])") == 0


_FORK = """
import json, os, sys, pynvml as nvml
def index():
    try:
        return nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByIndex(0))
    except nvml.NVMLError as error:
        return type(error).__name__
nvml.nvmlInit()
if os.fork() == 0:
    found = index()
    nvml.nvmlInit()
    print(json.dumps([found, index()]), flush=True)
    os._exit(0)
os.wait()
print(json.dumps(index()))
"""


@pytest.mark.parametrize(("forgets", "found"), [(False, 0), (True, "NVMLError_Uninitialized")])
def test_a_forked_child_may_have_to_initialise_anew(
    driver: FakeDriver, forgets: bool, found: int | str
) -> None:
    """If `forgets_fork` is set, a child must call nvmlInit again. The parent is not affected."""
    driver.forgets_fork = forgets
    done = subprocess.run(
        [sys.executable, "-c", _FORK],
        env={**os.environ, **driver.env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[found, 0], 0]


def test_a_slices_attributes_say_its_profile(driver: FakeDriver) -> None:
    """A MIG slice returns its attributes. A whole GPU returns NotSupported."""
    driver.gpus[0].mig_slices = 1
    with NvmlProcess(driver) as process:
        attributes = "(lambda a: [a.gpuInstanceSliceCount, a.computeInstanceSliceCount, a.memorySizeMB])"
        of = "nvml.nvmlDeviceGetAttributes({})".format
        first = of("nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu[0], 0)")
        assert process.ask(f"{attributes}({first})") == [1, 1, 8920]
        assert process.ask(of("gpu[0]")) == "NVMLError_NotSupported"
