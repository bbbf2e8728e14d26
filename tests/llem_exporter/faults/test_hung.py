"""Calls of the driver's that do not return, or take their time."""

import time

import pytest

from llem_core import metrics
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    COVERED,
    ERRORS,
    GAP,
    GPU_GAUGES,
    POWER,
    SAMPLES,
    STAMP,
    SUCCESS,
    ZEUS,
    Begin,
    accounted,
    all_read,
    gone_in_time,
    page_with,
    rise,
    with_zeus,
)
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.servers import wait_until

LATENESS = metrics.SAMPLER_LATENESS.name


def late(first: MetricsPage, last: MetricsPage, over_s: float) -> tuple[float, float]:
    """How many reads there were between two pages, and how many were later than `over_s`."""
    counts = [page.value(f"{LATENESS}_count") for page in (first, last)]
    within = [page.value(f"{LATENESS}_bucket", le=str(over_s)) for page in (first, last)]
    reads = counts[1] - counts[0]
    return reads, reads - (within[1] - within[0])


def test_a_gpu_that_hangs_stops_no_other_and_not_the_end(begin: Begin, steady: FakeDriver) -> None:
    """The others keep their ticks, /history goes on, and SIGTERM ends the process within 2 s."""
    exporter = begin()
    with_zeus(exporter)
    steady.gpus[2].hung, fault_s = True, time.monotonic()
    before = gone_in_time(exporter, fault_s, "2", GPU_GAUGES)
    assert before.value(SUCCESS, collector="nvml") == 0
    since_s = time.time()
    time.sleep(3)
    after = scrape(exporter)
    for gpu in ("0", "1"):
        ticks = 10 * rise(before, after, STAMP, gpu)
        assert ticks >= 25
        assert rise(before, after, SAMPLES, gpu) == pytest.approx(ticks, abs=2)
        assert accounted(steady, before, after, gpu) == 0
    reads, late_reads = late(before, after, 0.05)
    assert reads >= 50
    assert late_reads <= 0.05 * reads
    assert after.value(SAMPLES, gpu="2") == before.value(SAMPLES, gpu="2")
    assert after.value(GAP, gpu="2") >= 3
    assert len(history(exporter, f"{since_s:.3f}")["llem_gpu_power_trace_watts", "0"]) >= 25
    assert after.value(ERRORS, gpu="2", error="READ_TOO_SLOW") == 1
    assert exporter.log().count("does not return") == 1
    started_s = time.monotonic()
    assert exporter.terminate() == 0
    assert time.monotonic() - started_s < 2


def test_a_hang_is_told_while_it_lasts_and_when_it_is_over(begin: Begin, steady: FakeDriver) -> None:
    """An error and one line each, counted once however long it takes."""
    exporter = begin("--no-collector.zeus")
    all_read(exporter)
    steady.gpus[1].hung = True
    page_with(exporter, ERRORS, gpu="1", error="READ_TOO_SLOW")
    assert (
        exporter.log().count("GPU 1 (") == exporter.log().count("a call of the driver's does not return") == 1
    )
    time.sleep(2)
    steady.gpus[1].hung = False
    after = all_read(exporter)
    wait_until(lambda: exporter.log().count("the driver's call has returned") == 1, "the end in the log")
    assert after.value(ERRORS, gpu="1", error="READ_TOO_SLOW") == 1


def test_a_hung_call_that_ends_is_no_sample(begin: Begin, steady: FakeDriver) -> None:
    """Nobody knows its time: it is an error, and the hang a gap; from then on it is read as before."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.gpus[0].hung = True
    time.sleep(1.7)
    steady.gpus[0].hung = False
    after = all_read(exporter)
    errors = {labels["error"] for labels in after.labels(ERRORS, gpu="0")}
    assert errors & {"READ_TOO_SLOW", "NVML_ERROR_TIMEOUT"}
    assert accounted(steady, before, after, "0") >= 1.4
    true = steady.exact_joules(0, before.value(STAMP, gpu="0"), after.value(STAMP, gpu="0"))
    assert rise(before, after, ZEUS, "0") == pytest.approx(true, abs=2.0)


def test_slow_calls_leave_the_grid_and_no_gap(begin: Begin, steady: FakeDriver) -> None:
    """50 ms a call: samples carry their own times, nothing is uncovered, no other GPU is held up."""
    exporter = begin()
    with_zeus(exporter)
    steady.gpus[1].slow_call_s = 0.05
    time.sleep(0.5)
    before = scrape(exporter)
    time.sleep(2)
    after = scrape(exporter)
    for gpu in ("0", "1", "2"):
        assert accounted(steady, before, after, gpu) == 0
    assert rise(before, after, SAMPLES, "0") == pytest.approx(10 * rise(before, after, STAMP, "0"), abs=2)
    assert rise(before, after, COVERED, "1") >= 1.5
    assert after.labels(ERRORS) == []


def test_an_nvml_that_hangs_while_it_is_opened_anew(begin: Begin, steady: FakeDriver) -> None:
    """After a reload nvmlInit does not return: pages are answered, and when it does the GPUs are back."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.unload()
    steady.init_hung = True
    steady.reload()
    time.sleep(2.5)
    asked_s = time.monotonic()
    shown = scrape(exporter)
    assert time.monotonic() - asked_s < 0.5
    assert shown.labels(POWER) == []
    assert shown.value(SUCCESS, collector="nvml") == 0
    assert shown.value(GAP, gpu="1") >= 2
    steady.init_hung = False
    back = all_read(exporter)
    for gpu in ("0", "1", "2"):
        assert accounted(steady, before, back, gpu) >= 2
