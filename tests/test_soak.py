"""The short form of tests/bench/bench_soak.py: a minute of faults and attacks."""

import pytest

from tests.bench.bench_soak import run
from tests.bench.soak_figures import Figure, Limits

SECONDS = 60.0
SEED = 20_260_131
NAMES = (
    "scrapes of /metrics",
    "scrapes of /history",
    "Prometheus' scrapes",
    "samples had by ID",
    "integrated + gap = elapsed",
    "counter = trapezoid, to bits",
    "stale gauges",
    "GPUs that came back",
    "lateness of well GPUs",
    "ticks of well GPUs",
    "memory (own)",
    "memory (RSS)",
    "descriptors at rest",
    "windows by zeus",
    "windows by nvml",
    "the log",
    "its end",
)

LIMITS = Limits(growth=0.05, late_s=0.1, lost_ticks=0.01, scrape_s=5.0, as_timer=True)
"""Wider than the bench's. In a minute the process has not met all of its code, so its memory still grows. And
the suite runs beside others on few cores, on which all wait at times: here a lost sample is a failure, a late
one is none, nor is a scrape that takes long."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    """What a minute has shown, by name; one run for all."""
    said: list[str] = []
    found = run(
        tmp_path_factory.mktemp("soak"),
        SECONDS,
        SEED,
        windows=40,
        limits=LIMITS,
        report=said.append,
    )
    print(*said, *found, sep="\n")
    return {figure.name: figure for figure in found}


@pytest.mark.parametrize("name", NAMES)
def test_a_minute_of_faults_and_attacks(figures: dict[str, Figure], name: str) -> None:
    """Each figure holds, and there is no other."""
    assert set(figures) == set(NAMES)
    assert figures[name].holds, figures[name]
