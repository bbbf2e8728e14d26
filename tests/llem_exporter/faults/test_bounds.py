"""The bounds of llem-integrate contain the exact joules although faults of many kinds occurred."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.faults.injection import FAULTS
from tests.llem_exporter.faults.pages import STAMP, all_read, page_when
from tests.servers import Exporter

NAMES = ("healthy", "lost", "hung", "unreadable", "zero", "absurd", "slow", "healthy")
FAULT_SECONDS = 1.5


def integrated(exporter: Exporter, start_unix_s: float, end_unix_s: float, backend: str) -> dict[str, Any]:
    """Return llem-integrate's result for a window, by GPU."""
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


def test_the_exact_joules_are_inside_the_bounds(start: StartExporter, tmp_path: Path) -> None:
    """With a different fault on each GPU during a window of bursty load, nvml and zeus bounds hold."""
    with FakeDriver(tmp_path, gpus=len(NAMES)) as driver:
        exporter = start("--no-collector.codecarbon", driver=driver)
        all_read(exporter, len(NAMES))
        start_s = round(time.time(), 3)
        time.sleep(0.5)
        faulty = [(FAULTS[name], gpu) for name, gpu in zip(NAMES, driver.gpus, strict=True) if name in FAULTS]
        for fault, gpu in faulty:
            fault(gpu, True)
        time.sleep(FAULT_SECONDS)
        for fault, gpu in faulty:
            fault(gpu, False)
        all_read(exporter, len(NAMES))
        end_s = round(time.time(), 3)
        page_when(
            exporter,
            lambda page: all(page.value(STAMP, **labels) > end_s + 0.5 for labels in page.labels(STAMP)),
            "samples after the window",
        )
        results = {backend: integrated(exporter, start_s, end_s, backend) for backend in ("nvml", "zeus")}
    outside = [
        (backend, NAMES[int(number)], gpu)
        for backend, gpus in results.items()
        for number, gpu in gpus.items()
        if not gpu["joules_low"] <= driver.exact_joules(int(number), start_s, end_s) <= gpu["joules_high"]
    ]
    assert outside == []
    assert [len(gpus) for gpus in results.values()] == [len(NAMES)] * 2
    gaps = [results["nvml"][str(number)]["gap_s"] for number in range(len(NAMES))]
    with_gap = [name for name, gap_s in zip(NAMES, gaps, strict=True) if gap_s >= FAULT_SECONDS - 0.3]
    assert with_gap == ["lost", "hung", "unreadable", "zero", "absurd"]
