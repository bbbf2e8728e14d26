"""What /history costs to store and to make: bytes per sample in Prometheus's own blocks, lines per second.

python tests/bench/bench_storage.py [--seconds 300]

Exporters on three loads are scraped by real Prometheus servers, each keeping one series kind of one load. A
snapshot writes what they hold as blocks: the bytes of its chunks over the samples in them, at 10 Hz.
- "square wave" is the fake driver's load, 8 GPUs, its energy counter read through Zeus;
- "LLM serving" is the trace that ships with the exporter, 2 GPUs;
- "noise" is a trace of 300 W with 15 W of Gaussian noise at every row, 4 GPUs: the hardest to compress.
Lines per second are of a client that pulls 15 min of 8 GPUs, as OpenMetrics, gzipped, as Prometheus does.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.bench_exporter import ACCEPT, PrefilledExporter
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import scrape
from tests.servers import (
    Exporter,
    Prometheus,
    PrometheusRelease,
    prometheus_releases,
    scrape_config,
    wait_until,
)

KINDS = {
    "watts": ("llem_gpu_power_trace_watts", 2.4),
    "joules": ("llem_gpu_zeus_energy_trace_joules_total", 2.9),
}
SCRAPE_SECONDS = 5
MIN_LINES_PER_SECOND = 1e6
COUNTER_START_JOULES = 3e9
"""A year at 95 W: a counter of many digits, as on a node that runs for long."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The chunks of one snapshot."""

    samples: int
    chunks: int
    chunk_bytes: int

    @property
    def bytes_per_sample(self) -> float:
        return self.chunk_bytes / self.samples


def snapshot(prometheus: Prometheus) -> Stored:
    """What a server holds, written as blocks."""
    answer = json.loads(prometheus.fetch_text("/api/v1/admin/tsdb/snapshot", method="POST"))
    return stored(prometheus.data / "snapshots" / answer["data"]["name"])


def stored(directory: Path) -> Stored:
    """The chunks of all blocks in a directory."""
    blocks = [path.parent for path in directory.glob("*/meta.json")]
    stats = [json.loads((block / "meta.json").read_text())["stats"] for block in blocks]
    return Stored(
        sum(block["numSamples"] for block in stats),
        sum(block["numChunks"] for block in stats),
        sum(segment.stat().st_size for block in blocks for segment in (block / "chunks").iterdir()),
    )


def noisy_trace(path: Path) -> Path:
    """Ten minutes of four GPUs at 20 Hz, every row with noise of its own."""
    rng = random.Random(20261124)
    rows = ["seconds,gpu,watts,joules"]
    joules = [COUNTER_START_JOULES] * 4
    for number in range(12_000):
        for gpu in range(4):
            watts = max(0.0, rng.gauss(300, 15))
            joules[gpu] += watts * 0.05
            rows.append(f"{number * 0.05:.2f},{gpu},{watts:.3f},{joules[gpu]:.3f}")
    path.write_text("\n".join(rows) + "\n")
    return path


def bench_storage(directory: Path, driver: FakeDriver, seconds: float) -> Iterator[tuple[str, str, Stored]]:
    """Load and release, kind, and what was stored of it."""
    with ExitStack() as servers:
        exporters = {
            "square wave": Exporter(env=driver.env, args=["--no-collector.codecarbon"]),
            "LLM serving": Exporter(args=["--replay", "demo"]),
            "noise": Exporter(args=["--replay", str(noisy_trace(directory / "noise.csv"))]),
        }
        running = list[tuple[str, str, Prometheus]]()
        for load, exporter in exporters.items():
            servers.enter_context(exporter)
            wait_until(lambda exporter=exporter: counter(exporter), f"{load}: a counter")  # type: ignore[misc]
        for release in prometheus_releases():
            for load, exporter in exporters.items():
                for kind in KINDS:
                    prometheus = keeping(directory / release.version / load / kind, exporter, kind, release)
                    running.append((f"{load}, {release.version}", kind, servers.enter_context(prometheus)))
        time.sleep(seconds)
        for name, kind, prometheus in running:
            yield name, kind, snapshot(prometheus)


def counter(exporter: Exporter) -> float | None:
    return scrape(exporter).get("llem_gpu_zeus_energy_joules_total", gpu=0)


def keeping(directory: Path, exporter: Exporter, kind: str, release: PrometheusRelease) -> Prometheus:
    """A Prometheus that keeps this kind of series only."""
    directory.mkdir(parents=True)
    keep = {"source_labels": ["__name__"], "regex": KINDS[kind][0], "action": "keep"}
    job = scrape_config(
        "llem-history",
        exporter,
        interval=f"{SCRAPE_SECONDS}s",
        path="/history",
        params={"scraper": [f"{release.version}-{kind}"]},
        metric_relabel_configs=[keep],
    )
    return Prometheus(directory, [job], release=release)


def lines_per_second(driver: FakeDriver, pulls: int = 7) -> float:
    """Of /history over 15 min, the median of some pulls."""
    with PrefilledExporter(env=driver.env, args=["--no-collector.codecarbon"]) as exporter:
        wait_until(lambda: counter(exporter), "a counter")
        rates = []
        for _ in range(pulls):
            start_s = time.monotonic()
            text = exporter.fetch("/history?since=0", headers=ACCEPT, timeout_s=60).data
            rates.append(text.count(b"\nllem_gpu_") / (time.monotonic() - start_s))
    return median(rates)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    all_met = True
    with tempfile.TemporaryDirectory() as directory, FakeDriver(Path(directory), gpus=8) as driver:
        rate = lines_per_second(driver)
        met = rate >= MIN_LINES_PER_SECOND
        print(f"/history: {rate:.3g} lines/s (>= {MIN_LINES_PER_SECOND:.0e}) {'met' if met else 'MISSED'}")
        print(f"{'load':<24}{'kind':<8}{'samples':>9}{'per chunk':>11}{'bytes/sample':>14}{'target':>8}")
        for name, kind, found in bench_storage(Path(directory), driver, options.seconds):
            target, per_sample = KINDS[kind][1], found.bytes_per_sample
            all_met &= per_sample <= target
            mark = "met" if per_sample <= target else "MISSED"
            per_chunk = found.samples / found.chunks
            row = f"{name:<24}{kind:<8}{found.samples:>9}{per_chunk:>11.0f}{per_sample:>14.2f}{target:>8}"
            print(row, mark)
    return 0 if met and all_met else 1


if __name__ == "__main__":
    sys.exit(main())
