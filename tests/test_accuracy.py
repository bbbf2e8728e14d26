"""A short version of tests/bench/bench_accuracy.py: one node, 45 s, a Prometheus that scrapes every 5 s.

The sensor has no delay, so the bounds of every window contain the exact joules, even on a busy machine. The
benchmark measures the size of the errors.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llem_integrator.windows.window import Window
from tests.bench.accuracy import Outcome, Run, Way, finished_run, ways
from tests.bench.bench_accuracy import AT_ONCE, unlike_the_program

SCRAPE_SECONDS = 5.0
RUN_SECONDS = 45.0
WINDOWS = 40
OUR_WAYS = [way for way in ways(SCRAPE_SECONDS) if way.backend]

pytestmark = [pytest.mark.full, pytest.mark.slow]


@dataclass(frozen=True)
class Short:
    """The run, its windows, and the outcomes of every GPU and window, by the name of the way to measure."""

    run: Run
    windows: list[Window]
    outcomes: dict[str, list[Outcome]]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Short]:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng, directory = random.Random(seed), tmp_path_factory.mktemp("accuracy")
    with finished_run(directory, [AT_ONCE], seconds=RUN_SECONDS, scrape_s=SCRAPE_SECONDS, rng=rng) as run:
        windows = [window for s in (15.0, 22.5, 30.0) for window in run.windows(s, WINDOWS, rng)]
        node = run.nodes[AT_ONCE.name]
        yield Short(run, windows, {way.name: list(node.outcomes(way, windows)) for way in OUR_WAYS})


@pytest.mark.parametrize("way", OUR_WAYS, ids=lambda way: way.name)
def test_the_true_joules_lie_inside_the_bounds(short: Short, way: Way) -> None:
    """The bounds of every window and GPU contain the exact joules, for both backends and both pages."""
    assert len(short.outcomes[way.name]) == 3 * WINDOWS * 8
    assert [outcome for outcome in short.outcomes[way.name] if not outcome.inside] == []


def test_the_program_gives_the_same(short: Short) -> None:
    """llem-integrate, with the same Prometheus, prints the same joules, bounds and coverage."""
    assert list(unlike_the_program(short.run, OUR_WAYS, short.windows[::WINDOWS])) == []
