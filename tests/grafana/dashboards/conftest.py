"""Two nodes on the fake driver, of 1 and of 64 GPUs, and a Prometheus of each version that scraped them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.grafana.dashboards.interpolation import View
from tests.grafana.dashboards.schema_check import install
from tests.servers import (
    Exporter,
    Prometheus,
    PrometheusRelease,
    free_port,
    prometheus_releases,
    scrape_config,
)

SCRAPE_SECONDS = 2
RANGE_SECONDS = 45
MANY = 64
MIG_SLICES = 3
INTENSITY, PRICE, PUE = "321", "0.25", "1.3"
GRAMS = "llem_codecarbon_emissions_grams_total"


@dataclass(frozen=True)
class Nodes:
    """The addresses of both nodes, the Prometheus of each version, and a range that all have scraped."""

    one: str
    many: str
    scraped_by: dict[PrometheusRelease, Prometheus]
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Scraped:
    """The nodes as one Prometheus has them."""

    nodes: Nodes
    prometheus: Prometheus

    def view(self, *instances: str, gpus: tuple[str, ...] = (), lines: str = "16") -> View:
        """A dashboard set to these instances and GPUs, all where none is named."""
        chosen = {name: values for name, values in (("instance", instances), ("gpu", gpus)) if values}
        typed = {"top": lines, "intensity": INTENSITY, "price": PRICE, "pue": PUE}
        return View(self.nodes.start_s, self.nodes.end_s, SCRAPE_SECONDS, chosen, typed)


def node(folder: Path, gpus: int, servers: ExitStack, *options: str) -> Exporter:
    """An exporter of a node whose GPU 0 runs a job and has MIG slices."""
    (folder / "jobs").mkdir(parents=True)
    driver = servers.enter_context(FakeDriver(folder, gpus=gpus))
    driver.gpus[0].mig_slices = MIG_SLICES
    (folder / "jobs" / driver.gpus[0].uuid).write_text("job_id=4711\nuser=ada\n")
    args = ["--jobs.dir", str(folder / "jobs"), *options]
    return servers.enter_context(Exporter(env=driver.env, args=args))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Both nodes and their servers. Module scope stops the 64 GPUs as soon as possible: they use CPU."""
    base = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as servers:
        one = node(base / "one", 1, servers, "--codecarbon.country-iso-code", "DEU")
        many = node(base / "many", MANY, servers, "--no-collector.codecarbon")
        scraped_by = {}
        for release in prometheus_releases():
            (directory := base / release.version).mkdir()
            history = {"path": "/history", "params": {"scraper": [release.version]}}
            port = free_port()
            jobs = [
                scrape_config("llem", one, many, interval=f"{SCRAPE_SECONDS}s"),
                scrape_config("llem-history", one, many, interval=f"{SCRAPE_SECONDS}s", **history),  # type: ignore[arg-type]
                # What others scrape with the same Prometheus: itself, and something that is down.
                scrape_config("others", f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"),
            ]
            scraped_by[release] = servers.enter_context(
                Prometheus(directory, jobs, release=release, port=port)
            )
        for prometheus in scraped_by.values():
            # CodeCarbon has counted at least twice, and everything else has been scraped for the whole range.
            prometheus.wait_for(f"changes({GRAMS}[5m]) >= 2", timeout_s=120)
            prometheus.wait_for(
                f'count_over_time(up{{instance="{many.address}",job="llem"}}[5m]) > 30', timeout_s=120
            )
        # By then every sample of /history has been handed over, also to a Prometheus that is slow.
        end_s = time.time() - 3 * SCRAPE_SECONDS
        yield Nodes(one.address, many.address, scraped_by, end_s - RANGE_SECONDS, end_s)


@pytest.fixture(scope="module")
def scraped(nodes: Nodes, prometheus_release: PrometheusRelease) -> Scraped:
    return Scraped(nodes, nodes.scraped_by[prometheus_release])


@pytest.fixture(scope="session")
def npm_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Grafana's packages and TypeScript, as package-lock.json has them."""
    folder = tmp_path_factory.mktemp("npm")
    install(folder)
    return folder
