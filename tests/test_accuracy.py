"""The short form of tests/bench/bench_accuracy.py: one node, 45 s, a Prometheus that scrapes every 5 s.

Its sensor follows at once, so the true joules must lie inside the bounds of every window. Limits of the error
are a few times the bench's: an edge weighs more in a shorter window, 45 s show few phases of the load, and on
a busy machine samples come late.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llem_integrator.window import Window
from tests.bench.accuracy import Outcome, Run, Way, finished_run, ways
from tests.bench.bench_accuracy import AT_ONCE, SHORT_PERIOD_SECONDS, p95, unlike_the_program

SCRAPE_SECONDS = 5.0
RUN_SECONDS = 45.0
WINDOWS = 40
ALL_WAYS = ways(SCRAPE_SECONDS)
OUR_WAYS = [way for way in ALL_WAYS if way.backend]


@dataclass(frozen=True)
class Short:
    """The run, its windows, and what every GPU came to in each of them by the name of the way."""

    run: Run
    windows: list[Window]
    outcomes: dict[str, list[Outcome]]

    def period_s(self, outcome: Outcome) -> float:
        return self.run.nodes[AT_ONCE.name].driver.gpus[outcome.gpu].load.period_s


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Short]:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng, directory = random.Random(seed), tmp_path_factory.mktemp("accuracy")
    with finished_run(directory, [AT_ONCE], seconds=RUN_SECONDS, scrape_s=SCRAPE_SECONDS, rng=rng) as run:
        windows = [window for s in (15.0, 22.5, 30.0) for window in run.windows(s, WINDOWS, rng)]
        node = run.nodes[AT_ONCE.name]
        yield Short(run, windows, {way.name: list(node.outcomes(way, windows)) for way in ALL_WAYS})


@pytest.mark.parametrize("way", OUR_WAYS, ids=lambda way: way.name)
def test_the_true_joules_lie_inside_the_bounds(short: Short, way: Way) -> None:
    """Of every window and GPU, by either backend and either page."""
    assert len(short.outcomes[way.name]) == 3 * WINDOWS * 8
    assert [one for one in short.outcomes[way.name] if not one.inside] == []


@pytest.mark.parametrize(("way", "limit"), [("zeus /history", 0.005), ("nvml /history", 0.03)])
def test_errors_by_history_are_small(short: Short, way: str, limit: float) -> None:
    """Whatever the scrape interval is: 95 of 100 windows of 15 to 30 s are this close."""
    assert p95(short.outcomes[way]) <= limit


def test_metrics_alone_come_closer_than_a_gauge(short: Short) -> None:
    """A counter scraped as rarely as the peer's gauge is far closer, for loads of short periods.

    Five times, at phases that were tried; twice is asked for, because 45 s show few of them.
    """

    def error(way: str) -> float:
        return p95([one for one in short.outcomes[way] if short.period_s(one) < SHORT_PERIOD_SECONDS])

    assert 2 * error("zeus /metrics") <= error("peer 5 s")


def test_the_program_gives_the_same(short: Short) -> None:
    """llem-integrate, asking the Prometheus itself, prints the same joules, bounds and coverage."""
    assert list(unlike_the_program(short.run, OUR_WAYS, short.windows[::WINDOWS])) == []
