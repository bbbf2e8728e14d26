"""What a large cluster needs, from figures of this machine; and --dask beside one process.

python tests/bench/bench_scale.py [--gpus 64] [--hours 12] [--fleet 10000]

- "dask": one window over all of a made cluster's traces (tests/bench/clusters.py), by one process, and by one
  and two Dask workers; Prometheus is on the same cores. The joules must be the same to 1e-12.
- "merge": what the process that puts sums together spends on one GPU in one part of the time, with 8 edges in
  it, and the bytes that a worker sends for it. That work is not shared out.
- "series": what a scrape brings of one GPU, counted on an exporter with zeus and nvml.
- "stored": bytes a sample in a real Prometheus's blocks: of scraped series measured here, of traces what
  bench_storage.py prints for the LLM load, given by --watts-bytes and --joules-bytes.
- "scraped": an hour's window of many GPUs that have scraped series only, by one process.
- then what follows for a fleet, each with its sum.
"""

import argparse
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from llem_integrator import Request, open_source
from llem_integrator.dask.cluster import DaskCluster
from llem_integrator.dask.tasks import LONGEST_MS, Store
from llem_integrator.energy.power.traces import MaxGaps, PowerTraces
from llem_integrator.integration import integrate
from llem_integrator.results.fields import WindowResult
from llem_integrator.series.samples import make_series
from tests.bench.bench_integrator import best, serving, whole, window
from tests.bench.bench_storage import stored
from tests.bench.clusters import T0_MS, Cluster
from tests.fake_nvml import FakeDriver
from tests.llem_integrator.dask.processes import cluster as dask_cluster
from tests.servers import Exporter, Prometheus

RUNS: Final = 5
YEAR_DAYS: Final = 365.25
SCRAPE_S: Final = 15
TICKS: Final = 10
"""Samples a second of a trace; a GPU has two, watts and joules."""

PART_S: Final = LONGEST_MS // 1000
EDGES: Final = 8


def say(what: str, figure: str, how: str = "") -> None:
    print(f"{what:<52} {figure:>20}   {how}".rstrip(), flush=True)


def rates(cluster: Cluster, server: Prometheus) -> list[float]:
    """Samples per second of one process, and of Dask with one and two workers."""
    source, asked = open_source(server.url), whole(cluster.hours)
    samples = cluster.gpus * asked.duration_s * TICKS

    def answered(by: DaskCluster | None) -> list[WindowResult]:
        return list(integrate(source, [asked], Request(), reader=by))

    (local,) = answered(None)
    found = [samples / best(partial(answered, None), RUNS)]
    for workers in (1, 2):
        with dask_cluster(workers) as running, DaskCluster(running.address, Store(server.url)) as dask:
            (result,) = answered(dask)  # loads its decoder
            found.append(samples / best(partial(answered, dask), RUNS))
        apart = max(
            abs(one.joules_by_backend["nvml"] / other.joules_by_backend["nvml"] - 1)
            for one, other in zip(result.gpus, local.gpus, strict=True)
        )
        say(f"dask, {workers} worker(s): joules apart from one process", f"{apart:.1e}", "<= 1e-12")
        if apart > 1e-12:
            raise SystemExit("the joules differ")
    return found


def merging(gpus: int = 1000) -> tuple[float, float]:
    """Seconds to put one GPU's part to the others, and its bytes."""
    unix_ms = T0_MS + np.arange(0, PART_S * 1000, 1000)
    watts = np.random.default_rng(1).integers(800, 5600, len(unix_ms)) / 8
    edges_us = (T0_MS + np.linspace(0, 2 * PART_S * 1000, 2 * EDGES).astype(np.int64)) * 1000 + 1
    parts, empty = [], PowerTraces(edges_us, MaxGaps(3000.0, {}), {}, {})
    for number in range(2):
        first = T0_MS + number * PART_S * 1000
        part = empty.fresh((first, first + PART_S * 1000 - 1))
        series = [
            make_series({"uuid": f"GPU-{gpu}", "gpu": "0"}, unix_ms + number * PART_S * 1000, watts)
            for gpu in range(gpus)
        ]
        part.add(series)
        parts.append(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))

    def merge() -> float:
        started_s = time.process_time()  # one thread's work, whatever else the machine does
        total = PowerTraces(edges_us, MaxGaps(3000.0, {}), {}, {})
        for part in parts:
            total.extend(pickle.loads(part))  # noqa: S301 (made above)
        return time.process_time() - started_s

    return min(merge() for _ in range(RUNS)) / gpus / len(parts), sum(map(len, parts)) / gpus / len(parts)


def scraped_seconds(gpus: int) -> float:
    """Seconds for an hour's window of so many GPUs without traces."""
    with serving(Cluster(gpus, 2, traced=False)) as server:
        source, asked = open_source(server.url), window(1800, 5400)
        (found,) = integrate(source, [asked], Request())
        if len(found.gpus) != gpus or not found.valid:
            raise SystemExit(f"{len(found.gpus)} of {gpus} GPUs answered: {found.reasons}")
        return best(lambda: list(integrate(source, [asked], Request())), RUNS)


def series_per_gpu() -> float:
    """Series of a /metrics page that are one GPU's: what two GPUs more bring, halved."""
    counts = []
    for gpus in (6, 8):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            driver = stack.enter_context(FakeDriver(Path(folder), gpus=gpus))
            exporter = stack.enter_context(Exporter(env=driver.env, args=["--no-collector.codecarbon"]))
            time.sleep(5)
            counts.append(sum(not line.startswith("#") for line in exporter.metrics().splitlines()))
    return (counts[1] - counts[0]) / 2


def size(fleet: int, series: float, bytes_each: tuple[float, float, float], rate: float) -> None:
    """Prints what a fleet brings and costs."""
    watts, joules, scraped = bytes_each
    day_s, year_s = 86_400, 86_400 * YEAR_DAYS
    for name, per_s, size_bytes, how in (
        (
            "10 Hz",
            fleet * 2 * TICKS,
            fleet * TICKS * (watts + joules),
            f"{fleet} x {TICKS} x (watts + joules); x ({watts:g} + {joules:g}) B",
        ),
        (
            f"{SCRAPE_S} s",
            fleet * series / SCRAPE_S,
            fleet * series / SCRAPE_S * scraped,
            f"{fleet} x {series:g} series / {SCRAPE_S} s; x {scraped:.2f} B",
        ),
    ):
        say(f"{name}: samples/s, kB/s", f"{per_s:,.0f}, {size_bytes / 1e3:,.0f}", how)
        say(
            f"{name}: GB a day, TB a year",
            f"{size_bytes * day_s / 1e9:.1f}, {size_bytes * year_s / 1e12:.2f}",
        )
    day = fleet * TICKS * day_s
    say(
        "10 Hz: a day of all GPUs, in core-minutes",
        f"{day / rate / 60:.1f}",
        f"{day:.3g} samples / {rate:.3g}",
    )
    say("10 Hz: a year of all GPUs, in core-hours", f"{day * YEAR_DAYS / rate / 3600:.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--hours", type=int, default=12)
    parser.add_argument("--fleet", type=int, default=10_000)
    parser.add_argument("--scraped-gpus", type=int, default=1000)
    parser.add_argument("--watts-bytes", type=float, default=2.4)
    parser.add_argument("--joules-bytes", type=float, default=2.5)
    chosen = parser.parse_args(arguments)
    traces = Cluster(chosen.gpus, chosen.hours)
    with serving(traces) as server:
        one, *dask = rates(traces, server)
    cores = os.cpu_count() or 1
    say(f"one process beside its store, {cores} cores", f"{one / 1e6:.1f} M samples/s")
    for workers, rate in enumerate(dask, 1):
        say(f"dask, {workers} worker(s), on the same cores", f"{rate / 1e6:.1f} M samples/s")
    seconds, sent = merging()
    say(f"merge of a GPU's {PART_S / 3600:g} h, {EDGES} edges", f"{seconds * 1e6:.0f} us, {sent:.0f} B")
    scraped = stored(Cluster(8, 24 * 31, traced=False).blocks())
    say("scraped series in blocks", f"{scraped.bytes_per_sample:.2f} B/sample")
    each = chosen.watts_bytes, chosen.joules_bytes, scraped.bytes_per_sample
    series = series_per_gpu()
    say("series of one GPU on /metrics", f"{series:g}")
    size(chosen.fleet, series, each, one / cores)
    parts = chosen.fleet * YEAR_DAYS * 86_400 / PART_S
    say(
        "  of which merging, in one process",
        f"{parts * seconds / 60:.0f} min",
        f"{parts:.3g} parts x {seconds * 1e6:.0f} us",
    )
    scraped_s = scraped_seconds(chosen.scraped_gpus)
    say(f"scraped, 1 h of {chosen.scraped_gpus} GPUs", f"{scraped_s:.1f} s")
    fleet_s = scraped_s / chosen.scraped_gpus * chosen.fleet
    say(
        f"{SCRAPE_S} s: a window of all GPUs",
        f"{fleet_s:.0f} s",
        f"{scraped_s:.2f} s / {chosen.scraped_gpus} x fleet",
    )
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
