"""What the exporter costs, and how late it is, on the fake driver, beside its targets and peers.

python tests/bench/bench_exporter.py [--seconds 30] [--gpus 8]

- CPU is CLOCK_PROCESS_CPUTIME_ID in % of one core, PSS is that of smaps_rollup, both over all processes.
- Wake-ups are the voluntary context switches of all threads of the exporter's main process.
- Calls are counted by the fake driver: those for power and energy, for each GPU and tick.
- Lateness is llem_sampler_lateness_seconds: the bucket of each percentile. Beside it is the p99 of an idle
  thread of the bench on the same grid at the same time: the machine's own part.
- "15 min pulled" is the exporter with a history that was filled before the start (the only difference to
  production), while a client pulls all of it, again and again, as gzipped OpenMetrics, as Prometheus does.
- The peers are nvitop-exporter at 4 Hz, and the exporter's driver calls alone at 10 Hz, a thread per GPU.
  Both run at the same time as the exporter, so that the ratio does not depend on the machine's moment.
- /metrics is scraped in turn with prometheus_client's rendering of the same page in the bench.
"""

import argparse
import http.client
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import MetricsPage, scrape
from tests.servers import Exporter, Server, wait_until

INTERVAL_S = 0.1
BACKLOG_S = 900
LATENESS = "llem_sampler_lateness_seconds"
ACCEPT = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
    "Accept-Encoding": "gzip",
}


class PrefilledExporter(Exporter):
    """The exporter with 15 min of history from the start."""

    def _command(self) -> list[str]:
        command = list(super()._command())
        place = command.index("-m")
        return [*command[:place], __file__, "--prefilled", *command[place + 2 :]]


class Peer(Server):
    """nvitop-exporter, updating every `interval_s`."""

    def __init__(self, env: dict[str, str], interval_s: float) -> None:
        super().__init__(env=env)
        self._interval_s = interval_s

    def _command(self) -> list[str]:
        program = str(Path(sys.executable).with_name("nvitop-exporter"))
        return [program, "--port", str(self.port), "--interval", str(self._interval_s)]

    def _ready(self) -> bool:
        return self._answers("/metrics")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    figure: str
    target: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        mark = {True: "met", False: "MISSED", None: ""}[self.met]
        return f"{self.what:<52} {self.figure:>48}   {self.target:<22} {mark}"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a process and all that it started, over a while: % of a core, and MB at its end."""

    cpu_percent: float
    pss_mb: float


@dataclass(frozen=True, slots=True)
class Setup:
    """An exporter to measure, and the targets of its cost."""

    name: str
    zeus: bool
    codecarbon: bool
    pss_mb: float

    @property
    def args(self) -> list[str]:
        return [
            "--collector.zeus" if self.zeus else "--no-collector.zeus",
            "--collector.codecarbon" if self.codecarbon else "--no-collector.codecarbon",
        ]


NVML_ONLY = Setup("NVML only", zeus=False, codecarbon=False, pss_mb=60)
WITH_ZEUS = Setup("with zeus", zeus=True, codecarbon=False, pss_mb=250)
WITH_ALL = Setup("zeus, CodeCarbon", zeus=True, codecarbon=True, pss_mb=250)


@contextmanager
def cost_of(leader: int, costs: list[Cost]) -> Iterator[None]:
    """Append what the processes of this process group cost while the block ran."""
    before_s, started_s = cpu_s(leader), time.monotonic()
    yield
    used_s, passed_s = cpu_s(leader) - before_s, time.monotonic() - started_s
    costs.append(Cost(100 * used_s / passed_s, sum(pss_mb(pid) for pid in group(leader))))


def group(leader: int) -> list[int]:
    """The processes of a process group."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if group_of(pid) == leader]


def group_of(pid: int) -> int | None:
    """Its process group; None for a process that has ended meanwhile."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def cpu_s(leader: int) -> float:
    """CPU seconds of a process group so far. Source: clock_getcpuclockid(3)."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in group(leader))


def pss_mb(pid: int) -> float:
    """Proportional set size: memory shared with others counts by its share."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


def lateness(before: MetricsPage, after: MetricsPage) -> tuple[float, float, float]:
    """Upper bounds of the buckets [ms] that the median, the 99th percentile and the maximum lie in."""
    bounds = sorted({float(labels["le"]) for labels in after.labels(f"{LATENESS}_bucket")} | {float("inf")})

    def count(page: MetricsPage, bound: float) -> float:
        label = "+Inf" if bound == float("inf") else repr(bound)
        return page.value(f"{LATENESS}_bucket", le=label)

    rises = [(bound, count(after, bound) - count(before, bound)) for bound in bounds]
    total = rises[-1][1]

    def percentile(share: float) -> float:
        return 1000 * next(bound for bound, rise in rises if rise >= share * total)

    return percentile(0.5), percentile(0.99), percentile(1.0)


class Sleeper:
    """A thread that does nothing but wake at every tick: how late the machine wakes it."""

    def __init__(self) -> None:
        self._stopped = False
        self._thread = threading.Thread(target=self._run)
        self._late_ms: list[float] = []

    def __enter__(self) -> "Sleeper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    @property
    def p99_ms(self) -> float:
        return quantiles(self._late_ms, n=100)[98]

    def _run(self) -> None:
        while not self._stopped:
            tick_s = (time.time() // INTERVAL_S + 1) * INTERVAL_S
            time.sleep(max(0.0, tick_s - time.time()))
            self._late_ms.append(1000 * (time.time() - tick_s))


class Puller:
    """Pulls all of /history over one connection until told to stop; what comes is only counted."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.pulls_s: list[float] = []
        self.body = b""

    def __enter__(self) -> "Puller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._connection.close()

    @property
    def lines(self) -> int:
        """Trace lines in the last body."""
        return zlib.decompress(self.body, wbits=31).count(b"\nllem_gpu_")

    def _run(self) -> None:
        while not self._stopped.is_set():
            started_s = time.monotonic()
            self._connection.request("GET", "/history?since=0", headers=ACCEPT)
            self.body = self._connection.getresponse().read()
            self.pulls_s.append(time.monotonic() - started_s)


def bench_idle(driver: FakeDriver, seconds: float, setup: Setup) -> Iterator[Row]:
    """Lateness, cost and calls of the exporter as it is."""
    costs: list[Cost] = []
    with Exporter(env=driver.env, args=setup.args) as exporter:
        settle(exporter, setup, len(driver.gpus))
        before, calls, switches = scrape(exporter), driver.calls(), wakeups(exporter.pid)
        with cost_of(exporter.pid, costs), Sleeper() as sleeper:
            time.sleep(seconds)
        after, more, switched = scrape(exporter), driver.calls(), wakeups(exporter.pid)
    name, cost = f"{setup.name}, idle", costs[0]
    yield lateness_row(name, before, after, sleeper, 2)
    pss_met = cost.pss_mb <= setup.pss_mb
    yield Row(f"{name}: PSS", f"{cost.pss_mb:.1f} MB", f"<= {setup.pss_mb} MB", pss_met)
    ticks = (after.value(f"{LATENESS}_count") - before.value(f"{LATENESS}_count")) / len(calls)
    per_tick = (switched - switches) / ticks
    yield Row(f"{name}: wake-ups per tick", f"{per_tick:.2f}", "<= 3", per_tick <= 3)
    risen = [
        new.fields + new.power + new.energy - old.fields - old.power - old.energy
        for old, new in zip(calls, more, strict=True)
    ]
    per_tick, wanted = max(risen) / ticks, 1 + setup.zeus
    yield Row(f"{name}: NVML calls per GPU and tick", f"{per_tick:.2f}", f"{wanted}", per_tick < wanted + 0.1)


def bench_pulled(driver: FakeDriver, seconds: float, setup: Setup) -> Iterator[Row]:
    """Lateness while 15 min of history are pulled, and how fast they come."""
    costs: list[Cost] = []
    with PrefilledExporter(env=driver.env, args=setup.args) as exporter:
        settle(exporter, setup, len(driver.gpus))
        before = scrape(exporter)
        with cost_of(exporter.pid, costs), Sleeper() as sleeper, Puller(exporter.port) as puller:
            time.sleep(seconds)
        after = scrape(exporter)
    name, cost = f"{setup.name}, 15 min pulled", costs[0]
    yield lateness_row(name, before, after, sleeper, 5)
    yield Row(f"{name}: CPU, PSS", f"{cost.cpu_percent:.0f} %, {cost.pss_mb:.1f} MB")
    rate = puller.lines / median(puller.pulls_s)
    what = f"{name}: /history, {puller.lines} lines a pull"
    yield Row(what, f"{rate / 1e6:.2f} M lines/s", ">= 1 M lines/s", rate >= 1e6)


def lateness_row(
    name: str, before: MetricsPage, after: MetricsPage, sleeper: Sleeper, limit_ms: float
) -> Row:
    p50_ms, p99_ms, max_ms = lateness(before, after)
    figure = f"p50 <= {p50_ms:g}, p99 <= {p99_ms:g}, max <= {max_ms:g} (machine {sleeper.p99_ms:.1f})"
    return Row(f"{name}: lateness [ms]", figure, f"p99 <= {limit_ms:g} ms", p99_ms <= limit_ms)


def settle(exporter: Exporter, setup: Setup, gpus: int) -> None:
    """Wait until everything that it does at the start is done."""

    def done() -> bool:
        page = scrape(exporter)
        zeus = len(page.labels("llem_gpu_zeus_energy_joules_total")) == gpus * setup.zeus
        return zeus and bool(page.labels("llem_codecarbon_energy_joules_total")) == setup.codecarbon

    wait_until(done, "counters")
    time.sleep(2)


class SamePage(Collector):
    """The metrics of a page, as prometheus_client parsed them."""

    def __init__(self, page: str) -> None:
        self._families = list(text_string_to_metric_families(page))

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def bench_metrics(driver: FakeDriver) -> Row:
    """/metrics over one kept connection, as Prometheus asks for it, beside the rendering alone."""
    times_ms, rendering_ms = list[float](), list[float]()
    with Exporter(env=driver.env, args=WITH_ZEUS.args) as exporter:
        settle(exporter, WITH_ZEUS, len(driver.gpus))
        connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=10)
        registry = CollectorRegistry(auto_describe=False)
        connection.request("GET", "/metrics")
        registry.register(SamePage(connection.getresponse().read().decode()))
        for _ in range(300):
            started_s = time.perf_counter()
            connection.request("GET", "/metrics", headers=ACCEPT)
            connection.getresponse().read()
            times_ms.append(1000 * (time.perf_counter() - started_s))
            time.sleep(0.02)
            started_s = time.perf_counter()
            generate_latest(registry)
            rendering_ms.append(1000 * (time.perf_counter() - started_s))
        connection.close()
    cuts, alone_ms = quantiles(times_ms, n=100), median(rendering_ms)
    ratio = cuts[98] / alone_ms
    figure = f"p50 {cuts[49]:.1f}, p99 {cuts[98]:.1f} ms; rendering {alone_ms:.1f} ms: {ratio:.1f} x"
    return Row(f"/metrics with {len(driver.gpus)} GPUs", figure, "p99 <= 4 x rendering", ratio <= 4)


def wakeups(pid: int) -> int:
    """Voluntary context switches of all threads of a process so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


def bench_cpu(driver: FakeDriver, seconds: float, setup: Setup) -> Iterator[Row]:
    """CPU of the exporter, of bare threads and of nvitop-exporter, all at the same time."""
    command = [
        sys.executable,
        __file__,
        "--bare=a thread per GPU",
        *(["--bare-energy"] if setup.zeus else []),
    ]
    bare = subprocess.Popen(command, env={**os.environ, **driver.env}, process_group=0)
    ours, threads, peers = list[Cost](), list[Cost](), list[Cost]()
    try:
        with Exporter(env=driver.env, args=setup.args) as exporter, Peer(driver.env, 0.25) as peer:
            settle(exporter, setup, len(driver.gpus))
            with cost_of(exporter.pid, ours), cost_of(bare.pid, threads), cost_of(peer.pid, peers):
                time.sleep(seconds)
    finally:
        bare.kill()
        bare.wait()
    exporter_cpu, bare_cpu, peer_cpu = (costs[0].cpu_percent for costs in (ours, threads, peers))
    ratio, name = exporter_cpu / bare_cpu, f"{setup.name}, idle"
    figure = f"{exporter_cpu:.2f} %, threads {bare_cpu:.2f} %: {ratio:.2f} x"
    yield Row(f"{name}: CPU, beside 8 bare threads", figure, "<= 2 x", ratio <= 2)
    figure = f"{exporter_cpu:.2f} %, nvitop-exporter {peer_cpu:.2f} %"
    yield Row(f"{name}: CPU, beside nvitop-exporter at 4 Hz", figure, "below it", exporter_cpu < peer_cpu)


def bench_bare(driver: FakeDriver, seconds: float, how: str) -> Row:
    """The calls alone."""
    command = [sys.executable, __file__, f"--bare={how}"]
    child = subprocess.Popen(command, env={**os.environ, **driver.env}, process_group=0)
    try:
        time.sleep(2)
        costs: list[Cost] = []
        with cost_of(child.pid, costs):
            time.sleep(seconds)
    finally:
        child.kill()
        child.wait()
    return Row(f"bare calls, {how}: CPU", f"{costs[0].cpu_percent:.2f} %")


def run_bare(how: str, *, energy: bool) -> None:
    """Child: power, and with `energy` the counter, per GPU and 100 ms, for ever."""
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]

    def read_for_ever(mine: list[object]) -> None:
        while True:
            time.sleep(INTERVAL_S - time.time() % INTERVAL_S)
            for handle in mine:
                pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
                if energy:
                    pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    if how == "one loop":
        read_for_ever(handles)
    for handle in handles:
        threading.Thread(target=read_for_ever, args=([handle],), daemon=True).start()
    time.sleep(86_400)


def run_prefilled(arguments: list[str]) -> None:
    """Child: the exporter, with a full history before its first tick."""
    from llem_exporter import cli, gpus
    from llem_measure.sampling import sampler
    from llem_measure.sampling.ledger import Reading

    class Prefilled(sampler.Sampler):
        def start(self) -> None:
            first_ms = (self.clock.now_ms() // self.interval_ms - BACKLOG_S * 10 + 10) * self.interval_ms
            for gpu in self.gpus:
                for number in range(BACKLOG_S * 10 - 20):
                    ms = first_ms + number * self.interval_ms
                    watts, joules = 100 + number * 37 % 4000 / 8, 3e6 + number * 25.125
                    gpu.ledger.add(Reading(ms, ms, 0, self.clock.monotonic_s(), watts, joules))
            super().start()

    vars(gpus)["Sampler"] = Prefilled
    cli.main(arguments)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--bare", choices=["a thread per GPU", "one loop"], help=argparse.SUPPRESS)
    parser.add_argument("--bare-energy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        run_bare(options.bare, energy=options.bare_energy)
    seconds, rows = options.seconds, list[Row]()

    def show(row: Row) -> None:
        rows.append(row)
        print(row, flush=True)

    print(f"{options.gpus} GPUs at 10 Hz, {seconds:g} s each, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, FakeDriver(Path(folder), gpus=options.gpus) as driver:
        for setup in (NVML_ONLY, WITH_ZEUS, WITH_ALL):
            for row in bench_idle(driver, seconds, setup):
                show(row)
        for setup in (NVML_ONLY, WITH_ZEUS):
            for row in bench_cpu(driver, seconds, setup):
                show(row)
        for setup in (NVML_ONLY, WITH_ZEUS):
            for row in bench_pulled(driver, seconds, setup):
                show(row)
        driver.gpu_count = 16
        show(bench_metrics(driver))
        driver.gpu_count = options.gpus
        for how in ("a thread per GPU", "one loop"):
            show(bench_bare(driver, seconds, how))
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prefilled"]:
        run_prefilled(sys.argv[2:])
    main()
