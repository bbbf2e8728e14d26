"""Check on real servers that each 100 ms sample is stored once, whatever happens to the scrapes.

python tests/bench/bench_handover.py [--seconds 600] [--interval 15] [--gpus 8] [--down 120] [--stopped 30]
python tests/bench/bench_handover.py --lost

One exporter on the fake driver is scraped by two servers of each kind: all available versions of Prometheus,
and VictoriaMetrics. One of the two is left alone. The other is disturbed during its scrapes, by a proxy
between the server and the exporter. Each server has its own proxy, scraper ID and source address. The
reference is /history?since=..., which is pulled during the whole run. Times and values of all series are
compared.

- "missing" and "not once" are samples of the reference that the server lacks, or has more than once.
- "drops" are the server's own counts of samples out of order, with a duplicate timestamp, out of bounds and
  beyond sample_limit, including the time before restarts. "repeated" are responses with repeated samples.
- VictoriaMetrics is not killed here, because it keeps the newest samples in memory.

--lost runs for two minutes and shows instead which samples can still be lost:

- VictoriaMetrics is killed with -9 while it sends a request, 2 s and 15 s after its last scrape.
- Prometheus is stopped and killed during two consecutive scrapes, so that samples were offered twice and
  never read.
- Prometheus is down for longer than its out_of_order_time_window. It then rejects the whole scrape.
- A response is larger than sample_limit.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fake_nvml import FakeDriver
from tests.fault_proxy import FaultProxy, Moment
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.servers import (
    Exporter,
    Prometheus,
    PrometheusRelease,
    VictoriaMetrics,
    prometheus_releases,
    scrape_config,
    wait_until,
)

TRACES = '{__name__=~"llem_gpu_power_trace_watts|llem_gpu_zeus_energy_trace_joules_total"}'
DROPS = (
    "prometheus_target_scrapes_sample_out_of_order_total",
    "prometheus_target_scrapes_sample_duplicate_timestamp_total",
    "prometheus_target_scrapes_sample_out_of_bounds_total",
    "prometheus_target_scrapes_exceeded_sample_limit_total",
)
SETTLE_SECONDS = 60.0

Points = list[tuple[int, float]]
Log = dict[tuple[str, str], Points]


@dataclass(frozen=True, slots=True)
class Pace:
    """The scrape interval, and how long servers are down or stopped."""

    interval_s: float
    down_s: float
    stopped_s: float


class Reference:
    """All samples of the exporter, from consecutive pulls of /history?since=."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self.log: Log = {}

    def pull(self) -> None:
        """Add the new samples. A pull may end within a tick, so it starts at the GPU that is behind."""
        since_ms = min((points[-1][0] for points in self.log.values()), default=0)
        for key, points in history(self._exporter, f"{since_ms / 1000:.3f}").items():
            known = self.log.setdefault(key, [])
            last_ms = known[-1][0] if known else 0
            known += [point for point in points if point[0] > last_ms]

    def sleep(self, seconds: float) -> None:
        """Sleep, and pull every 5 s."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 5.0))
            self.pull()

    def until(self, end_ms: int) -> Log:
        return {key: [point for point in points if point[0] <= end_ms] for key, points in self.log.items()}


@dataclass
class Scraper:
    """A server that scrapes /history through a proxy, and the names of the faults that it has had."""

    name: str
    store: Prometheus | VictoriaMetrics
    proxy: FaultProxy
    faults: list[str] = field(default_factory=list)
    drops_of_earlier_lives: int = 0

    def drops(self) -> int:
        """Return how many samples the server has dropped, by its own count, including earlier processes."""
        return self.drops_of_earlier_lives + self._drops_of_this_life()

    def end_of_life(self) -> None:
        """Save the count of dropped samples before the process is killed."""
        self.drops_of_earlier_lives += self._drops_of_this_life()

    def _drops_of_this_life(self) -> int:
        if not isinstance(self.store, Prometheus):
            return 0
        page = MetricsPage(self.store.fetch_text("/metrics"))
        return sum(int(page.get(name) or 0) for name in DROPS)

    def stored(self, end_ms: int) -> Log:
        """Return the samples of the traces that the server has stored, up to a time."""
        series: Log = {}
        if isinstance(self.store, VictoriaMetrics):
            for row in self.store.export(TRACES):
                points = zip(row["timestamps"], row["values"], strict=True)
                # After a failed scrape there is a staleness marker, which is exported as null.
                series[_key(row["metric"])] = [
                    (int(ms), float(x)) for ms, x in points if x is not None and ms <= end_ms
                ]
            return series
        for row in self.store.query(f"{TRACES}[2h]", end_ms / 1000):
            series[_key(row["metric"])] = [(round(1000 * t), float(x)) for t, x in row["values"]]
        return series

    def newest_ms(self) -> int:
        """Return the time of the newest sample in the last response."""
        return max((ms for exchange in self.proxy.exchanges[-1:] for ms in exchange.times_ms), default=0)

    def repeated_responses(self) -> int:
        """Return how many responses repeated samples of the previous response."""
        pairs = zip(self.proxy.exchanges, self.proxy.exchanges[1:], strict=False)
        return sum(not set(before.times_ms).isdisjoint(after.times_ms) for before, after in pairs)

    def repeated_ticks(self) -> int:
        """Return how often samples of GPU 0 were repeated."""
        carried = [ms for exchange in self.proxy.exchanges for ms in exchange.times_ms]
        return len(carried) - len(set(carried))


@dataclass(frozen=True, slots=True)
class Result:
    """How the samples that a server has stored differ from the reference."""

    scraper: Scraper
    expected: int
    missing: int
    not_once: int
    drops: int

    @property
    def lossless(self) -> bool:
        return self.expected > 0 and self.missing == self.not_once == 0

    def __str__(self) -> str:
        scraper = self.scraper
        drops = self.drops if isinstance(scraper.store, Prometheus) else "-"
        return (
            f"{scraper.name:<28}{len(scraper.faults):>7}{self.expected:>10}{self.missing:>9}{self.not_once:>10}"
            f"{drops:>8}{scraper.repeated_responses():>10}{scraper.proxy.connections:>13}"
        )


HEADER = (
    f"{'scraper':<28}{'faults':>7}{'samples':>10}{'missing':>9}{'not once':>10}"
    f"{'drops':>8}{'repeated':>10}{'connections':>13}"
)


def compare(scraper: Scraper, reference: Log, end_ms: int) -> Result:
    """Compare the samples of the reference with those that the server has stored."""
    stored = {key: Counter(points) for key, points in scraper.stored(end_ms).items()}
    expected = sum(map(len, reference.values()))
    once = sum(
        stored.get(key, Counter())[point] == 1 for key, points in reference.items() for point in points
    )
    missing = sum(point not in stored.get(key, ()) for key, points in reference.items() for point in points)
    extra = sum(counts.total() for counts in stored.values()) - once
    return Result(scraper, expected, missing, extra, scraper.drops())


Fault = Callable[[Sequence[Scraper], Reference, Pace], None]
Start = Callable[[Path, Sequence[Mapping[str, Any]]], Prometheus | VictoriaMetrics]


def stopped_at_its_request_and_killed(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Stop the server when its request arrives, so that the response is never read, and then kill it."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.REQUEST, scraper.store.stop)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def killed_in_the_middle(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Kill the server when half of the response has been sent."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.MIDDLE, scraper.store.kill)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def killed_after_the_last_byte(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Kill the server when the whole response has been sent, whether it was read or stored or not."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.END, scraper.store.kill)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def killed_at_its_request(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Kill the server when the request arrives that confirms the last response, which must be stored."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.REQUEST, scraper.store.kill)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def dead_for_a_while(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Kill the server between two scrapes and start it later, so that there is a backlog."""
    for scraper in scrapers:
        scraper.store.kill()
    reference.sleep(pace.down_s)
    _restart(scrapers)


def stopped_for_a_while(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Stop the server when its request arrives, and continue it after its scrape timeout."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.REQUEST, scraper.store.stop)
    _wait(scrapers, pace)
    reference.sleep(pace.stopped_s)
    for scraper in scrapers:
        scraper.store.cont()


def cut_in_the_middle(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Close both connections of the proxy when half of the response has been sent."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.MIDDLE, None)
    _wait(scrapers, pace)
    reference.pull()


KILLS: tuple[Fault, ...] = (
    stopped_at_its_request_and_killed,
    killed_in_the_middle,
    dead_for_a_while,
    dead_for_a_while,
)
MORE_KILLS: tuple[Fault, ...] = (killed_after_the_last_byte, killed_at_its_request)
PAUSES: tuple[Fault, ...] = (cut_in_the_middle, stopped_for_a_while)


def _wait(scrapers: Iterable[Scraper], pace: Pace) -> None:
    for scraper in scrapers:
        scraper.proxy.wait(2 * pace.interval_s + SETTLE_SECONDS)


def _restart(scrapers: Iterable[Scraper]) -> None:
    for scraper in scrapers:
        scraper.store.kill()
        scraper.store.start()


def disturb(
    fault: Fault,
    scrapers: Sequence[Scraper],
    reference: Reference,
    pace: Pace,
    report: Callable[[str], object],
) -> None:
    """Cause one fault for each scraper, and wait until each has scraped again."""
    if not scrapers:
        return
    before = {scraper.name: (scraper.drops(), scraper.repeated_ticks()) for scraper in scrapers}
    for scraper in scrapers:
        if fault not in PAUSES:
            scraper.end_of_life()
        scraper.faults.append(fault.__name__)
    fault(scrapers, reference, pace)
    for scraper in scrapers:
        seen, proxy = len(scraper.proxy.exchanges), scraper.proxy
        wait_until(
            lambda proxy=proxy, seen=seen: len(proxy.exchanges) > seen,  # type: ignore[misc]
            f"{scraper.name} scrapes again",
            2 * pace.interval_s + SETTLE_SECONDS,
        )
        reference.pull()
    time.sleep(0.5)
    for scraper in scrapers:
        drops, ticks = before[scraper.name]
        report(
            f"          {scraper.name:<28} repeated {scraper.repeated_ticks() - ticks:4d} ticks, "
            f"of which {scraper.drops() - drops:5d} samples had been stored"
        )


def connected(
    servers: ExitStack,
    directory: Path,
    exporter: Exporter,
    number: int,
    name: str,
    start: Start,
    interval_s: float,
    **more: object,
) -> Scraper:
    """Start a server that scrapes through its own proxy, with its own ID and address."""
    proxy = servers.enter_context(FaultProxy(exporter.port, f"127.0.0.{number}"))
    (home := directory / f"{number}").mkdir()
    job = scrape_config(
        "llem-history",
        proxy.address,
        interval=f"{interval_s:g}s",
        path="/history",
        params={"scraper": [f"scraper-{number}"]},
        honor_timestamps=True,
        **more,
    )
    store = start(home, [job])
    servers.enter_context(store)
    return Scraper(name, store, proxy)


def prometheus_of(release: PrometheusRelease) -> Start:
    return lambda home, jobs: Prometheus(home, jobs, release=release)


def all_stores(*, full: bool = True) -> dict[str, Start]:
    """Return the servers to test, by name: without `full`, Prometheus 2 alone."""
    stores = {
        f"Prometheus {release.version}": prometheus_of(release) for release in prometheus_releases(full=full)
    }
    return {**stores, "VictoriaMetrics": VictoriaMetrics} if full else stores


@contextmanager
def running(
    directory: Path, exporter: Exporter, interval_s: float, stores: Mapping[str, Start]
) -> Iterator[list[Scraper]]:
    """Start two servers of each kind. The second one is named "disturbed"."""
    names = [
        (f"{name}, {role}", start) for role in ("left alone", "disturbed") for name, start in stores.items()
    ]
    with ExitStack() as servers:
        yield [
            connected(servers, directory, exporter, number, name, start, interval_s)
            for number, (name, start) in enumerate(names, 1)
        ]


def run(
    directory: Path,
    driver: FakeDriver,
    pace: Pace,
    kills: Sequence[Fault],
    at_least_s: float,
    report: Callable[[str], object] = print,
    stores: Mapping[str, Start] | None = None,
) -> list[Result]:
    """Disturb all scrapers at once and return their results. The default of `stores` is all servers."""
    with Exporter(env=driver.env, args=["--no-collector.codecarbon"]) as exporter:
        wait_until(lambda: scrape(exporter).get("llem_gpu_zeus_energy_joules_total", gpu=0), "Zeus")
        reference = Reference(exporter)
        with running(directory, exporter, pace.interval_s, stores or all_stores()) as scrapers:
            start_s = time.monotonic()
            for scraper in scrapers:
                wait_until(lambda proxy=scraper.proxy: len(proxy.exchanges) > 1, scraper.name, 90)  # type: ignore[misc]
            disturbed = [scraper for scraper in scrapers if "disturbed" in scraper.name]
            mortal = [scraper for scraper in disturbed if isinstance(scraper.store, Prometheus)]
            for fault in kills:
                report(f"{time.monotonic() - start_s:6.1f} s  {fault.__name__}")
                disturb(fault, mortal, reference, pace, report)
            for fault in PAUSES:
                report(f"{time.monotonic() - start_s:6.1f} s  {fault.__name__}")
                disturb(fault, disturbed, reference, pace, report)
            reference.sleep(max(0.0, at_least_s - (time.monotonic() - start_s)))
            results = finished(scrapers, reference, pace, scrape(exporter), report)
            assert "Traceback" not in exporter.log()
            return results


def finished(
    scrapers: Sequence[Scraper],
    reference: Reference,
    pace: Pace,
    counts: MetricsPage,
    report: Callable[[str], object],
) -> list[Result]:
    """Wait until each scraper has all samples up to now, and return the results."""
    reference.pull()
    end_ms = min(points[-1][0] for points in reference.log.values())
    for scraper in scrapers:
        wait_until(
            lambda scraper=scraper: scraper.newest_ms() > end_ms,  # type: ignore[misc]
            f"{scraper.name} catches up",
            8 * pace.interval_s + SETTLE_SECONDS,
        )
    time.sleep(1.0)
    for name in ("offered_samples", "confirmed_samples", "evicted_samples", "conflicts"):
        report(f"llem_history_{name}_total {counts.value(f'llem_history_{name}_total'):.0f}")
    return [compare(scraper, reference.until(end_ms), end_ms) for scraper in scrapers]


def lost(directory: Path, driver: FakeDriver) -> list[Result]:
    """Return the results of --lost. VictoriaMetrics merges duplicates (-dedup.minScrapeInterval=1ms)."""
    often, seldom = Pace(2.0, 5.0, 5.0), Pace(15.0, 5.0, 5.0)

    def victoria_metrics(home: Path, jobs: Sequence[Mapping[str, Any]]) -> VictoriaMetrics:
        return VictoriaMetrics(home, jobs, args=["-dedup.minScrapeInterval=1ms"])

    with (
        Exporter(env=driver.env, args=["--no-collector.codecarbon"]) as exporter,
        ExitStack() as servers,
    ):
        wait_until(lambda: scrape(exporter).get("llem_gpu_zeus_energy_joules_total", gpu=0), "Zeus")
        reference = Reference(exporter)
        prometheus = prometheus_of(prometheus_releases()[0])

        def narrow(home: Path, jobs: Sequence[Mapping[str, Any]]) -> Prometheus:
            return Prometheus(home, jobs, config={"storage": {"tsdb": {"out_of_order_time_window": "1s"}}})

        rows: list[tuple[str, Start, Pace, dict[str, object]]] = [
            ("VictoriaMetrics, every 2 s", victoria_metrics, often, {}),
            ("VictoriaMetrics, every 15 s", victoria_metrics, seldom, {}),
            ("stopped and killed twice", prometheus, often, {}),
            ("out_of_order_time_window", narrow, often, {}),
            ("sample_limit", prometheus, often, {"sample_limit": 50}),
        ]
        scrapers = [
            connected(servers, directory, exporter, number, name, start, pace.interval_s, **more)
            for number, (name, start, pace, more) in enumerate(rows, 1)
        ]
        twice = scrapers[2]
        for scraper in scrapers:
            wait_until(lambda proxy=scraper.proxy: len(proxy.exchanges) > 1, scraper.name, 90)  # type: ignore[misc]
        for _ in range(3):
            disturb(killed_at_its_request, scrapers[:2], reference, seldom, lambda _: None)
        disturb(dead_for_a_while, [scrapers[3]], reference, often, lambda _: None)
        for _ in range(2):
            twice.end_of_life()
            twice.faults.append(stopped_at_its_request_and_killed.__name__)
            stopped_at_its_request_and_killed([twice], reference, often)
        return finished(scrapers, reference, seldom, scrape(exporter), print)


def _key(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels["__name__"], labels["gpu"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--interval", type=float, default=15.0)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--down", type=float, default=120.0)
    parser.add_argument("--stopped", type=float, default=30.0)
    parser.add_argument("--lost", action="store_true")
    options = parser.parse_args()
    pace = Pace(options.interval, options.down, options.stopped)
    with tempfile.TemporaryDirectory() as directory, FakeDriver(Path(directory), gpus=options.gpus) as driver:
        if options.lost:
            print(HEADER, *lost(Path(directory), driver), sep="\n")
            return 0
        results = run(Path(directory), driver, pace, [*KILLS, *MORE_KILLS], options.seconds)
    print(HEADER, *results, sep="\n")
    lossless = all(result.lossless for result in results)
    print("met" if lossless else "MISSED")
    return 0 if lossless else 1


if __name__ == "__main__":
    sys.exit(main())
