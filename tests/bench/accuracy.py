"""A run whose true joules are known, scraped by a real Prometheus, and what windows of it come to.

Nodes differ in their GPUs' sensor and are scraped by one Prometheus in one stretch of time: /metrics and
/history of llem-exporter, and beside them nvitop-exporter's gauge, at the same interval and at 1 s.
"""

import json
import math
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from llem_core import metrics
from llem_core.backend import Backend
from llem_core.energy import GAP_INTERVALS
from llem_core.metrics import Kind
from llem_integrator.energy.power.running_sums import trapezoid
from llem_integrator.energy.window_energy import Integral
from llem_integrator.integration import integrate
from llem_integrator.results.request import Request
from llem_integrator.series.samples import Series
from llem_integrator.stores import Matcher, open_source, whole
from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.windows.window import Window
from tests.bench.bench_exporter import Peer
from tests.fake_nvml import FakeDriver
from tests.llem_integrator.clusters import load
from tests.servers import Exporter, Prometheus, scrape_config

PEER_GAUGE: Final = "gpu_power_usage_W"
START_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Sensor:
    """How a node's GPUs show their power and their counter: the attributes of FakeGpu."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Way:
    """A way from scraped series to joules: a backend by the series of one job, or a peer's gauge (None)."""

    name: str
    job: str
    backend: Backend | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Joules with their bounds, and the covered share of the window."""

    joules: float | None
    low: float | None
    high: float | None
    coverage: float

    @classmethod
    def of(cls, found: Integral) -> "Measured":
        return cls(found.joules, found.low, found.high, found.coverage)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One GPU in one window: the true joules, and what was measured."""

    gpu: int
    exact_j: float
    measured: Measured

    @property
    def error(self) -> float:
        """Relative, from 0; infinite where nothing was measured."""
        return math.inf if self.measured.joules is None else abs(self.measured.joules / self.exact_j - 1)

    @property
    def inside(self) -> bool:
        """Whether the bounds hold the true joules."""
        low, high = self.measured.low, self.measured.high
        return low is not None and low <= self.exact_j <= (math.inf if high is None else high)


@dataclass(frozen=True)
class Node:
    """A node after its run: its true joules, the addresses it was scraped at, and its series by job."""

    driver: FakeDriver
    instances: Mapping[str, str]
    sources: Mapping[str, LoadedSource]

    def outcomes(self, way: Way, windows: Sequence[Window]) -> Iterator[Outcome]:
        """Each GPU in each window."""
        for window, gpu, measured in self._measured(way, windows):
            exact_j = self.driver.exact_joules(gpu, window.start_us / 1e6, window.end_us / 1e6)
            yield Outcome(gpu, exact_j, measured)

    def _measured(self, way: Way, windows: Sequence[Window]) -> Iterator[tuple[Window, int, Measured]]:
        source = self.sources[way.job]
        if way.backend is None:
            for one in whole(source.pieces(PEER_GAUGE, (), 0, 2**53)):
                step_ms = float(np.median(np.diff(one.unix_ms)))
                for window in windows:
                    found = trapezoid(one.unix_ms, one.values, window, GAP_INTERVALS * step_ms, None)
                    yield window, int(one.labels["index"]), Measured.of(found)
            return
        results = integrate(source, windows, Request(backend=way.backend))
        for window, result in zip(windows, results, strict=True):
            for gpu in result.gpus:
                joules = gpu.joules, gpu.joules_low, gpu.joules_high
                yield window, int(gpu.gpu), Measured(*joules, gpu.coverage)


@dataclass(frozen=True)
class Run:
    """Nodes by their sensor's name, their Prometheus, and the stretch for which it holds every series."""

    nodes: Mapping[str, Node]
    prometheus: Prometheus
    first_ms: int
    last_ms: int

    def windows(self, seconds: float, count: int, rng: random.Random) -> list[Window]:
        """Random windows for which every job has samples on both sides; none where the run is too short."""
        length_us = round(seconds * 1e6)
        latest_us = self.last_ms * 1000 - length_us
        if latest_us <= self.first_ms * 1000:
            return []
        starts = (rng.randint(self.first_ms * 1000, latest_us) for _ in range(count))
        return [Window(start, start + length_us) for start in starts]

    def by_the_program(self, sensor: str, way: Way, windows: Sequence[Window]) -> list[dict[int, Any]]:
        """The same by llem-integrate's own process: the JSON of each GPU, a dict for each window."""
        match = f'job="{way.job}",instance="{self.nodes[sensor].instances[way.job]}"'
        command = [sys.executable, "-m", "llem_integrator", "--source", self.prometheus.url]
        command += ["--format", "json", "--backend", str(way.backend), "--match", match]
        for window in windows:
            command += ["--window", f"{window.start_us / 1e6:.6f},{window.end_us / 1e6:.6f}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)["windows"]
        return [{int(gpu["gpu"]): gpu for gpu in window["gpus"]} for window in found]


def ways(scrape_s: float) -> list[Way]:
    """Ours by /history and by /metrics alone, and the peer's gauge at the same interval and at 1 s."""
    backends = (Backend.ZEUS, Backend.NVML)
    ours = [Way(f"{backend} /{job}", job, backend) for job in ("history", "metrics") for backend in backends]
    return [*ours, Way(f"peer {scrape_s:g} s", "peer", None), Way("peer 1 s", "peer_1s", None)]


@contextmanager
def finished_run(
    directory: Path, sensors: Sequence[Sensor], *, seconds: float, scrape_s: float, rng: random.Random
) -> Iterator[Run]:
    """Nodes of eight GPUs under the driver's default load at phases by `rng`, scraped for `seconds`.

    The exporters have ended on entry, so that nothing is added any more; Prometheus still answers.
    """
    with ExitStack() as stack:
        started_ms = round(time.time() * 1000)
        drivers = {sensor.name: stack.enter_context(_driver(directory, sensor, rng)) for sensor in sensors}
        with ExitStack() as exporters:
            jobs, instances = _start(drivers, scrape_s, exporters)
            (directory / "prometheus").mkdir()
            prometheus = stack.enter_context(Prometheus(directory / "prometheus", jobs))
            _wait_until_scraped(prometheus, drivers)
            time.sleep(seconds)
        nodes = {
            name: Node(driver, instances[name], _sources(prometheus, instances[name], started_ms))
            for name, driver in drivers.items()
        }
        stretches = [
            (int(one.unix_ms[0]), int(one.unix_ms[-1]))
            for node in nodes.values()
            for job, source in node.sources.items()
            for metric in _edge_metrics(job)
            for one in whole(source.pieces(metric, (), 0, 2**53))
        ]
        first_ms, last_ms = max(first for first, _ in stretches), min(last for _, last in stretches)
        yield Run(nodes, prometheus, first_ms, last_ms)


def _driver(directory: Path, sensor: Sensor, rng: random.Random) -> FakeDriver:
    folder = directory / sensor.name.replace(" ", "_")
    folder.mkdir()
    driver = FakeDriver(folder, **sensor.settings)
    for gpu in driver.gpus:
        gpu.uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{sensor.name} {gpu.index}')}"
        gpu.set_load(phase=rng.random(), sine_phase=rng.uniform(0, 2 * math.pi))
    return driver


def _start(
    drivers: Mapping[str, FakeDriver], scrape_s: float, exporters: ExitStack
) -> tuple[list[dict[str, Any]], Mapping[str, Mapping[str, str]]]:
    """Scrape jobs of started exporters, and each node's address in each job."""
    ours = {name: exporters.enter_context(_exporter(driver)) for name, driver in drivers.items()}
    peers = {name: exporters.enter_context(Peer(driver.env, 1.0)) for name, driver in drivers.items()}
    interval = f"{scrape_s:g}s"
    scraper = {"scraper": ["accuracy"]}
    jobs = [
        scrape_config("metrics", *ours.values(), interval=interval),
        scrape_config("history", *ours.values(), interval=interval, path="/history", params=scraper),
        scrape_config("peer", *peers.values(), interval=interval),
        scrape_config("peer_1s", *peers.values(), interval="1s"),
    ]
    addresses: dict[str, Mapping[str, str]] = {}
    for name in drivers:
        our, peer = ours[name].address, peers[name].address
        addresses[name] = {"metrics": our, "history": our, "peer": peer, "peer_1s": peer}
    return jobs, addresses


def _exporter(driver: FakeDriver) -> Exporter:
    return Exporter(env=driver.env, args=["--collector.zeus", "--no-collector.codecarbon"])


def _wait_until_scraped(prometheus: Prometheus, drivers: Mapping[str, FakeDriver]) -> None:
    gpus = sum(len(driver.gpus) for driver in drivers.values())
    for job in ("metrics", "history", "peer", "peer_1s"):
        for metric in _edge_metrics(job):
            wanted = f'count(last_over_time({metric}{{job="{job}"}}[1m])) == {gpus}'
            prometheus.wait_for(wanted, START_SECONDS)


def _edge_metrics(job: str) -> tuple[str, ...]:
    """The series of a job that must reach around a window."""
    match job:
        case "metrics":
            return metrics.GPU_ZEUS_ENERGY.name, metrics.GPU_NVML_ENERGY.name
        case "history":
            return metrics.GPU_ZEUS_TRACE.name, metrics.GPU_POWER_TRACE.name
        case _:
            return (PEER_GAUGE,)


def _sources(prometheus: Prometheus, instances: Mapping[str, str], start_ms: int) -> dict[str, LoadedSource]:
    """All that Prometheus holds of a node, by job, in memory."""
    server = open_source(prometheus.url)
    now_ms = round(time.time() * 1000)
    sources = {}
    for job, instance in instances.items():
        pages = {"metrics": metrics.METRICS_PAGE, "history": metrics.HISTORY_PAGE}.get(job, ())
        names = [spec.name for spec in pages if spec.kind is not Kind.HISTOGRAM] or [PEER_GAUGE]
        selector = (Matcher("job", "=", job), Matcher("instance", "=", instance))
        found: dict[str, list[Series]] = {
            name: list(whole(server.pieces(name, selector, start_ms, now_ms))) for name in names
        }
        sources[job] = load(prometheus.url, found)
    return sources
