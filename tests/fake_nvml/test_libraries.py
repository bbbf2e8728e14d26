"""Zeus, CodeCarbon, nvitop-exporter and nvidia-smi on the fake driver, each in its own process."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import FakeDriver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    """Two GPUs under the default load."""
    with FakeDriver(tmp_path, gpus=2) as driver:
        yield driver


def run(program: str, env: dict[str, str]) -> Any:
    """The last line that a Python program prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_zeus_reads_the_counter(driver: FakeDriver) -> None:
    """zeus.device counts the GPUs and reads energy, power, name and temperature of each."""
    program = """
import json, time
from zeus.device import get_gpus
gpus = get_gpus()
before = time.time()
counter = gpus.get_total_energy_consumption(1)
time.sleep(0.5)
used, after = gpus.get_total_energy_consumption(1) - counter, time.time()
print(json.dumps([len(gpus), before, after, used,
                  gpus.get_instant_power_usage(0), gpus.get_average_power_usage(0), gpus.get_name(0),
                  gpus.get_gpu_temperature(1), gpus.supports_get_total_energy_consumption(0)]))
"""
    count, before, after, used, instant, average, *rest = run(program, driver.env_without_nvidia_smi)
    assert count == 2
    assert used / 1000 <= driver.exact_joules(1, before, after) + 0.0011
    assert used / 1000 >= driver.exact_joules(1, before, after) - 560 * (after - before - 0.5) - 0.0011
    assert 80_000 <= instant <= 560_000
    assert 80_000 <= average <= 560_000
    assert rest == ["NVIDIA H100 80GB HBM3", 46, True]


def test_a_zeus_window_is_exact_to_the_millijoule(driver: FakeDriver) -> None:
    """With a counter that moves once a second, a window's joules are those between two known instants."""
    for gpu in driver.gpus:
        gpu.energy_update_period_s = 1.0
    program = """
import json, time
from zeus.monitor import ZeusMonitor
monitor = ZeusMonitor(gpu_indices=[0, 1], approx_instant_energy=False)
time.sleep(1.3 - time.time() % 1)
begun = time.time()
monitor.begin_window("window", sync_execution=False)
time.sleep(2)
ended = time.time()
joules = monitor.end_window("window", sync_execution=False).gpu_energy
print(json.dumps([begun, ended, joules[0], joules[1]]))
"""
    begun, ended, *joules = run(program, driver.env)
    start, end = begun // 1, ended // 1
    exact = [driver.exact_joules(gpu, start, end) for gpu in range(2)]
    assert joules == pytest.approx(exact, abs=0.0011)


CODECARBON = """
import json, time
from codecarbon import OfflineEmissionsTracker
tracker = OfflineEmissionsTracker(country_iso_code="DEU", measure_power_secs=1, save_to_file=False,
                                  allow_multiple_runs=True, log_level="error")
times = [time.time(), tracker.start(), time.time()]
time.sleep(2.5)
times += [time.time(), tracker.stop(), time.time()]
data = tracker.final_emissions_data
print(json.dumps([*times, data.gpu_energy * 3.6e6, data.gpu_count, data.gpu_model]))
"""


def test_codecarbon_sees_the_gpus(driver: FakeDriver) -> None:
    """CodeCarbon's GPU energy lies between the joules inside its start and stop and those around them."""
    earliest, _, early, late, _, latest, joules, count, model = run(CODECARBON, driver.env)
    assert (count, model) == (2, "2 x NVIDIA H100 80GB HBM3")
    inside, around = (
        sum(driver.exact_joules(gpu, *window) for gpu in range(2))
        for window in ((early, late), (earliest, latest))
    )
    assert inside - 0.01 <= joules <= around + 0.01


def test_codecarbon_without_nvidia_smi_sees_none(driver: FakeDriver) -> None:
    """Without nvidia-smi on the PATH CodeCarbon counts no GPU joules, silently."""
    *_, joules, _, _ = run(CODECARBON.replace("2.5", "1.2"), driver.env_without_nvidia_smi)
    assert joules == 0


def test_nvitop_exporter_serves_power(driver: FakeDriver) -> None:
    """nvitop-exporter starts and its page shows each GPU's power."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    exporter = subprocess.Popen(
        [sys.executable, "-m", "nvitop_exporter", "--port", str(port), "--interval", "0.25"],
        env={**os.environ, **driver.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        watts = poll_power(port)
    finally:
        exporter.kill()
        _, errors = exporter.communicate()
    assert len(watts) == 2
    assert all(80 <= w <= 560 for w in watts)
    assert b"rror" not in errors


def poll_power(port: int) -> list[float]:
    """The power readings of the page, once it has any."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
        except OSError:
            lines = []
        if watts := [float(line.split()[-1]) for line in lines if line.startswith("gpu_power_usage_W{")]:
            return watts
        time.sleep(0.05)
    raise AssertionError("nvitop-exporter served no power within 20 s")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--help"], "NVIDIA System Management Interface"),
        (["-L"], "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-6cfae1c0-69c8-5114-a245-43dd39bd03ea)"),
        ([], "CUDA Version: 13.0"),
    ],
)
def test_nvidia_smi(driver: FakeDriver, options: list[str], expected: str) -> None:
    """nvidia-smi on the PATH prints its help, the list of GPUs and a table."""
    env = {**os.environ, **driver.env}
    done = subprocess.run(["nvidia-smi", *options], env=env, capture_output=True, text=True, check=True)
    assert expected in done.stdout
