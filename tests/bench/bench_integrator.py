"""How fast windows are integrated out of a running Prometheus, beside the bare wire and a peer.

python tests/bench/bench_integrator.py [--gpus 64] [--hours 12] [--rows integrator,windows]

The data is made once (see tests/bench/clusters.py) and kept in ~/.cache/llem/bench.
- "integrator": one window over all of it, in a warm process. The bare transfer is the same remote read, its
  answers thrown away. prometheus-api-client fetches raw samples as it can and numpy integrates them, on eight
  GPUs and two hours. The joules of both must be the same to 1e-9.
- "memory": the highest resident memory of the whole process, over a sixth of the hours and over all.
- "counters": bytes and time of a 30-day window beside a 1-hour window, of scraped series only.
- "jobs": 1,000 jobs on 100 nodes in a week of scrapes, beside one window over that week.
- "windows": 10,000 windows inside one day of 8 GPUs, beside one window of that day.
- "start": llem-integrate --help, and the whole process over one hour of 8 GPUs.

Times are medians of some runs; what is compared runs in turns. Processor seconds are said where others may
have the machine, too: they are ours and the server's. Ends with 1 where a target is missed. Other stores: see
bench_stores.py.
"""

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from prometheus_api_client import PrometheusConnect

sys.path.insert(0, str(Path(__file__).parents[2]))

from llem_core.backend import Backend
from llem_integrator.integration import integrate
from llem_integrator.remote_read.messages import HEADERS
from llem_integrator.remote_read.messages import request as read_request
from llem_integrator.report import About, writer
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from llem_integrator.stores import Matcher, Source, open_source
from llem_integrator.windows.hosts import Hosts, on_hosts
from llem_integrator.windows.window import Window
from tests.bench.clusters import CACHE, T0_MS, Cluster
from tests.servers import Prometheus

TRACE: Final = "llem_gpu_power_trace_watts"
ROWS: Final = ("integrator", "memory", "counters", "windows", "jobs", "start")
RUNS: Final = 5
MANY: Final = 10_000
EDGE_S: Final = 60
"""Windows begin and end this much inside the data."""

SLICE_MS: Final = 900_000
SAME: Final = "  the joules of both, apart by"
ALONE: Final = "  joules apart from each alone, of 20"


@dataclass
class Board:
    """What was measured, and what of it is short of its target."""

    missed: list[str] = field(default_factory=list)

    def say(self, what: str, figure: str, target: str = "", *, met: bool = True) -> None:
        print(f"{what:<58} {figure:>16}   {target}{'' if met else '   MISSED'}", flush=True)
        if not met:
            self.missed.append(what)


def window(first_s: float, last_s: float, name: str | None = None) -> Window:
    return Window(T0_MS * 1000 + round(first_s * 1e6), T0_MS * 1000 + round(last_s * 1e6), name)


def whole(hours: float) -> Window:
    return window(EDGE_S, hours * 3600 - EDGE_S)


@contextmanager
def serving(cluster: Cluster, cache: Path = CACHE) -> Iterator[Prometheus]:
    """A Prometheus on made blocks, which it neither changes nor joins to larger ones."""
    blocks = cluster.blocks(cache)
    with tempfile.TemporaryDirectory(dir=blocks.parent) as folder:
        shutil.copytree(blocks, Path(folder, "data"), copy_function=os.link)
        durations = [f"--storage.tsdb.{which}-block-duration=2h" for which in ("min", "max")]
        args = ["--storage.tsdb.retention.time=100y", *durations]
        with Prometheus(Path(folder), args=args) as server:
            yield server


def best(run: Callable[[], object], runs: int = RUNS) -> float:
    """The shortest time of some runs, in seconds."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


@dataclass(frozen=True)
class Took:
    """Seconds that something takes, and seconds of processors: this process's, and the server's."""

    wall_s: float
    cpu_s: float


def in_turns(server: Prometheus, *runs: Callable[[], object], times: int = RUNS) -> list[Took]:
    """The median of each; one after the other, so that whatever else goes on is shared."""
    found: list[list[Took]] = [[] for _ in runs]
    for _ in range(times):
        for run, took in zip(runs, found, strict=True):
            started = time.perf_counter(), time.process_time() + _cpu_s(server.pid)
            run()
            ended = time.perf_counter(), time.process_time() + _cpu_s(server.pid)
            took.append(Took(ended[0] - started[0], ended[1] - started[1]))
    return [
        Took(statistics.median(one.wall_s for one in took), statistics.median(one.cpu_s for one in took))
        for took in found
    ]


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_transfer(server: Prometheus, first_ms: int, last_ms: int) -> int:
    """Bytes of the same chunks by remote read, thrown away as they come."""
    size = 0
    buffer = bytearray(1 << 20)
    for start_ms in range(first_ms, last_ms, SLICE_MS):
        end_ms = min(start_ms + SLICE_MS - 1, last_ms)
        body = read_request((Matcher("__name__", "=", TRACE),), start_ms, end_ms)
        question = urllib.request.Request(f"{server.url}/api/v1/read", data=body, headers=dict(HEADERS))
        with urllib.request.urlopen(question) as answer:
            while count := answer.readinto(buffer):
                size += count
    return size


def by_api_client(server: Prometheus, asked: Window, gpus: int) -> tuple[dict[str, float], int]:
    """Joules by uuid as people get them today: raw samples by prometheus-api-client, numpy's trapezoid."""
    client = PrometheusConnect(url=server.url)
    # Its chunks are closed on both sides and the server's lookback is not ours: cut to the window here.
    start, end = (datetime.fromtimestamp(us / 1e6, UTC) for us in (asked.start_us, asked.end_us))
    parts: dict[str, list[Any]] = {}
    for node in range(-(-gpus // 8)):
        found = client.get_metric_range_data(
            TRACE, {"instance": f"n{node}:9955"}, start_time=start, end_time=end, chunk_size=(end - start) / 8
        )
        for one in found:
            parts.setdefault(one["metric"]["uuid"], []).extend(one["values"])
    joules, samples = {}, 0
    for uuid, values in parts.items():
        pairs = np.array(values, np.float64)
        pairs = pairs[np.unique(pairs[:, 0], return_index=True)[1]]
        samples += len(pairs)
        joules[uuid] = float(np.trapezoid(pairs[:, 1], pairs[:, 0] - T0_MS / 1000))
    return joules, samples


def nvml_joules(result: WindowResult) -> dict[str, float]:
    return {gpu.uuid: gpu.joules_by_backend["nvml"] for gpu in result.gpus}


def integrator(board: Board, cluster: Cluster, cache: Path = CACHE) -> None:
    """Samples per second of one window over all, beside the bare transfer and the peer."""
    asked = whole(cluster.hours)
    samples = cluster.gpus * round(asked.duration_s * 10)
    with serving(cluster, cache) as server:
        source = open_source(server.url)
        request = Request(Backend.NVML)
        found: list[WindowResult] = list(integrate(source, [asked], request))
        edges_ms = asked.start_us // 1000 - 30_000, asked.end_us // 1000 + 30_000
        ours, bare = in_turns(
            server,
            lambda: found.__setitem__(slice(None), integrate(source, [asked], request)),
            lambda: bare_transfer(server, *edges_ms),
        )
        few = window(EDGE_S, min(cluster.hours, 2) * 3600 - EDGE_S)
        few_gpus = min(8, cluster.gpus)
        started = time.perf_counter()
        theirs, theirs_samples = by_api_client(server, few, few_gpus)
        theirs_s = time.perf_counter() - started
        (same,) = integrate(source, [few], request)
    rate, their_rate = samples / ours.wall_s / 1e6, theirs_samples / theirs_s / 1e6
    figure = f"{rate:.1f} M/s"
    board.say(f"integrator, {samples / 1e6:.1f} M samples, warm", figure, ">= 40 M/s", met=rate >= 40)
    ratio = ours.wall_s / bare.wall_s
    board.say("  beside the bare transfer of the same chunks", f"{ratio:.2f} x", "<= 2.5 x", met=ratio <= 2.5)
    board.say("  (bare transfer)", f"{samples / bare.wall_s / 1e6:.1f} M/s")
    board.say("  (processor seconds: all, bare)", f"{ours.cpu_s:.2f}, {bare.cpu_s:.2f} s")
    times = rate / their_rate
    board.say("  beside prometheus-api-client + numpy", f"{times:.0f} x", ">= 100 x", met=times >= 100)
    board.say("  (prometheus-api-client + numpy)", f"{their_rate:.2f} M/s")
    mine = nvml_joules(same)
    apart = max(abs(mine[uuid] / joules - 1) for uuid, joules in theirs.items())
    board.say(SAME, f"{apart:.1e}", "<= 1e-9", met=apart <= 1e-9)


@dataclass(frozen=True)
class Process:
    """One run of llem-integrate: its seconds, its highest resident memory in MB, what it printed."""

    seconds: float
    megabytes: float
    output: str


def process(*arguments: str) -> Process:
    """Run llem-integrate as its users do."""
    # A child begins with the highest memory of whoever started it: a small process does.
    command = [sys.executable, "-S", "-c", _STARTER, sys.executable, "-m", "llem_integrator", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"llem-integrate ended with {done.returncode}: {done.stderr}")
    seconds, kilobytes = done.stderr.split()[-2:]
    return Process(float(seconds), int(kilobytes) / 1024, done.stdout)


_STARTER: Final = """
import os, sys, time
started = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(time.perf_counter() - started, used.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def options(server: Prometheus, asked: Window) -> list[str]:
    edges = f"{asked.start_us / 1e6:.6f},{asked.end_us / 1e6:.6f}"
    return ["--source", server.url, "--format", "json", "--window", edges]


def memory(board: Board, cluster: Cluster) -> None:
    """Resident memory of the whole process, whatever the window's length; and its speed on 16 GPUs."""
    with serving(cluster) as server:
        short = process(*options(server, whole(cluster.hours / 6)))
        long = process(*options(server, whole(cluster.hours)))
        nodes = '{instance=~"n[01]:9955"}'
        some = min(
            (process(*options(server, whole(cluster.hours)), "--match", nodes) for _ in range(3)),
            key=lambda one: one.seconds,
        )
        gpus = len(json.loads(some.output)["windows"][0]["gpus"])
        theirs, their_samples, their_s = _peer(server, min(8, cluster.gpus))
    board.say(
        f"memory, {cluster.hours / 6:g} h",
        f"{short.megabytes:.0f} MB",
        "<= 250 MB",
        met=short.megabytes <= 250,
    )
    board.say(
        f"memory, {cluster.hours:g} h", f"{long.megabytes:.0f} MB", "<= 250 MB", met=long.megabytes <= 250
    )
    rate = gpus * (cluster.hours * 36_000 - 1200) / some.seconds
    times = rate / (their_samples / their_s)
    what = f"whole process, {gpus} GPUs, beside the peer"
    board.say(what, f"{times:.0f} x", ">= 25 x", met=times >= 25 and len(theirs) > 0)
    board.say("  (whole process)", f"{some.seconds:.2f} s, {rate / 1e6:.1f} M/s")


def _peer(server: Prometheus, gpus: int) -> tuple[dict[str, float], int, float]:
    started = time.perf_counter()
    joules, samples = by_api_client(server, window(EDGE_S, 3600 - EDGE_S), gpus)
    return joules, samples, time.perf_counter() - started


def _answered(source: Source, asked: Window) -> list[WindowResult]:
    return list(integrate(source, [asked], Request()))


def counters(board: Board, cluster: Cluster) -> None:
    """Bytes and seconds of 30 days beside one hour, of scraped series."""
    with serving(cluster) as server:
        source = open_source(server.url)
        sizes = []
        both = window(3600, 7200), window(3600, 3600 + 30 * 86_400)
        for asked in both:
            (found,) = integrate(source, [asked], Request())
            assert found.valid
            assert found.backend == "zeus"
            before = _bytes_sent(server)
            list(integrate(source, [asked], Request()))
            sizes.append(_bytes_sent(server) - before)
        hour, month = in_turns(server, *(partial(_answered, source, asked) for asked in both))
        counted = sum(int(server.value(f"count({name})", T0_MS / 1000 + 7200)) for name in LOOKED_INTO)
    ratio = sizes[1] / sizes[0]
    board.say("counters, bytes of 30 days beside one hour", f"{ratio:.2f} x", "<= 1.2 x", met=ratio <= 1.2)
    more_s = (month.wall_s - hour.wall_s) / counted * 10
    what = f"  seconds more per 10 of {counted} series"
    board.say(what, f"{more_s:.3f} s", "<= 0.1 s", met=more_s <= 0.1)
    board.say("  (one hour, 30 days)", f"{hour.wall_s:.3f}, {month.wall_s:.3f} s")
    board.say("  (processor seconds: one hour, 30 days)", f"{hour.cpu_s:.3f}, {month.cpu_s:.3f} s")


LOOKED_INTO: Final = (
    "llem_gpu_zeus_energy_joules_total",
    "llem_gpu_nvml_energy_joules_total",
    "llem_gpu_integrated_seconds_total",
    "llem_gpu_power_limit_watts",
    "llem_gpu_power_peak_watts",
)
"""Series that the store sums up between the edges."""


def _bytes_sent(server: Prometheus) -> float:
    """What the server says that it has answered with so far, its own figures aside."""
    total = 0.0
    for line in server.fetch_text("/metrics").splitlines():
        if line.startswith("prometheus_http_response_size_bytes_sum") and 'handler="/metrics"' not in line:
            total += float(line.rsplit(" ", 1)[1])
    return total


def windows(board: Board, cluster: Cluster, many: int = MANY, cache: Path = CACHE) -> None:
    """Thousands of windows inside a day beside that day, by the trace: both read all of it."""
    request = Request(Backend.NVML)
    rng = random.Random(1)
    asked = []
    for number in range(many):
        start = rng.uniform(EDGE_S, cluster.hours * 3600 - 3700)
        asked.append(window(start, start + rng.choice([30, 300, 3600]), f"w{number}"))
    with serving(cluster, cache) as server:
        source = open_source(server.url)
        list(integrate(source, [whole(cluster.hours)], request))
        day, many_, written = in_turns(
            server,
            lambda: list(integrate(source, [whole(cluster.hours)], request)),
            lambda: _consumed(integrate(source, asked, request)),
            lambda: writer("csv")(integrate(source, asked, request), io.StringIO(), About("")),
        )
        picked = rng.sample(asked, 20)
        by_name = {one.name: one for one in integrate(source, asked, request)}
        apart = max(
            abs((by_name[one.name].total_j or 0) / (alone.total_j or 1) - 1)
            for one in picked
            for alone in integrate(source, [one], request)
        )
    ratio = many_.wall_s / day.wall_s
    board.say(
        f"many windows, {many} in a day of {cluster.gpus} GPUs", f"{ratio:.2f} x", "<= 2 x", met=ratio <= 2
    )
    board.say("  (the day, the windows)", f"{day.wall_s:.2f}, {many_.wall_s:.2f} s")
    board.say("  (processor seconds of these)", f"{day.cpu_s:.2f}, {many_.cpu_s:.2f} s")
    board.say(f"  (as {many * cluster.gpus} rows of CSV)", f"{written.wall_s:.2f} s")
    board.say(ALONE, f"{apart:.1e}", "<= 1e-12", met=apart <= 1e-12)


def jobs(board: Board, count: int = 1000) -> None:
    """Requests and time of a list of jobs on 100 nodes, beside one window over the same week."""
    cluster = Cluster(100, 168, traced=False, per_node=1, scrape_ms=60_000)
    rng = random.Random(2)
    listed = []
    for number in range(count):
        first, size = rng.randrange(97), rng.randrange(1, 4)
        hosts = Hosts("instance", tuple(f"n{node}" for node in range(first, first + size)))
        start_us = (T0_MS + rng.randrange(3600, 150 * 3600) * 1000) * 1000
        end_us = start_us + rng.randrange(600, 36_000) * 1_000_000
        selectors = on_hosts(hosts, ((),))
        listed.append(Window(start_us, end_us, f"j{number}", selectors, gpu_count=size, hosts=hosts))
    week = window(2 * 3600, 165 * 3600)
    with serving(cluster) as server:
        source = open_source(server.url)
        requests = []
        for asked in ([week], listed):
            before = _requests(server)
            results = list(integrate(source, asked, Request()))
            requests.append(_requests(server) - before)
            if not all(result.valid for result in results):
                raise SystemExit("jobs: a result is not valid")
        one, many = in_turns(
            server,
            lambda: list(integrate(source, [week], Request())),
            lambda: list(integrate(source, listed, Request())),
            times=3,
        )
    times, ratio = requests[1] / requests[0], many.wall_s / one.wall_s
    what = f"{count} jobs on 100 nodes, requests beside a week"
    board.say(what, f"{times:.2f} x", "<= 2 x", met=times <= 2)
    board.say("  time beside a week", f"{ratio:.2f} x", "<= 1.5 x", met=ratio <= 1.5)
    board.say("  (requests of the week, of the jobs)", f"{requests[0]:.0f}, {requests[1]:.0f}")
    board.say("  (seconds of the week, of the jobs)", f"{one.wall_s:.2f}, {many.wall_s:.2f} s")
    board.say("  (processor seconds of these)", f"{one.cpu_s:.2f}, {many.cpu_s:.2f} s")


def _requests(server: Prometheus) -> float:
    """The requests of the API that a server has answered so far."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    name = 'prometheus_http_requests_total{code="200",handler="/api/v1/'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def _consumed(results: Iterator[WindowResult]) -> float:
    """The joules of each GPU in each window, as they come."""
    return sum(joules or 0 for one in results for joules in one.per_gpu_j.values())


def start(board: Board, cluster: Cluster) -> None:
    """The whole process: its help, and an hour of eight GPUs."""
    help_s = min(process("--help").seconds for _ in range(RUNS))
    board.say("start, --help", f"{help_s:.2f} s", "<= 0.25 s", met=help_s <= 0.25)
    with serving(cluster) as server:
        hour = [*options(server, window(3600, 7200)), "--match", 'instance="n0:9955"']
        hour_s = min(process(*hour).seconds for _ in range(RUNS))
    board.say("  1 h of 8 GPUs", f"{hour_s:.2f} s", "<= 0.6 s", met=hour_s <= 0.6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows asked for; 1 where one is short of its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpus", type=int, default=64, help="GPUs of the rows integrator and memory [64]")
    parser.add_argument("--hours", type=int, default=12, help="their hours, even [12]")
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows, with commas between [all]")
    chosen = parser.parse_args(arguments)
    rows, board = chosen.rows.split(","), Board()
    big, day = Cluster(chosen.gpus, chosen.hours), Cluster(8, 24)
    if "integrator" in rows:
        integrator(board, big)
    if "memory" in rows:
        memory(board, big)
    if "counters" in rows:
        counters(board, Cluster(8, 24 * 31, traced=False))
    if "windows" in rows:
        windows(board, day)
    if "jobs" in rows:
        jobs(board)
    if "start" in rows:
        start(board, day)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for what in board.missed:
        print(f"missed: {what.strip()}")
    return 1 if board.missed else 0


if __name__ == "__main__":
    sys.exit(main())
