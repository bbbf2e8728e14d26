"""Readings that cannot be: 0 W, 10 kW, a counter that goes back. What they would add is never published."""

import time
from itertools import pairwise

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    ERRORS,
    INFO,
    PEAK,
    POWER,
    SLOW_GAUGES,
    STAMP,
    SUCCESS,
    ZEUS,
    Begin,
    accounted,
    all_read,
    gone_in_time,
    page_with,
    with_zeus,
)
from tests.llem_exporter.page import history, scrape


@pytest.mark.parametrize(("watts", "error"), [(0.0, "ZERO_POWER"), (10_000.0, "POWER_ABOVE_LIMIT")])
def test_power_that_cannot_be_is_a_gap(begin: Begin, steady: FakeDriver, watts: float, error: str) -> None:
    """No sample of it anywhere; its gauge goes, an error and one line name it; the counter is read on."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    since_s = time.time()
    steady.gpus[1].power_override_watts, fault_s = watts, time.monotonic()
    gone_in_time(exporter, fault_s, "1", [POWER])
    time.sleep(2)
    shown = scrape(exporter)
    assert shown.value(ERRORS, gpu="1", error=error) >= 10
    assert [shown.value(SUCCESS, collector=name) for name in ("nvml", "zeus")] == [0, 1]
    assert shown.value(SLOW_GAUGES[0], gpu="1") == 46
    steady.gpus[1].power_override_watts = None
    back = all_read(exporter)
    assert accounted(steady, before, back, "1") >= 1.9
    assert back.value(PEAK, gpu="1") == 200.0
    trace = history(exporter, f"{since_s:.3f}")["llem_gpu_power_trace_watts", "1"]
    assert {watts for _, watts in trace} == {200.0}
    true = steady.exact_joules(1, before.value(STAMP, gpu="1"), back.value(STAMP, gpu="1"))
    assert back.value(ZEUS, gpu="1") - before.value(ZEUS, gpu="1") == pytest.approx(true, abs=2.0)
    assert [accounted(steady, before, back, gpu) for gpu in ("0", "2")] == [0, 0]
    assert exporter.log().count("power cannot be read: it reads") == 1
    assert exporter.log().count("power is read again") == 1


def test_one_absurd_reading_is_bridged(begin: Begin, steady: FakeDriver) -> None:
    """Its neighbours are 200 ms apart, which is no gap."""
    exporter = begin("--no-collector.zeus", "--sample-interval", "1s")
    page_with(exporter, POWER, 3)
    before = scrape(exporter)
    steady.gpus[1].power_override_watts = 10_000.0
    page_with(exporter, ERRORS, gpu="1", error="POWER_ABOVE_LIMIT")
    steady.gpus[1].power_override_watts = None
    all_read(exporter)
    time.sleep(1.5)
    assert accounted(steady, before, scrape(exporter), "1") == 0


def test_a_spike_above_the_limit_is_a_sample(begin: Begin, steady: FakeDriver) -> None:
    """Twice the highest limit is still power."""
    exporter = begin("--no-collector.zeus")
    steady.gpus[1].power_override_watts = 1400.0
    time.sleep(0.5)
    shown = page_with(exporter, PEAK, 3)
    assert (shown.value(POWER, gpu="1"), shown.labels(ERRORS)) == (1400.0, [])


def test_a_sensor_that_fails_at_the_start(begin: Begin, steady: FakeDriver) -> None:
    """0 W from the first: no power source and an error; with its first watts it is read."""
    steady.gpus[1].power_override_watts = 0.0
    exporter = begin()
    shown = page_with(exporter, ERRORS, gpu="1", error="ZERO_POWER")
    assert shown.value(INFO, gpu="1", power_source="none") == 1
    steady.gpus[1].power_override_watts = None
    shown = page_with(exporter, POWER, 3)
    assert shown.value(INFO, gpu="1", power_source="instant") == 1


def test_a_counter_that_goes_back_a_little_is_withheld(begin: Begin, steady: FakeDriver) -> None:
    """Never published below where it was: a reset would add all of it; it is back when it is past that."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.gpus[1].step_counter(-500.0)
    shown = page_with(exporter, ERRORS, gpu="1", error="COUNTER_FELL")
    assert shown.get(ZEUS, gpu="1") is None
    assert [shown.value(SUCCESS, collector=name) for name in ("nvml", "zeus")] == [1, 0]
    back = all_read(exporter)
    true = steady.exact_joules(1, before.value(STAMP, gpu="1"), back.value(STAMP, gpu="1"))
    risen = back.value(ZEUS, gpu="1") - before.value(ZEUS, gpu="1")
    assert risen == pytest.approx(true - 500, abs=2.0)
    assert accounted(steady, before, back, "1") == 0
    readings = history(exporter)["llem_gpu_zeus_energy_trace_joules_total", "1"]
    assert all(ahead <= after for (_, ahead), (_, after) in pairwise(readings))
    assert exporter.log().count("energy counter cannot be read: it fell by") == 1


def test_a_counter_that_jumps_invents_nothing(begin: Begin, steady: FakeDriver) -> None:
    """More than the card can have drawn is withheld and an error; the next good value is a reading."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.gpus[1].step_counter(1e6)
    shown = page_with(exporter, ERRORS, gpu="1", error="COUNTER_JUMPED")
    assert shown.get(ZEUS, gpu="1") is None
    assert [shown.value(SUCCESS, collector=name) for name in ("nvml", "zeus")] == [1, 0]
    steady.gpus[1].step_counter(-1e6)
    back = all_read(exporter)
    true = steady.exact_joules(1, before.value(STAMP, gpu="1"), back.value(STAMP, gpu="1"))
    assert back.value(ZEUS, gpu="1") - before.value(ZEUS, gpu="1") == pytest.approx(true, abs=2.0)


def test_a_counter_that_falls_for_one_reading_invents_nothing(begin: Begin, steady: FakeDriver) -> None:
    """Down by all of it and up again, as by a bad read: withheld, and never taken for a restart."""
    exporter = begin("--sample-interval", "2s")
    with_zeus(exporter)
    before = all_read(exporter)
    whole = before.value(ZEUS, gpu="1") // 1
    steady.gpus[1].step_counter(-whole)
    shown = page_with(exporter, ERRORS, gpu="1", error="COUNTER_FELL")
    steady.gpus[1].step_counter(whole)
    assert shown.get(ZEUS, gpu="1") is None
    back = all_read(exporter)
    true = steady.exact_joules(1, before.value(STAMP, gpu="1"), back.value(STAMP, gpu="1"))
    assert back.value(ZEUS, gpu="1") - before.value(ZEUS, gpu="1") == pytest.approx(true, abs=2.0)
    readings = history(exporter)["llem_gpu_zeus_energy_trace_joules_total", "1"]
    assert all(ahead <= after for (_, ahead), (_, after) in pairwise(readings))


def test_a_counter_that_restarts_is_published_as_it_is(begin: Begin, steady: FakeDriver) -> None:
    """A GPU's reset without a reload: from 0 on, as soon as it is seen to rise."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    reset_s = steady.gpus[1].reset_counter()
    time.sleep(1)
    shown = all_read(exporter)
    true = steady.exact_joules(1, reset_s, shown.value(STAMP, gpu="1"))
    assert shown.value(ZEUS, gpu="1") == pytest.approx(true, abs=2.0)
    assert {labels["error"] for labels in shown.labels(ERRORS)} == {"COUNTER_FELL"}
    assert shown.value(ERRORS, gpu="1") <= 5
    assert accounted(steady, before, shown, "1") == 0
