"""Zeus, CodeCarbon, nvitop-exporter and nvidia-smi on the fake driver, each in its own process."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import FakeDriver
from tests.servers import free_port, wait_until


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
    """zeus.device counts the GPUs and reads the energy, power, name and temperature of each."""
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
    """With a counter that updates twice a second, a window has the exact joules between two updates."""
    for gpu in driver.gpus:
        gpu.energy_update_period_s = 0.5
    program = """
import json, time
from zeus.monitor import ZeusMonitor
monitor = ZeusMonitor(gpu_indices=[0, 1], approx_instant_energy=False)
time.sleep(0.6 - time.time() % 0.5)
times = [time.time()]
monitor.begin_window("window", sync_execution=False)
times.append(time.time())
time.sleep(1)
times.append(time.time())
joules = monitor.end_window("window", sync_execution=False).gpu_energy
times.append(time.time())
print(json.dumps([times, [joules[0], joules[1]]]))
"""
    times, joules = run(program, driver.env)
    # On a quiet machine the counter moves neither while the window begins nor while it ends.
    earliest, early, late, latest = (time_s // 0.5 * 0.5 for time_s in times)
    for number, counted in enumerate(joules):
        assert driver.exact_joules(number, early, late) - 0.0011 <= counted
        assert counted <= driver.exact_joules(number, earliest, latest) + 0.0011


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
    """CodeCarbon's GPU energy is between the exact joules of the inner and of the outer window."""
    earliest, _, early, late, _, latest, joules, count, model = run(CODECARBON, driver.env)
    assert (count, model) == (2, "2 x NVIDIA H100 80GB HBM3")
    inside, around = (
        sum(driver.exact_joules(gpu, *window) for gpu in range(2))
        for window in ((early, late), (earliest, latest))
    )
    assert inside - 0.01 <= joules <= around + 0.01


def test_codecarbon_without_nvidia_smi_sees_none(driver: FakeDriver) -> None:
    """Without nvidia-smi on the PATH, CodeCarbon counts no GPU joules and gives no error."""
    *_, joules, _, _ = run(CODECARBON.replace("2.5", "1.2"), driver.env_without_nvidia_smi)
    assert joules == 0


def test_nvitop_exporter_serves_power(driver: FakeDriver) -> None:
    """nvitop-exporter starts, and its page has the power of each GPU."""
    port = free_port()
    exporter = subprocess.Popen(
        [sys.executable, "-m", "nvitop_exporter", "--port", str(port), "--interval", "0.25"],
        env={**os.environ, **driver.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        watts = wait_until(lambda: power_of(port), "power of nvitop-exporter")
    finally:
        exporter.kill()
        _, errors = exporter.communicate()
    assert len(watts) == 2
    assert all(80 <= w <= 560 for w in watts)
    assert b"rror" not in errors


def power_of(port: int) -> list[float]:
    """The power readings of the page; none where it is not served yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
    except OSError:
        return []
    return [float(line.split()[-1]) for line in lines if line.startswith("gpu_power_usage_W{")]


def test_nvidia_smi(driver: FakeDriver) -> None:
    """nvidia-smi prints its help, the list of GPUs and a table."""
    env = {**os.environ, **driver.env}
    for options, expected in (
        (["--help"], "NVIDIA System Management Interface"),
        (["-L"], "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-6cfae1c0-69c8-5114-a245-43dd39bd03ea)"),
        ([], "CUDA Version: 13.0"),
    ):
        done = subprocess.run(["nvidia-smi", *options], env=env, capture_output=True, text=True, check=True)
        assert expected in done.stdout
