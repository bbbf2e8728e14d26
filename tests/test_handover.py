"""The short form of tests/bench/bench_handover.py: real servers, disturbed while they scrape."""

import pytest

from tests.bench.bench_handover import (
    Pace,
    Result,
    dead_for_a_while,
    killed_in_the_middle,
    run,
    stopped_at_its_request_and_killed,
)
from tests.fake_nvml import FakeDriver
from tests.servers import PrometheusRelease

GPUS = 4
PACE = Pace(interval_s=2, down_s=3, stopped_s=4)
KILLS = (stopped_at_its_request_and_killed, killed_in_the_middle, dead_for_a_while)
SAMPLES_PER_TICK = 2 * GPUS


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What each scraper's store has, by "server, left alone" and "server, disturbed"; one run for all."""
    base = tmp_path_factory.mktemp("handover")
    with FakeDriver(base, gpus=GPUS) as driver:
        return {result.scraper.name: result for result in run(base, driver, PACE, KILLS, at_least_s=0)}


@pytest.fixture
def left_alone(results: dict[str, Result], prometheus_release: PrometheusRelease) -> Result:
    return results[f"Prometheus {prometheus_release.version}, left alone"]


@pytest.fixture
def disturbed(results: dict[str, Result], prometheus_release: PrometheusRelease) -> Result:
    return results[f"Prometheus {prometheus_release.version}, disturbed"]


def test_every_sample_is_stored_once_and_nothing_is_dropped(left_alone: Result) -> None:
    """Over one connection, with no response repeated."""
    assert left_alone.lossless, left_alone
    assert left_alone.expected > 20 * 10 * SAMPLES_PER_TICK
    scraper = left_alone.scraper
    assert (left_alone.drops, scraper.repeated_responses(), scraper.proxy.connections) == (0, 0, 1)


def test_faults_inside_the_exchange_cost_no_sample(disturbed: Result) -> None:
    """Stopped and killed, killed half-way, dead, cut and stopped: each sample is stored, and once."""
    assert disturbed.lossless, disturbed
    assert len(disturbed.scraper.faults) == 5


def test_a_fault_repeats_one_response_at_most(disturbed: Result) -> None:
    """And what the server drops, as it has it already, is no more than that."""
    scraper = disturbed.scraper
    assert scraper.repeated_responses() <= len(scraper.faults)
    assert 0 < disturbed.drops <= scraper.repeated_ticks() * SAMPLES_PER_TICK


def test_a_response_that_was_not_read_to_its_end_comes_again(disturbed: Result) -> None:
    """All of it, in the next one."""
    exchanges = disturbed.scraper.proxy.exchanges
    unread = [number for number, exchange in enumerate(exchanges) if exchange.disturbed]
    assert len(unread) == 4
    for number in unread:
        if exchanges[number].connection != exchanges[number + 1].connection:
            assert set(exchanges[number].times_ms) <= set(exchanges[number + 1].times_ms)


@pytest.mark.parametrize("what", ["left alone", "disturbed"])
def test_victoria_metrics_has_every_sample_once(results: dict[str, Result], what: str) -> None:
    """With honor_timestamps: left alone, and after its connection was cut and it was stopped.

    Stopped for longer than its timeout, 1.79 may read that one answer to its end, throw it away, and use the
    connection again: nothing shows that.
    """
    result = results[f"VictoriaMetrics, {what}"]
    stopped = [exchange for exchange in result.scraper.proxy.exchanges if exchange.disturbed][1:]
    thrown_away = sum(len(exchange.times_ms) for exchange in stopped) * SAMPLES_PER_TICK
    assert result.missing in {0, thrown_away}, result
    assert (result.expected > 0, result.not_once) == (True, 0)
