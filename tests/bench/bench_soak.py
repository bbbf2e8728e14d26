"""Does the exporter keep what it promises for minutes or hours of faults and attacks?

python tests/bench/bench_soak.py [--seconds 600] [--seed N] [--open-files 256] [--windows 150]

An exporter with Zeus, TLS and a password runs on the fake driver with 8 GPUs. Every few seconds something
is done to it, at random: GPUs are lost, hang, are slow, deny their power, read absurd values; counters are
reset, the driver is loaded anew, the web config becomes wrong, SIGHUP comes. At the same time a hostile
client opens 500 connections that never shake hands, sends half requests, garbage and wrong passwords, and
reads the whole history a kilobyte a second, over and over. It comes from the address of those who want
something: one that scrapes /metrics, one that scrapes /history by its ID, both every second on kept
connections, and a Prometheus that does both. Afterwards llem-integrate asks that Prometheus for random
windows.

One line a figure; ends with status 1 where one is missed. Faults and windows come from the printed seed.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench import soak_figures as figures
from tests.bench.bare_timer import BareTimer
from tests.bench.soak_faults import Faults
from tests.bench.soak_figures import Figure, Limits, Rest
from tests.bench.soak_scrapers import HistoryScraper, Hostile, MetricsScraper
from tests.bench.soak_windows import of_windows
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import MetricsPage
from tests.llem_exporter.web.web_rig import WebExporter, WebFolder, authorization, client_context, hashed
from tests.servers import Prometheus, scrape_config, wait_until

GPUS = 8
USER, PASSWORD = "prometheus", "a good one"
PASSWORD_COST = 10
SETTLE_SECONDS = 6.0
TARGETS = Limits()


class SoakedExporter(WebExporter):
    """The exporter, with so many descriptors as it is allowed."""

    open_files: int | None = None

    def _command(self) -> Sequence[str]:
        limit = ["prlimit", f"--nofile={self.open_files}", "--"] if self.open_files else []
        return [*limit, *super()._command()]


def started(
    directory: Path, driver: FakeDriver, servers: ExitStack, open_files: int | None
) -> SoakedExporter:
    """The exporter, as soon as it reads every GPU's counter."""
    folder = WebFolder(directory)
    users = {USER: hashed(PASSWORD, PASSWORD_COST)}
    config = folder.write(tls_server_config=folder.tls(), basic_auth_users=users)
    (directory / "authority.pem").write_bytes(folder.authority.cert_pem.bytes())
    context = client_context(folder.authority)
    exporter = SoakedExporter(config, "--no-collector.codecarbon", context=context, env=driver.env)
    exporter.open_files = open_files
    servers.enter_context(exporter)

    def counters() -> bool:
        page = exporter.ask(headers=authorization(USER, PASSWORD)).data.decode()
        return len(MetricsPage(page).labels("llem_gpu_zeus_energy_joules_total")) == driver.gpu_count

    wait_until(counters, "every counter")
    return exporter


def prometheus_on(directory: Path, exporter: SoakedExporter, servers: ExitStack) -> Prometheus:
    """A Prometheus that scrapes both pages."""
    access: dict[str, Any] = {
        "scheme": "https",
        "tls_config": {"ca_file": str(directory / "authority.pem"), "server_name": "localhost"},
        "basic_auth": {"username": USER, "password": PASSWORD},
    }
    jobs = [
        scrape_config("llem", exporter, interval="2s", **access),
        scrape_config(
            "llem-history", exporter, interval="2s", path="/history", params={"scraper": ["prom"]}, **access
        ),
    ]
    (home := directory / "prometheus").mkdir()
    return servers.enter_context(Prometheus(home, jobs))


def run(
    directory: Path,
    seconds: float,
    seed: int,
    *,
    open_files: int | None = None,
    windows: int = 150,
    limits: Limits = TARGETS,
    report: Callable[[str], object] = print,
) -> list[Figure]:
    """Everything at once, and then its figures."""
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    headers = authorization(USER, PASSWORD)
    with ExitStack() as servers:
        driver = servers.enter_context(FakeDriver(directory, gpus=GPUS))
        exporter = started(directory, driver, servers, open_files)
        resource.setrlimit(resource.RLIMIT_NOFILE, (own[1], own[1]))  # of the attacker, not of the exporter
        servers.callback(resource.setrlimit, resource.RLIMIT_NOFILE, own)
        prometheus = prometheus_on(directory, exporter, servers)
        rests: list[Rest] = []
        scraper = MetricsScraper(exporter, headers, limits.scrape_s, GPUS)
        history = HistoryScraper(exporter, headers, limits.scrape_s)
        hostile = Hostile(
            exporter, headers, seed, lambda: rests.append(figures.at_rest(exporter.pid, time.time()))
        )
        faults = Faults(driver, directory / "web.yml", exporter.pid, seed, report)
        timer = servers.enter_context(BareTimer())
        start_s = time.time()
        for thread in (scraper, history, hostile):
            thread.start()
        faults.run(seconds)
        end_s = time.time()
        hostile.stop()
        time.sleep(SETTLE_SECONDS)
        for thread in (scraper, history):
            thread.stop()
        report(f"{len(faults.episodes)} faults, {hostile.attacks} attacks, load {os.getloadavg()[1]:.1f}")
        found = [
            figures.of_scrapes(scraper, "scrapes of /metrics"),
            figures.of_scrapes(history, "scrapes of /history"),
            figures.of_prometheus(prometheus, time.time() - start_s),
            figures.of_repetition(history),
            figures.of_seconds(scraper, limits),
            figures.of_joules(scraper, history),
            figures.of_stale_gauges(scraper, faults.episodes),
            figures.of_recovery(scraper),
            *figures.of_ticks(history, faults.episodes, limits, timer.late_s),
            *figures.of_growth(rests, (start_s, end_s), limits.growth),
            *of_windows(prometheus, driver, (start_s + 1, end_s), windows, seed),
        ]
        log = exporter.log()
        began_s = time.monotonic()
        status = exporter.terminate()
        took_s = time.monotonic() - began_s
    trouble = [word for word in ("Traceback", "Exception", "Task ") if word in log]
    found.append(
        Figure("the log", f"{len(log.splitlines())} lines, {trouble or 'nothing'} of ours", not trouble)
    )
    found.append(Figure("its end", f"status {status} in {took_s:.1f} s", status == 0 and took_s < 2))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--open-files", type=int, help="the exporter's ulimit -n  [as it is]")
    parser.add_argument("--windows", type=int, default=150)
    parser.add_argument("--quiet", action="store_true", help="figures only")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s, open files {options.open_files or 'as they are'}")
    with tempfile.TemporaryDirectory() as directory:
        found = run(
            Path(directory),
            options.seconds,
            options.seed,
            open_files=options.open_files,
            windows=options.windows,
            report=(lambda _: None) if options.quiet else print,
        )
    print(*found, sep="\n")
    return 0 if all(figure.holds for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
