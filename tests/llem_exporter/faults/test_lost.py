"""A GPU that falls off the bus."""

import time

import pytest

from llem_core import metrics
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    ERRORS,
    GPU_GAUGES,
    INFO,
    NVML,
    POWER,
    SAMPLES,
    STAMP,
    SUCCESS,
    ZEUS,
    Begin,
    accounted,
    all_read,
    gone_in_time,
    rise,
    with_zeus,
)
from tests.llem_exporter.page import scrape


def test_a_lost_gpu_leaves_the_page_and_comes_back(begin: Begin, steady: FakeDriver) -> None:
    """Its gauges go within a second, counters and info stay, it recovers by itself; nothing is invented."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.gpus[1].lost, fault_s = True, time.monotonic()
    shown = gone_in_time(exporter, fault_s, "1", GPU_GAUGES)
    for name in (NVML, ZEUS, SAMPLES):
        assert shown.value(name, gpu="1") >= before.value(name, gpu="1")
    assert shown.value(INFO, gpu="1") == 1
    assert shown.value(ERRORS, gpu="1", error="NVML_ERROR_GPU_IS_LOST") >= 1
    assert [shown.value(SUCCESS, collector=name) for name in ("nvml", "zeus")] == [0, 0]
    assert [shown.value(AVAILABLE, backend=name) for name in ("nvml", "zeus")] == [0, 0]
    assert [shown.get(POWER, gpu=gpu) for gpu in ("0", "2")] == [100.0, 300.0]
    time.sleep(0.8)
    steady.gpus[1].lost = False
    back = all_read(exporter)
    assert accounted(steady, before, back, "1") >= time.monotonic() - fault_s - 1.5
    assert [accounted(steady, before, back, gpu) for gpu in ("0", "2")] == [0, 0]
    true = steady.exact_joules(1, before.value(STAMP, gpu="1"), back.value(STAMP, gpu="1"))
    assert rise(before, back, ZEUS, "1") == pytest.approx(true, abs=2.0)


def test_where_all_are_lost_no_duration_is_left_of_their_readings(begin: Begin, steady: FakeDriver) -> None:
    """The time of a reading that no GPU gives is no more published than the reading."""
    exporter = begin()
    with_zeus(exporter)
    for gpu in steady.gpus:
        gpu.lost = True
    fault_s = time.monotonic()
    for gpu in steady.gpus:
        gone_in_time(exporter, fault_s, str(gpu.index), GPU_GAUGES)
    shown = scrape(exporter)
    assert shown.labels(metrics.COLLECTOR_DURATION.name) == []
    assert {labels["collector"] for labels in shown.labels(SUCCESS)} == {"nvml", "zeus"}
    for gpu in steady.gpus:
        gpu.lost = False
    assert len(all_read(exporter).labels(metrics.COLLECTOR_DURATION.name)) == 2
