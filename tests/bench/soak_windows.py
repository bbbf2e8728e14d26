"""Whether the true joules of any window of a soak lie inside the integrator's bounds."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.bench.soak_figures import Figure
from tests.fake_nvml import FakeDriver
from tests.servers import Prometheus


def of_windows(
    prometheus: Prometheus, driver: FakeDriver, span_s: tuple[float, float], count: int, seed: int
) -> Iterator[Figure]:
    """Whether the true joules of random windows lie inside the integrator's bounds, by each backend."""
    chance = random.Random(seed)
    windows = []
    for _ in range(count):
        length_s = min(math.exp(chance.uniform(0.0, math.log(120.0))), 0.8 * (span_s[1] - span_s[0]))
        start_us = round(chance.uniform(span_s[0], span_s[1] - length_s) * 1e6)
        windows.append((start_us, start_us + round(length_s * 1e6)))
    for backend in ("zeus", "nvml"):
        try:
            yield _of_backend(backend, list(_integrated(prometheus.url, backend, windows)), driver)
        except RuntimeError as exc:  # what hours have shown is told all the same
            yield Figure(f"windows by {backend}", str(exc), False)


def _of_backend(
    backend: str, found: Sequence[tuple[int, int, Mapping[str, Any]]], driver: FakeDriver
) -> Figure:
    inside = unbounded = nothing = 0
    outside: list[str] = []
    for start_us, end_us, gpu in found:
        exact_j = driver.exact_joules(int(gpu["gpu"]), start_us / 1e6, end_us / 1e6)
        if gpu["joules"] is None:
            nothing += 1
        elif gpu["joules_high"] is None:
            unbounded += 1
        elif gpu["joules_low"] <= exact_j <= gpu["joules_high"]:
            inside += 1
        else:
            outside.append(_shown(start_us, end_us, gpu, exact_j))
    value = (
        f"{len(outside)} outside, {inside} inside, {unbounded} without an upper bound, "
        f"{nothing} without joules {'; '.join(outside[:4])}"
    )
    return Figure(f"windows by {backend}", value, not outside and not unbounded and inside > 0)


def _shown(start_us: int, end_us: int, gpu: Mapping[str, Any], exact_j: float) -> str:
    bounds = f"{gpu['joules_low']:.2f}..{gpu['joules_high']:.2f}"
    window = f"{start_us / 1e6:.6f},+{(end_us - start_us) / 1e6:.6f}s"
    holes = f"{gpu['gap_s']:.2f} s gap, {gpu['resets']} resets"
    return f"GPU {gpu['gpu']} {window}: {exact_j:.2f} not in {bounds}, {holes}"


def _integrated(
    url: str, backend: str, windows: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    command = [
        sys.executable,
        "-m",
        "llem_integrator",
        "--source",
        url,
        "--backend",
        backend,
        "--format",
        "json",
    ]
    for start_us, end_us in windows:
        command += ["--window", f"{start_us / 1e6:.6f},{end_us / 1e6:.6f}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3, 4):
        raise RuntimeError(f"llem-integrate: {done.stderr}")
    for (start_us, end_us), window in zip(windows, json.loads(done.stdout)["windows"], strict=True):
        for gpu in window["gpus"]:
            yield start_us, end_us, gpu
