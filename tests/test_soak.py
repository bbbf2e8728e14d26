"""A short version of tests/bench/bench_soak.py: a minute of faults and attacks."""

import pytest

from tests.bench.bench_soak import run
from tests.bench.soak_figures import Limits

SECONDS = 60.0
SEED = 20_260_131
FIGURES = {
    "scrapes of /metrics",
    "scrapes of /history",
    "Prometheus' scrapes",
    "samples had by ID",
    "integrated + gap = elapsed",
    "counter = trapezoid, to bits",
    "stale gauges",
    "GPUs that came back",
    "descriptors at rest",
    "windows by zeus",
    "windows by nvml",
    "the log",
    "its end",
}
SPEED_FIGURES = {
    "lateness of well GPUs",
    "ticks of well GPUs",
    "GPUs beside a hang",
    "memory (own)",
    "memory (RSS)",
}
"""Figures that a busy machine or a short run changes; only the bench judges them."""


@pytest.mark.full
@pytest.mark.slow
def test_a_minute_of_faults_and_attacks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A minute of faults and attacks loses no scrape, no joule and no descriptor."""
    # Wider than the bench's: a busy machine delays scrapes and samples, but it must not lose any.
    limits = Limits(scrape_s=10.0, unaccounted_s=1.0)
    figures = run(tmp_path_factory.mktemp("soak"), SECONDS, SEED, windows=40, limits=limits, report=print)
    assert {figure.name for figure in figures} == FIGURES | SPEED_FIGURES
    missed = [str(figure) for figure in figures if not figure.holds]
    print(*missed, sep="\n")
    assert [figure for figure in figures if figure.name in FIGURES and not figure.holds] == []
