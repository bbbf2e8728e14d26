"""The round trip on real parts: fake driver, exporter, Prometheus, llem-integrate.

All tests use one run of 60 s. Prometheus scrapes two nodes every 2 s. Node A is undisturbed. The exporter of
node B is killed and restarted after 10 s. With --full, Prometheus 3 scrapes the same nodes in the same run.
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
RUN_SECONDS = 60
SCRAPE_SECONDS = 2
DOWN_SECONDS = 10
KILL_AFTER_SECONDS = 25
LIVE_SECONDS = 20

pytestmark = pytest.mark.slow

LIVE = f"""
import json, time
from llem_measure import get_backend

backends = {{name: get_backend(name, gpu_indices=range({GPUS})) for name in ("zeus", "nvml")}}
trackers = {{name: backend.start_tracking() for name, backend in backends.items()}}
time.sleep({LIVE_SECONDS})
for name, backend in backends.items():
    measured = backend.stop_tracking(trackers[name])
    times = measured.start_unix_s, measured.end_unix_s
    print(json.dumps([name, *times, measured.per_gpu_j, measured.per_gpu_bounds_j]))
"""
"""A user's program in which both backends measure the same GPUs at the same time."""


@dataclass(frozen=True)
class Live:
    """A backend's measurement inside a user's program on node A: joules and bounds by GPU index."""

    backend: str
    start_s: float
    end_s: float
    joules: dict[str, float]
    bounds: dict[str, list[float]]


@dataclass(frozen=True)
class Nodes:
    """Two nodes after the run, and the Prometheus servers that scraped them."""

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
    """The run as stored by one Prometheus, from the first sample of node A to the last."""

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
        """Return the windows of llem-integrate's JSON for one node."""
        options = ["--backend", backend, "--match", f'instance="{self.nodes.addresses[node]}"', *options]
        return integrate(self.prometheus.url, windows, *options, code=code)


def integrate(url: str, windows: Sequence[tuple[float, float]], *options: str, code: int = 0) -> Any:
    """Return the windows of llem-integrate's JSON for the source `url`."""
    command = [sys.executable, "-m", "llem_integrator", "--source", url, "--format", "json", *options]
    command += [part for start, end in windows for part in ("--window", f"{start:.6f},{end:.6f}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, ""), done.stderr
    return json.loads(done.stdout)["windows"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Nodes]:
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
        for release in prometheus_releases(full=pytestconfig.getoption("--full")):
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
        lines, _ = live.communicate(timeout=10 * LIVE_SECONDS)
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
    """Return random windows of at least 3 s, in whole microseconds, that end before the last sample."""
    rng = random.Random(20261124)
    windows: list[tuple[float, float]] = []
    while len(windows) < count:
        start, end = sorted(round(rng.uniform(first_s, last_s - 1), 6) for _ in range(2))
        if end - start >= 3:
            windows.append((start, end))
    return windows


def test_exact_joules_lie_inside_the_bounds(run: Run) -> None:
    """For windows that begin and end between scrapes, the bounds contain the exact joules of every GPU."""
    for window in run.integrate("a", *windows_between(run.first_s, run.last_s, 20)):
        assert (window["backend"], window["valid"], len(window["gpus"])) == ("zeus", True, GPUS)
        for gpu in window["gpus"]:
            exact = run.exact("a", gpu, window)
            assert gpu["joules_low"] <= exact <= gpu["joules_high"], (window["start"], gpu, exact)
            assert gpu["coverage"] == 1.0
            assert gpu["resets"] == 0


def test_exact_joules_lie_inside_the_bounds_of_nvml(run: Run) -> None:
    """For such windows, the bounds of the exporter's own counter contain the exact joules."""
    for window in run.integrate("a", *windows_between(run.first_s, run.last_s, 5), backend="nvml"):
        for gpu in window["gpus"]:
            assert gpu["joules_low"] <= run.exact("a", gpu, window) <= gpu["joules_high"], (
                window["start"],
                gpu,
            )
            assert (gpu["coverage"], gpu["method"]) == (1.0, "counter")


def test_zeus_and_nvml_agree(run: Run) -> None:
    """Over 40 s the joules of both backends are within 3 % of each other."""
    (window,) = run.integrate("a", (run.last_s - 46, run.last_s - 6))
    for gpu in window["gpus"]:
        # The edges are interpolated over up to 2 s each, at a load of 120 to 520 W.
        assert gpu["joules_by_backend"]["zeus"] == pytest.approx(run.exact("a", gpu, window), rel=0.05)
        assert gpu["joules_by_backend"]["nvml"] == pytest.approx(gpu["joules_by_backend"]["zeus"], rel=0.03)


def test_before_the_data_exits_3(run: Run) -> None:
    """A window before the data has no joules. The exit code is 3."""
    (window,) = run.integrate("a", (run.first_s - 900, run.first_s - 600), code=3)
    assert (window["total_j"], window["valid"], window["reasons"]) == (None, False, ["no_data"])


def test_a_half_covered_window_says_so_and_exits_4(run: Run) -> None:
    """A window whose first half is before the first sample has coverage 0.5. The exit code is 4."""
    (window,) = run.integrate("a", (run.first_s - 20, run.first_s + 20), code=4)
    for gpu in window["gpus"]:
        assert gpu["coverage"] == pytest.approx(0.5, abs=0.01)
    assert window["reasons"] == ["coverage"]


def test_a_killed_exporter_costs_zeus_nothing(run: Run) -> None:
    """The hardware counter goes on while the exporter is dead: coverage is 1 and the bounds hold."""
    (window,) = run.integrate("b", (run.killed_s - 17.3, run.killed_s + 22.7))
    for gpu in window["gpus"]:
        exact = run.exact("b", gpu, window)
        assert gpu["joules_low"] <= exact <= gpu["joules_high"]
        assert (gpu["coverage"], gpu["resets"], gpu["backend"]) == (1.0, 0, "zeus")


def test_a_killed_exporter_is_a_gap_to_nvml(run: Run) -> None:
    """While the exporter is dead, nvml has a gap: its seconds are reported and it has no joules."""
    (window,) = run.integrate("b", (run.killed_s - 17.3, run.killed_s + 22.7), backend="nvml", code=4)
    for gpu in window["gpus"]:
        # The joules between the last scrape and the kill are lost as well.
        assert DOWN_SECONDS <= gpu["gap_s"] < 40
        assert gpu["covered_s"] + gpu["gap_s"] == pytest.approx(40)
        assert gpu["resets"] == 1
        assert gpu["joules_low"] <= run.exact("b", gpu, window) <= gpu["joules_high"]
        assert gpu["joules"] < run.exact("b", gpu, window)
    assert {warning["code"] for warning in window["warnings"]} == {"sample_gap", "counter_reset"}


def test_the_exporters_own_url_gives_the_same(nodes: Nodes) -> None:
    """Without Prometheus, the exporter's /history gives the joules of the window, to 1 %."""
    window_s = (nodes.end_s - 40.25, nodes.end_s - 8.5)
    (window,) = integrate(f"http://{nodes.addresses['a']}", [window_s])
    for gpu in window["gpus"]:
        exact = nodes.exact("a", gpu, window)
        assert gpu["joules_low"] <= exact <= gpu["joules_high"]
        assert gpu["joules"] == pytest.approx(exact, rel=0.01)
        assert gpu["joules_by_backend"]["nvml"] == pytest.approx(exact, rel=0.05)
        assert gpu["instances"] == [nodes.addresses["a"]]


@pytest.mark.parametrize("backend", ["zeus", "nvml"])
def test_live_and_after_the_fact_agree(run: Run, backend: str) -> None:
    """The bounds of a live measurement and of the same window from stored data contain the exact joules."""
    (live,) = (measured for measured in run.nodes.live if measured.backend == backend)
    window_s = (live.start_s, live.end_s)
    (scraped,) = run.integrate("a", window_s, backend=backend)
    (history,) = integrate(f"http://{run.nodes.addresses['a']}", [window_s], "--backend", backend)
    for window in (scraped, history):
        assert len(window["gpus"]) == len(live.joules) == GPUS
        for gpu in window["gpus"]:
            exact = run.exact("a", gpu, window)
            low, high = live.bounds[gpu["gpu"]]
            assert low <= live.joules[gpu["gpu"]] <= high
            assert low <= exact <= high
            assert gpu["joules_low"] <= exact <= gpu["joules_high"]


def test_codecarbon_gives_the_total_of_all_gpus(run: Run) -> None:
    """--backend codecarbon gives the total within 10 % and no joules per GPU. The exit code is 3."""
    (window,) = run.integrate("a", (run.last_s - 50, run.last_s - 15), backend="codecarbon", code=3)
    exact = sum(run.exact("a", gpu, window) for gpu in window["gpus"])
    assert window["total_j"] == pytest.approx(exact, rel=0.1)
    assert (set(window["per_gpu_j"].values()), window["reasons"]) == ({None}, ["no_gpu_split"])


def test_emissions_follow_codecarbons_rate(run: Run) -> None:
    """--emissions gives each GPU grams in proportion to its joules, at a plausible grid rate."""
    (window,) = run.integrate("a", (run.last_s - 50, run.last_s - 15), options=["--emissions"])
    rates = [gpu["emissions_g"] / gpu["joules"] for gpu in window["gpus"]]
    assert max(rates) == pytest.approx(min(rates))
    grams_per_kwh = rates[0] * 3.6e6
    assert 50 < grams_per_kwh < 1000
