"""Is every 100 ms sample in the store, once, whatever happens to the exchange? On real servers.

python tests/bench/bench_handover.py [--seconds 600] [--interval 15] [--gpus 8] [--down 120] [--stopped 30]
python tests/bench/bench_handover.py --lost

One exporter on the fake driver is scraped at once by every Prometheus there is and by VictoriaMetrics, twice
each: one is left alone, the other is disturbed inside its exchange with the exporter, by a proxy between
them (each server has its own proxy, scraper ID and source address). The reference is the exporter's own log:
/history?since=..., pulled all the while. Compared are times and values of all series.

- "missing" and "not once" are samples of the reference that the store lacks, or has more than once.
- "drops" are the server's own counts of samples out of order, with a duplicate timestamp, out of bounds and
  beyond sample_limit, over all of its lives. "repeated" is what a response carried again.
- VictoriaMetrics is not killed here, as it keeps the newest samples in memory.

--lost shows, in two minutes and instead of that, what can still be lost: VictoriaMetrics killed with -9 as it
asks again, 2 s and 15 s after its last scrape; a Prometheus stopped and killed at two scrapes running, so
that the same samples were offered twice and read by nobody; an out_of_order_time_window shorter than the time
for which it was dead, over which Prometheus fails the whole scrape; a sample_limit below the answer.
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
    """Seconds: between scrapes, and how long servers are dead or stopped."""

    interval_s: float
    down_s: float
    stopped_s: float


class Reference:
    """The exporter's own log, in pulls that each begin where the last one ended."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._last_ms = 0
        self.log: Log = {}

    def pull(self) -> None:
        for key, points in history(self._exporter, f"{self._last_ms / 1000:.3f}").items():
            self.log.setdefault(key, []).extend(points)
        self._last_ms = max((points[-1][0] for points in self.log.values()), default=0)

    def sleep(self, seconds: float) -> None:
        """Pull meanwhile."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 5.0))
            self.pull()

    def until(self, end_ms: int) -> Log:
        return {key: [point for point in points if point[0] <= end_ms] for key, points in self.log.items()}


@dataclass
class Scraper:
    """A server that scrapes /history through a proxy; `faults` were done to it."""

    name: str
    store: Prometheus | VictoriaMetrics
    proxy: FaultProxy
    faults: list[str] = field(default_factory=list)
    drops_of_earlier_lives: int = 0

    def drops(self) -> int:
        """Samples that the server has dropped, by its own count, in all of its lives."""
        return self.drops_of_earlier_lives + self._drops_of_this_life()

    def end_of_life(self) -> None:
        """Note what this life has dropped; it is about to be killed."""
        self.drops_of_earlier_lives += self._drops_of_this_life()

    def _drops_of_this_life(self) -> int:
        if not isinstance(self.store, Prometheus):
            return 0
        page = MetricsPage(self.store.fetch_text("/metrics"))
        return sum(int(page.get(name) or 0) for name in DROPS)

    def stored(self, end_ms: int) -> Log:
        """Every sample of the traces up to a time, as the server has it."""
        series: Log = {}
        if isinstance(self.store, VictoriaMetrics):
            for row in self.store.export(TRACES):
                points = zip(row["timestamps"], row["values"], strict=True)
                # Where a scrape failed it puts a mark of staleness, which is exported as null.
                series[_key(row["metric"])] = [
                    (int(ms), float(x)) for ms, x in points if x is not None and ms <= end_ms
                ]
            return series
        for row in self.store.query(f"{TRACES}[2h]", end_ms / 1000):
            series[_key(row["metric"])] = [(round(1000 * t), float(x)) for t, x in row["values"]]
        return series

    def newest_ms(self) -> int:
        """The newest sample that was offered on a connection that still stands."""
        return max((ms for exchange in self.proxy.exchanges[-1:] for ms in exchange.times_ms), default=0)

    def repeated_responses(self) -> int:
        """How many responses carried samples that the one before had carried."""
        pairs = zip(self.proxy.exchanges, self.proxy.exchanges[1:], strict=False)
        return sum(not set(before.times_ms).isdisjoint(after.times_ms) for before, after in pairs)

    def repeated_ticks(self) -> int:
        """How many times of GPU 0's samples were carried again, however often."""
        carried = [ms for exchange in self.proxy.exchanges for ms in exchange.times_ms]
        return len(carried) - len(set(carried))


@dataclass(frozen=True, slots=True)
class Result:
    """What a scraper's store has of the reference."""

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
    """The samples of the reference against those of the store."""
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
    """SIGSTOP as the request arrives: the response is written, never read; then kill -9."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.REQUEST, scraper.store.stop)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def killed_in_the_middle(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """kill -9 when half of the response is out."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.MIDDLE, scraper.store.kill)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def killed_after_the_last_byte(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """kill -9 at once when all of the response is out: read or not, stored or not."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.END, scraper.store.kill)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def killed_at_its_request(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """kill -9 as the request arrives that confirms the last response: that one must have been stored."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.REQUEST, scraper.store.kill)
    _wait(scrapers, pace)
    _restart(scrapers)
    reference.pull()


def dead_for_a_while(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """kill -9 between two scrapes, and started again later: a backlog."""
    for scraper in scrapers:
        scraper.store.kill()
    reference.sleep(pace.down_s)
    _restart(scrapers)


def stopped_for_a_while(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """SIGSTOP as the request arrives, SIGCONT later: the scrape's own timeout is over by then."""
    for scraper in scrapers:
        scraper.proxy.arm(Moment.REQUEST, scraper.store.stop)
    _wait(scrapers, pace)
    reference.sleep(pace.stopped_s)
    for scraper in scrapers:
        scraper.store.cont()


def cut_in_the_middle(scrapers: Sequence[Scraper], reference: Reference, pace: Pace) -> None:
    """Both connections are closed when half of the response is out."""
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
    """One fault for each of them, and then a response that each has read."""
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
    """A server that scrapes through a proxy of its own, with an ID and from an address of its own."""
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
    """Start two of each server, the second of which is to be disturbed."""
    whats = [
        (f"{name}, {what}", start) for what in ("left alone", "disturbed") for name, start in stores.items()
    ]
    with ExitStack() as servers:
        yield [
            connected(servers, directory, exporter, number, name, start, interval_s)
            for number, (name, start) in enumerate(whats, 1)
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
    """Disturb all scrapers at once and return their results; `stores` is by default all of them."""
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
    """Compare, as soon as each has all up to now."""
    reference.pull()
    end_ms = max(points[-1][0] for points in reference.log.values())
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
    """VictoriaMetrics is asked to merge what comes again, by -dedup.minScrapeInterval=1ms."""
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
