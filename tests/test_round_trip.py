"""The main job on real parts: fake driver, exporter, a real Prometheus scraping every 5 s, llem-integrate.

One run of 90 s serves all tests: node A is left alone, node B's exporter is killed for 10 s in the middle.
Every version of Prometheus that is there scrapes both nodes in that run.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fake_nvml import FakeDriver
from tests.servers import Exporter, Prometheus, PrometheusRelease, prometheus_releases, scrape_config

GPUS = 8
RUN_SECONDS = 90
SCRAPE_SECONDS = 5
DOWN_SECONDS = 10
KILL_AFTER_SECONDS = 40
LIVE_SECONDS = 20

LIVE = f"""
import json, time
from llem_exporter.energy_backends import get_backend

backends = {{name: get_backend(name, gpu_indices=range({GPUS})) for name in ("zeus", "nvml")}}
trackers = {{name: backend.start_tracking() for name, backend in backends.items()}}
time.sleep({LIVE_SECONDS})
for name, backend in backends.items():
    found = backend.stop_tracking(trackers[name])
    times = found.start_unix_s, found.end_unix_s
    print(json.dumps([name, *times, found.per_gpu_j, found.per_gpu_bounds_j]))
"""
"""A user's own program: both backends measure the same GPUs at once, in process."""


@dataclass(frozen=True)
class Live:
    """What a backend measured in a user's own program on node A: joules and bounds by GPU index."""

    backend: str
    start_s: float
    end_s: float
    joules: dict[str, float]
    bounds: dict[str, list[float]]


@dataclass(frozen=True)
class Nodes:
    """Two nodes after their run, and the Prometheus of each version that has scraped them."""

    drivers: dict[str, FakeDriver]
    addresses: dict[str, str]
    scraped_by: dict[PrometheusRelease, Prometheus]
    killed_s: float
    end_s: float
    live: tuple["Live", ...]

    def exact(self, node: str, gpu: dict[str, Any], window: dict[str, Any]) -> float:
        return self.drivers[node].exact_joules(int(gpu["gpu"]), window["start"], window["end"])


@dataclass(frozen=True)
class Run:
    """The run as one Prometheus has seen it, from its first sample of node A to its last."""

    nodes: Nodes
    prometheus: Prometheus
    first_s: float
    last_s: float

    @property
    def killed_s(self) -> float:
        return self.nodes.killed_s

    def exact(self, node: str, gpu: dict[str, Any], window: dict[str, Any]) -> float:
        return self.nodes.exact(node, gpu, window)

    def integrate(
        self,
        node: str,
        *windows: tuple[float, float],
        code: int = 0,
        backend: str = "auto",
        options: Sequence[str] = (),
    ) -> Any:
        """The windows of llem-integrate's JSON for one node."""
        options = ["--backend", backend, "--match", f'instance="{self.nodes.addresses[node]}"', *options]
        return integrate(self.prometheus.url, windows, *options, code=code)


def integrate(url: str, windows: Sequence[tuple[float, float]], *options: str, code: int = 0) -> Any:
    """The windows of llem-integrate's JSON, from `url`."""
    command = [sys.executable, "-m", "llem_integrator", "--source", url, "--format", "json", *options]
    command += [part for start, end in windows for part in ("--window", f"{start:.6f},{end:.6f}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, ""), done.stderr
    return json.loads(done.stdout)["windows"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    base = tmp_path_factory.mktemp("round_trip")
    for name in ("a", "b"):
        (base / name).mkdir()
    with (
        FakeDriver(base / "a", gpus=GPUS) as driver_a,
        FakeDriver(base / "b", gpus=GPUS) as driver_b,
        Exporter(env=driver_a.env, args=["--codecarbon.country-iso-code", "DEU"]) as node_a,
        Exporter(env=driver_b.env) as node_b,
        ExitStack() as servers,
    ):
        jobs = [scrape_config("llem", node_a, node_b, interval=f"{SCRAPE_SECONDS}s")]
        scraped_by = {}
        for release in prometheus_releases():
            (directory := base / release.version).mkdir()
            scraped_by[release] = servers.enter_context(Prometheus(directory, jobs, release=release))
        for prometheus in scraped_by.values():
            prometheus.wait_for(f'llem_gpu_zeus_energy_joules_total{{instance="{node_a.address}"}}')
        live = subprocess.Popen(
            [sys.executable, "-c", LIVE],
            env={**os.environ, **driver_a.env},
            stdout=subprocess.PIPE,
            text=True,
        )
        lines, _ = live.communicate(timeout=KILL_AFTER_SECONDS)
        time.sleep(KILL_AFTER_SECONDS - LIVE_SECONDS)
        node_b.kill()
        killed_s = time.time()
        time.sleep(DOWN_SECONDS)
        node_b.start()
        time.sleep(RUN_SECONDS - KILL_AFTER_SECONDS - DOWN_SECONDS)
        yield Nodes(
            {"a": driver_a, "b": driver_b},
            {"a": node_a.address, "b": node_b.address},
            scraped_by,
            killed_s,
            time.time(),
            tuple(Live(*json.loads(line)) for line in lines.splitlines() if line.startswith("[")),
        )


@pytest.fixture(scope="module")
def run(nodes: Nodes, prometheus_release: PrometheusRelease) -> Run:
    prometheus = nodes.scraped_by[prometheus_release]
    times = prometheus.query(
        f'llem_gpu_sample_timestamp_seconds{{instance="{nodes.addresses["a"]}",gpu="0"}}[10m]'
    )[0]["values"]
    return Run(nodes, prometheus, float(times[0][1]), float(times[-1][1]))


def windows_between(first_s: float, last_s: float, count: int) -> list[tuple[float, float]]:
    """Random windows of 3 s and more, whole microseconds, that end before the last sample."""
    rng = random.Random(20261124)
    found: list[tuple[float, float]] = []
    while len(found) < count:
        start, end = sorted(round(rng.uniform(first_s, last_s - 1), 6) for _ in range(2))
        if end - start >= 3:
            found.append((start, end))
    return found


def test_exact_joules_lie_inside_the_bounds(run: Run) -> None:
    """Windows that begin and end between scrapes hold the exact joules, on every GPU, fully covered."""
    for window in run.integrate("a", *windows_between(run.first_s, run.last_s, 20)):
        assert (window["backend"], window["valid"], len(window["gpus"])) == ("zeus", True, GPUS)
        for gpu in window["gpus"]:
            exact = run.exact("a", gpu, window)
            assert gpu["joules_low"] <= exact <= gpu["joules_high"], (window["start"], gpu, exact)
            assert gpu["coverage"] == 1.0
            assert gpu["resets"] == 0


def test_nvml_by_the_exporters_counter_holds_them_too(run: Run) -> None:
    """The exporter's own counter covers the same windows, and its bounds hold the exact joules."""
    for window in run.integrate("a", *windows_between(run.first_s, run.last_s, 5), backend="nvml"):
        for gpu in window["gpus"]:
            assert gpu["joules_low"] <= run.exact("a", gpu, window) <= gpu["joules_high"], (
                window["start"],
                gpu,
            )
            assert (gpu["coverage"], gpu["method"]) == (1.0, "counter")


def test_zeus_and_nvml_agree(run: Run) -> None:
    """Over a minute both backends' joules are within 2 % of each other, and of the truth."""
    (window,) = run.integrate("a", (run.last_s - 66, run.last_s - 6))
    for gpu in window["gpus"]:
        exact = run.exact("a", gpu, window)
        # Edges between scrapes are interpolated: up to 5 s at each of a load of 120 to 520 W.
        assert gpu["joules_by_backend"]["zeus"] == pytest.approx(exact, rel=0.05)
        assert gpu["joules_by_backend"]["nvml"] == pytest.approx(gpu["joules_by_backend"]["zeus"], rel=0.02)


def test_before_the_data_exits_3(run: Run) -> None:
    """A window before the data has no joules, and exit code 3 says so."""
    (window,) = run.integrate("a", (run.first_s - 900, run.first_s - 600), code=3)
    assert (window["total_j"], window["valid"], window["reasons"]) == (None, False, ["no_data"])


def test_a_half_covered_window_says_so_and_exits_4(run: Run) -> None:
    """A window of which the first half lies before the first sample has coverage 0.5."""
    (window,) = run.integrate("a", (run.first_s - 20, run.first_s + 20), code=4)
    for gpu in window["gpus"]:
        assert gpu["coverage"] == pytest.approx(0.5, abs=0.01)
    assert window["reasons"] == ["coverage"]


def test_a_killed_exporter_costs_zeus_nothing(run: Run) -> None:
    """kill -9 for 10 s in the middle: the hardware counted on, the bounds hold, nothing is missing."""
    (window,) = run.integrate("b", (run.killed_s - 21.3, run.killed_s + 28.7))
    for gpu in window["gpus"]:
        exact = run.exact("b", gpu, window)
        assert gpu["joules_low"] <= exact <= gpu["joules_high"]
        assert gpu["joules"] == pytest.approx(exact, rel=0.06)
        assert (gpu["coverage"], gpu["resets"], gpu["backend"]) == (1.0, 0, "zeus")


def test_a_killed_exporter_is_a_gap_to_nvml(run: Run) -> None:
    """The same for nvml: the hole is a gap with its seconds, no joules are invented, the bounds hold."""
    (window,) = run.integrate("b", (run.killed_s - 21.3, run.killed_s + 28.7), backend="nvml", code=4)
    for gpu in window["gpus"]:
        # What was counted after the last scrape before the kill is gone too.
        assert DOWN_SECONDS <= gpu["gap_s"] <= DOWN_SECONDS + SCRAPE_SECONDS + 3
        assert gpu["covered_s"] + gpu["gap_s"] == pytest.approx(50)
        assert gpu["resets"] == 1
        assert gpu["joules_low"] <= run.exact("b", gpu, window) <= gpu["joules_high"]
        assert gpu["joules"] < run.exact("b", gpu, window)
    assert {warning["code"] for warning in window["warnings"]} == {"sample_gap", "counter_reset"}


def test_the_exporters_own_url_gives_the_same(nodes: Nodes) -> None:
    """Prometheus is not needed: the exporter's history gives the same window, closer still."""
    window_s = (nodes.end_s - 45.25, nodes.end_s - 8.5)
    (window,) = integrate(f"http://{nodes.addresses['a']}", [window_s])
    for gpu in window["gpus"]:
        exact = nodes.exact("a", gpu, window)
        assert gpu["joules_low"] <= exact <= gpu["joules_high"]
        assert gpu["joules"] == pytest.approx(exact, rel=0.002)
        assert gpu["joules_by_backend"]["nvml"] == pytest.approx(exact, rel=0.03)
        assert gpu["instances"] == [nodes.addresses["a"]]


@pytest.mark.parametrize("backend", ["zeus", "nvml"])
def test_live_and_after_the_fact_agree(run: Run, backend: str) -> None:
    """What a backend measured in a user's program lies inside llem-integrate's bounds, and the reverse."""
    (live,) = (one for one in run.nodes.live if one.backend == backend)
    (window,) = run.integrate("a", (live.start_s, live.end_s), backend=backend)
    assert len(window["gpus"]) == len(live.joules) == GPUS
    for gpu in window["gpus"]:
        assert gpu["joules_low"] <= live.joules[gpu["gpu"]] <= gpu["joules_high"]
    # From the exporter's own history the edges are known to the sample, and so the reverse holds, too.
    (close,) = integrate(
        f"http://{run.nodes.addresses['a']}", [(live.start_s, live.end_s)], "--backend", backend
    )
    for gpu in close["gpus"]:
        low, high = live.bounds[gpu["gpu"]]
        assert low <= gpu["joules"] <= high
        assert gpu["joules_low"] <= live.joules[gpu["gpu"]] <= gpu["joules_high"]


def test_codecarbon_gives_the_total_of_all_gpus(run: Run) -> None:
    """--backend codecarbon: the gpu component within 5 % of the truth, no split, and exit code 3 says so."""
    (window,) = run.integrate("a", (run.last_s - 65, run.last_s - 15), backend="codecarbon", code=3)
    exact = sum(run.exact("a", gpu, window) for gpu in window["gpus"])
    assert window["total_j"] == pytest.approx(exact, rel=0.05)
    assert (set(window["per_gpu_j"].values()), window["reasons"]) == ({None}, ["no_gpu_split"])


def test_emissions_follow_codecarbons_rate(run: Run) -> None:
    """--emissions: every GPU's grams are in proportion to its joules, at a rate that a grid can have."""
    (window,) = run.integrate("a", (run.last_s - 65, run.last_s - 15), options=["--emissions"])
    rates = [gpu["emissions_g"] / gpu["joules"] for gpu in window["gpus"]]
    assert max(rates) == pytest.approx(min(rates))
    grams_per_kwh = rates[0] * 3.6e6
    assert 50 < grams_per_kwh < 1000
