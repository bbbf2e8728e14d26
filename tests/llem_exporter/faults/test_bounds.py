"""After faults of all kinds: what llem-integrate makes of the exporter's history holds the exact joules."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_nvml import FakeDriver, FakeGpu
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.faults.pages import all_read, with_zeus
from tests.servers import Exporter

FAULTS: dict[str, Callable[[FakeGpu, bool], object]] = {
    "lost": lambda gpu, on: setattr(gpu, "lost", on),
    "hung": lambda gpu, on: setattr(gpu, "hung", on),
    "denied": lambda gpu, on: setattr(gpu, "denied", frozenset({"fields", "power", "energy"} if on else ())),
    "zero": lambda gpu, on: setattr(gpu, "power_override_watts", 0.0 if on else None),
    "absurd": lambda gpu, on: setattr(gpu, "power_override_watts", 10_000.0 if on else None),
    "slow": lambda gpu, on: setattr(gpu, "slow_call_s", 0.05 if on else 0.0),
}


def integrated(exporter: Exporter, start_unix_s: float, end_unix_s: float, backend: str) -> dict[str, Any]:
    """llem-integrate's result for a window, GPU by GPU."""
    command = ["-m", "llem_integrator", "--source", exporter.url, "--backend", backend, "--format", "json"]
    window = f"{start_unix_s:.3f},{end_unix_s:.3f}"
    done = subprocess.run(
        [sys.executable, *command, "--window", window, "--min-coverage", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["windows"]
    return {gpu["gpu"]: gpu for gpu in result["gpus"]}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_exact_joules_are_inside_the_bounds(start: StartExporter, driver: FakeDriver, fault: str) -> None:
    """A fault of 1.5 s in the middle of the window, on the bursty load: by nvml and by zeus, each GPU."""
    exporter = start("--no-collector.codecarbon", driver=driver)
    with_zeus(exporter)
    start_s = round(time.time(), 3)
    time.sleep(1)
    FAULTS[fault](driver.gpus[1], True)
    time.sleep(1.5)
    FAULTS[fault](driver.gpus[1], False)
    time.sleep(1.2)
    all_read(exporter)
    end_s = round(time.time(), 3)
    time.sleep(0.8)
    for backend in ("nvml", "zeus"):
        found = integrated(exporter, start_s, end_s, backend)
        assert found.keys() == {"0", "1", "2"}
        for number, gpu in found.items():
            exact = driver.exact_joules(int(number), start_s, end_s)
            assert gpu["joules_low"] <= exact <= gpu["joules_high"], (backend, number, gpu)
    by_nvml = integrated(exporter, start_s, end_s, "nvml")
    gaps = [by_nvml[number]["gap_s"] for number in ("0", "1", "2")]
    assert gaps[0] == gaps[2] == 0
    assert (gaps[1] >= 1.2) == (fault != "slow")
