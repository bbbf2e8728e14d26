"""The hand-over of /history to real servers that are killed, stopped and disconnected while they scrape.

This is a short version of tests/bench/bench_handover.py. All tests use one run of about a minute. The run has
Prometheus 2 and, with --full, Prometheus 3 and VictoriaMetrics.
"""

import pytest

from tests.bench.bench_handover import (
    Pace,
    Result,
    all_stores,
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

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, Result]:
    """Return the result of each scraper. The keys are "SERVER, left alone" and "SERVER, disturbed"."""
    base, stores = tmp_path_factory.mktemp("handover"), all_stores(full=pytestconfig.getoption("--full"))
    with FakeDriver(base, gpus=GPUS) as driver:
        return {
            result.scraper.name: result
            for result in run(base, driver, PACE, KILLS, at_least_s=0, stores=stores)
        }


@pytest.fixture
def left_alone(results: dict[str, Result], prometheus_release: PrometheusRelease) -> Result:
    return results[f"Prometheus {prometheus_release.version}, left alone"]


@pytest.fixture
def disturbed(results: dict[str, Result], prometheus_release: PrometheusRelease) -> Result:
    return results[f"Prometheus {prometheus_release.version}, disturbed"]


def test_every_sample_is_stored_once_and_nothing_is_dropped(left_alone: Result) -> None:
    """An undisturbed server stores each sample once, over one connection, without a repeated response."""
    assert left_alone.lossless, left_alone
    assert left_alone.expected > 20 * 10 * SAMPLES_PER_TICK
    scraper = left_alone.scraper
    assert (left_alone.drops, scraper.repeated_responses(), scraper.proxy.connections) == (0, 0, 1)


def test_faults_inside_the_exchange_cost_no_sample(disturbed: Result) -> None:
    """A server that was stopped, killed, restarted and disconnected stores each sample once."""
    assert disturbed.lossless, disturbed
    assert len(disturbed.scraper.faults) == 5


def test_a_fault_repeats_one_response_at_most(disturbed: Result) -> None:
    """For each fault, the server drops at most the samples of one response as duplicates."""
    scraper = disturbed.scraper
    assert scraper.repeated_responses() <= len(scraper.faults)
    assert 0 < disturbed.drops <= scraper.repeated_ticks() * SAMPLES_PER_TICK


def test_a_response_that_was_not_read_to_its_end_comes_again(disturbed: Result) -> None:
    """After a reconnect, the next response contains all samples of a response that was not fully read."""
    exchanges = disturbed.scraper.proxy.exchanges
    unread = [number for number, exchange in enumerate(exchanges) if exchange.disturbed]
    assert len(unread) == 4
    for number in unread:
        if exchanges[number].connection != exchanges[number + 1].connection:
            assert set(exchanges[number].times_ms) <= set(exchanges[number + 1].times_ms)


@pytest.mark.full
@pytest.mark.parametrize("what", ["left alone", "disturbed"])
def test_victoria_metrics_has_every_sample_once(results: dict[str, Result], what: str) -> None:
    """With honor_timestamps, VictoriaMetrics stores each sample once, with one exception.

    If version 1.79 is stopped for longer than its timeout, it may read the whole response, discard it, and
    keep the connection. The exporter cannot detect this loss.
    """
    result = results[f"VictoriaMetrics, {what}"]
    stopped = [exchange for exchange in result.scraper.proxy.exchanges if exchange.disturbed][1:]
    discarded = sum(len(exchange.times_ms) for exchange in stopped) * SAMPLES_PER_TICK
    assert result.missing in {0, discarded}, result
    assert (result.expected > 0, result.not_once) == (True, 0)
