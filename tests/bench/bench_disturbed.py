"""Measure the exporter during faults and attacks, and an undisturbed exporter in the same run.

python tests/bench/bench_disturbed.py [--seconds 10] [--gpus 8]

- "scrape p99": duration of a scrape of /metrics on a persistent connection with a known password, 20 times a
  second. In the flood, 25 clients send wrong passwords. Each sends the next one when the last is answered.
- "reads late": the share of reads that are more than 50 ms after their tick.
- "CPU": CPU time of the exporter's processes, in % of a core.
- "beside 200 bad clients": duration of a scrape on a new connection, while 200 clients that are idle, send
  half a request or send garbage connect again whenever they are disconnected. The limit is 3 s. With "64
  descriptors" the exporter runs under `ulimit -n 64`.
- "gauges gone": seconds from a fault to the first page without the GPU's power. The limit is 1 s.
- "end": seconds from SIGTERM to the exit of the process.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.bench_exporter import LATENESS, cpu_s
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import MetricsPage, scrape
from tests.llem_exporter.web.socket_rig import bad_clients, connect, get
from tests.llem_exporter.web.web_rig import (
    LimitedWebExporter,
    WebExporter,
    WebFolder,
    authorization,
    client_context,
    hashed,
)
from tests.servers import Exporter, wait_until

POWER = "llem_gpu_power_watts"
RIGHT = authorization("ann", "the right one")
ARGS = ("--no-collector.codecarbon",)
ATTACKERS = 25
BAD_CLIENTS = 200
TRIALS = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of a period of scraping."""

    scrape_p99_ms: float
    late_share: float
    cpu_percent: float


def scraped(exporter: WebExporter, seconds: float) -> Figures:
    """Scrape 20 times a second."""
    durations_s: list[float] = []
    with exporter.pool() as pool:

        def page() -> MetricsPage:
            start_s = time.perf_counter()
            text = pool.request("GET", "/metrics", headers=RIGHT).data.decode()
            durations_s.append(time.perf_counter() - start_s)
            return MetricsPage(text)

        before, start_cpu_s, start_s = page(), cpu_s(exporter.pid), time.monotonic()
        while time.monotonic() < start_s + seconds:
            after = page()
            time.sleep(0.05)
        cpu_percent = 100 * (cpu_s(exporter.pid) - start_cpu_s) / (time.monotonic() - start_s)

    def rise(part: str, **labels: str) -> float:
        return after.value(f"{LATENESS}_{part}", **labels) - before.value(f"{LATENESS}_{part}", **labels)

    late_share = 1 - rise("bucket", le="0.05") / rise("count")
    return Figures(1000 * quantiles(durations_s, n=100)[98], late_share, cpu_percent)


@contextmanager
def flood(exporter: WebExporter) -> Iterator[None]:
    """Send wrong passwords from many clients."""
    stopped = threading.Event()

    def guess(client: int) -> None:
        number = 0
        with exporter.pool() as pool:
            while not stopped.is_set():
                number += 1
                pool.request("GET", "/metrics", headers=authorization("ann", f"{client}-{number}"))

    clients = [threading.Thread(target=guess, args=(client,)) for client in range(ATTACKERS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stopped.set()
        for client in clients:
            client.join()


def beside_bad_clients(exporter: WebExporter, seconds: float) -> list[float]:
    """Scrape on new connections and measure the durations in seconds."""
    durations_s = list[float]()
    with bad_clients(exporter, BAD_CLIENTS):
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            start_s = time.perf_counter()
            assert exporter.ask(headers=RIGHT).status == 200
            durations_s.append(time.perf_counter() - start_s)
            time.sleep(0.05)
    return durations_s


def print_bad_clients(driver: FakeDriver, folder: WebFolder, seconds: float) -> None:
    """Print the durations over HTTP, over TLS, and with few descriptors."""
    users = {"ann": hashed("the right one", 10)}
    context = client_context(folder.authority)
    for name, tls, exporter_type in (
        ("HTTP", None, WebExporter),
        ("TLS", context, WebExporter),
        ("TLS, 64 descriptors", context, LimitedWebExporter),
    ):
        sections = {"tls_server_config": folder.tls()} if tls else {}
        config = folder.write(basic_auth_users=users, **sections)
        with exporter_type(config, *ARGS, env=driver.env, context=tls) as exporter:
            wait_until(lambda exporter=exporter: exporter.ask("/-/ready", RIGHT).status == 200, "ready")  # type: ignore[misc]
            durations_s = beside_bad_clients(exporter, seconds)
        most_s = f"median {median(durations_s):.3f} s, at most {max(durations_s):.2f} s (3 s)"
        print(f"scrape beside {BAD_CLIENTS} bad clients, {name}: {most_s}")


def seconds_until(condition: Callable[[], object]) -> float:
    """Measure how long a condition takes to become true."""
    start_s = time.monotonic()
    wait_until(condition, "the condition")
    return time.monotonic() - start_s


def gauges_gone_s(driver: FakeDriver, exporter: Exporter, fault: str) -> float:
    """Make GPU 1 fail and measure the time until its power is gone. Then let it recover."""
    setattr(driver.gpus[1], fault, True)
    gone_s = seconds_until(lambda: scrape(exporter).get(POWER, gpu=1) is None)
    setattr(driver.gpus[1], fault, False)
    wait_until(lambda: scrape(exporter).get(POWER, gpu=1), "the GPU's recovery")
    return gone_s


def end_s(driver: FakeDriver, disturbance: str) -> float:
    """Terminate an exporter that is idle, has a hung GPU, or has a client that does not read."""
    with ExitStack() as stack:
        exporter = stack.enter_context(Exporter(env=driver.env, args=ARGS))
        wait_until(lambda: len(scrape(exporter).labels(POWER)) == driver.gpu_count, "all GPUs")
        driver.gpus[1].hung = disturbance == "GPU hangs"
        if disturbance == "client does not read":
            stack.enter_context(connect(exporter, 4096)).sendall(get("/history?since=0"))
        time.sleep(0.5)
        exporter.process.terminate()
        ended_s = seconds_until(lambda: exporter.process.poll() is not None)
        driver.gpus[1].hung = False
        return ended_s


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement [10]")
    parser.add_argument("--gpus", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, FakeDriver(Path(folder), gpus=options.gpus) as driver:
        config = WebFolder(Path(folder)).write(basic_auth_users={"ann": hashed("the right one", 10)})
        with WebExporter(config, *ARGS, env=driver.env) as exporter:
            wait_until(lambda: exporter.ask("/-/ready", RIGHT).status == 200, "ready")
            rows = {"undisturbed": scraped(exporter, options.seconds)}
            with flood(exporter):
                rows["flood of wrong passwords"] = scraped(exporter, options.seconds)
            driver.gpus[1].hung = True
            time.sleep(1.0)
            rows["one GPU hangs"] = scraped(exporter, options.seconds)
            driver.gpus[1].hung = False
        base = rows["undisturbed"]
        print(f"{'':26}{'scrape p99':>22}{'reads late':>12}{'CPU':>10}")
        for name, row in rows.items():
            ratio = f"{row.scrape_p99_ms:.1f} ms ({row.scrape_p99_ms / base.scrape_p99_ms:.1f} x)"
            print(f"{name:26}{ratio:>22}{row.late_share:>12.2%}{row.cpu_percent:>8.1f} %")
        print_bad_clients(driver, WebFolder(Path(folder)), options.seconds)
        with Exporter(env=driver.env, args=ARGS) as plain:
            wait_until(lambda: len(scrape(plain).labels(POWER)) == options.gpus, "all GPUs")
            for fault in ("lost", "hung"):
                gone = [gauges_gone_s(driver, plain, fault) for _ in range(TRIALS)]
                print(
                    f"gauges gone, GPU {fault}: median {median(gone):.2f} s, at most {max(gone):.2f} s (1 s)"
                )
        ends = {name: end_s(driver, name) for name in ("idle", "GPU hangs", "client does not read")}
        print(*(f"end, {name}: {s:.2f} s ({s / ends['idle']:.1f} x)" for name, s in ends.items()), sep="\n")


if __name__ == "__main__":
    main()
