"""Energy counters that stand still, whose calls are slow, or that change rarely."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import pytest

from llem_core import metrics
from llem_measure.sampling.counter import reader as counter_reader
from tests.fake_nvml import FakeDriver, default_load
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    ERRORS,
    NVML,
    POWER,
    SELECTED,
    STUCK,
    TOTAL,
    ZEUS,
    SteadyDriver,
    all_read,
    page_when,
)
from tests.llem_exporter.page import MetricsPage, history
from tests.servers import Exporter, wait_until

POWER_UPDATE, ENERGY_UPDATE = metrics.GPU_POWER_UPDATE.name, metrics.GPU_ENERGY_UPDATE.name
CALLS, TICK = metrics.NVML_CALL.name, metrics.SAMPLER_LAST_TICK.name
HEALTHY, ZERO, FROZEN, IDLE, UPDATE_100_MS, UPDATE_500_MS = "012345"
MOVING = {HEALTHY, IDLE, UPDATE_100_MS, UPDATE_500_MS}
ENERGY_CALL_SECONDS = 0.0024
"""Source: the median on an RTX 4090."""

LEAST_PERIOD_SECONDS = 0.85
"""A slow counter is read once a second. After a late one, the next comes up to 1.5 intervals early."""


@dataclass(frozen=True)
class Exporters:
    """Two exporters that run at the same time: one on GPUs of several kinds, one with slow energy calls."""

    driver: FakeDriver
    exporter: Exporter
    slow_driver: FakeDriver
    slow: Exporter


@dataclass(frozen=True)
class Recording:
    """Pages before two counters stood still, meanwhile, and after that; and the log."""

    before: MetricsPage
    stuck: MetricsPage
    back: MetricsPage
    log: str


@dataclass(frozen=True)
class SlowCalls:
    """How many energy calls were made between two unix times for each GPU, the last page, and the traces."""

    from_s: float
    to_s: float
    energy_calls: list[int]
    page: MetricsPage
    traces: dict[tuple[str, str], list[tuple[int, float]]]


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporters]:
    """Start both."""
    with ExitStack() as stack:
        driver = stack.enter_context(SteadyDriver(tmp_path_factory.mktemp("driver"), gpus=6))
        driver.gpus[int(ZERO)].reset_counter()
        driver.gpus[int(ZERO)].energy_stuck = "zero"
        driver.gpus[int(IDLE)].set_load(low_watts=3.0, high_watts=3.0)
        for gpu, update_s in ((UPDATE_100_MS, 0.1), (UPDATE_500_MS, 0.5)):
            fake = driver.gpus[int(gpu)]
            fake.update_period_s = fake.energy_update_period_s = update_s
            fake.set_load(default_load(fake.index))
        slow_driver = stack.enter_context(FakeDriver(tmp_path_factory.mktemp("slow"), gpus=8))
        for fake in slow_driver.gpus:
            fake.call_delays_s = {"energy": ENERGY_CALL_SECONDS}
        exporter, slow = (
            stack.enter_context(Exporter(env=each.env, args=["--no-collector.codecarbon"]))
            for each in (driver, slow_driver)
        )
        yield Exporters(driver, exporter, slow_driver, slow)


@pytest.fixture(scope="module")
def recording(exporters: Exporters) -> Recording:
    driver, exporter = exporters.driver, exporters.exporter
    before = all_read(exporter, 6)
    driver.gpus[int(FROZEN)].energy_stuck = "frozen"

    def is_stuck(page: MetricsPage) -> bool:
        counted = all(page.get(ERRORS, gpu=gpu, error=STUCK) for gpu in (ZERO, FROZEN))
        return counted and len(page.labels(POWER_UPDATE)) == 2

    stuck = page_when(exporter, is_stuck, "counters that are stuck, and the update periods")
    for gpu in (ZERO, FROZEN):
        driver.gpus[int(gpu)].energy_stuck = None
    return Recording(before, stuck, all_read(exporter, 6), exporter.log())


@pytest.fixture(scope="module")
def slow_calls(exporters: Exporters) -> SlowCalls:
    """Three seconds once the calls are known to be slow."""
    driver, exporter = exporters.slow_driver, exporters.slow
    wait_until(
        lambda: all(calls.energy > 2 * counter_reader.CALLS for calls in driver.calls()), "energy calls"
    )
    from_s, before = time.time(), driver.calls()
    page = page_when(exporter, lambda page: page.value(TICK) >= from_s + 3, "three seconds")
    after, to_s = driver.calls(), time.time()
    calls = [later.energy - earlier.energy for earlier, later in zip(before, after, strict=True)]
    return SlowCalls(from_s, to_s, calls, page, history(exporter))


def test_a_counter_that_stands_still_is_withheld(recording: Recording) -> None:
    """A counter at zero or frozen is no measurement: nvml is selected. At 3 W, a counter still moves."""
    page = recording.stuck
    assert {labels["gpu"] for labels in page.labels(ZEUS)} == MOVING
    assert {labels["gpu"] for labels in page.labels(ERRORS, error=STUCK)} == {ZERO, FROZEN}
    assert [page.value(AVAILABLE, backend=name) for name in ("zeus", "nvml")] == [0, 1]
    assert page.value(SELECTED, backend="nvml") == 1
    assert len(page.labels(POWER)) == 6
    assert recording.log.count("energy counter cannot be read: the counter has not changed for ") == 2


def test_the_counter_to_use_keeps_its_source(recording: Recording) -> None:
    """A counter that never moved is replaced by the power samples for good. One that stops is withheld."""
    assert recording.before.value(TOTAL, gpu=FROZEN, source="zeus") > 0
    assert recording.stuck.labels(TOTAL, gpu=FROZEN) == []
    for page in (recording.stuck, recording.back):
        assert page.value(TOTAL, gpu=ZERO, source="nvml") == page.value(NVML, gpu=ZERO)
        assert len(page.labels(TOTAL, gpu=ZERO)) == 1


def test_a_counter_that_moves_again_is_read_again(recording: Recording) -> None:
    """Once the counter moves, it is published, and zeus is selected."""
    assert recording.back.value(SELECTED, backend="zeus") == 1
    assert recording.back.value(TOTAL, gpu=FROZEN, source="zeus") == recording.back.value(ZEUS, gpu=FROZEN)
    assert recording.log.count("energy counter works again") == 2


def test_update_periods_are_measured(recording: Recording) -> None:
    """Sensor and counter change every 100 or 500 ms. A sensor at constant power has no known period."""
    for gpu, update_s in ((UPDATE_100_MS, 0.1), (UPDATE_500_MS, 0.5)):
        for name in (POWER_UPDATE, ENERGY_UPDATE):
            assert recording.back.value(name, gpu=gpu) == pytest.approx(update_s, rel=0.2), name
    assert recording.back.labels(POWER_UPDATE, gpu=HEALTHY) == []
    assert recording.back.value(ENERGY_UPDATE, gpu=HEALTHY) == pytest.approx(0.1, rel=0.2)


def test_slow_energy_calls_are_made_once_a_second(slow_calls: SlowCalls) -> None:
    """Power is read at every tick. The energy trace has the times at which the counter was read."""
    most = (slow_calls.to_s - slow_calls.from_s) / LEAST_PERIOD_SECONDS + 1
    for number, calls in enumerate(slow_calls.energy_calls):
        power, energy = (
            [ms for ms, _ in slow_calls.traces[spec.name, str(number)] if ms / 1000 >= slow_calls.from_s]
            for spec in (metrics.GPU_POWER_TRACE, metrics.GPU_ZEUS_TRACE)
        )
        assert 2 <= calls <= most
        assert min(later - earlier for earlier, later in pairwise(energy)) >= 1000 * LEAST_PERIOD_SECONDS
        assert set(energy) <= set(power)
        assert len(power) >= 4 * len(energy)  # 10 on a quiet machine


def test_a_slow_counter_stays_on_the_page(slow_calls: SlowCalls) -> None:
    """Between two readings of the counter, the page has the older one, and zeus is selected."""
    assert len(slow_calls.page.labels(ZEUS)) == 8
    assert slow_calls.page.value(SELECTED, backend="zeus") == 1


def test_each_kind_of_call_has_its_own_time(slow_calls: SlowCalls) -> None:
    """The energy calls take as long as the driver makes them. They do not count as calls for power."""
    page = slow_calls.page
    counts = {kind: page.value(f"{CALLS}_count", call=kind) for kind in ("power", "energy", "status")}
    assert page.value(f"{CALLS}_sum", call="energy") >= ENERGY_CALL_SECONDS * counts["energy"]
    assert counts["power"] > 2 * counts["energy"] > 0
    assert counts["status"] > 0
