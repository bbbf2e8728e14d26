"""A driver that is unloaded, reloaded, renumbered or replaced, and an exporter that is restarted."""

import time
from itertools import pairwise

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    COVERED,
    DURATION,
    ERRORS,
    GAP,
    GPU_GAUGES,
    INFO,
    LOST,
    NVML,
    POWER,
    STAMP,
    SUCCESS,
    TOO_SLOW,
    TOTAL,
    ZEUS,
    Begin,
    accounted,
    all_read,
    counter_slack,
    page_when,
    page_with,
    page_without,
    rise,
)
from tests.llem_exporter.page import MetricsPage, history
from tests.servers import Exporter, wait_until


def counts_from_reset(
    driver: FakeDriver, page: MetricsPage, gpu: str, from_unix_s: float, to_unix_s: float
) -> bool:
    """Return whether a hardware counter has the exact joules since a reset between these times."""
    slack, stamp_s = counter_slack(driver, page, gpu), page.value(STAMP, gpu=gpu)
    least, most = (driver.exact_joules(int(gpu), reset_s, stamp_s) for reset_s in (to_unix_s, from_unix_s))
    return least - slack <= page.value(ZEUS, gpu=gpu) <= most + slack


def test_a_reloaded_driver_is_read_again(shared_exporter: Exporter, shared_steady: FakeDriver) -> None:
    """While the driver is unloaded there are no gauges.

    The hardware counter restarts from 0, ours continues.
    """
    before = all_read(shared_exporter)
    shared_steady.unload()
    gone_s = time.time()
    gone = page_without(shared_exporter, *GPU_GAUGES)
    assert len(gone.labels(NVML)) == len(gone.labels(ZEUS)) == len(gone.labels(INFO)) == 3
    assert gone.labels(DURATION) == []
    assert gone.value(ERRORS, gpu="0", error="NVML_ERROR_UNINITIALIZED") >= 1
    reset_from_s = time.time()
    shared_steady.reload()
    reset_to_s = time.time()
    back = all_read(shared_exporter)
    for gpu in ("0", "1", "2"):
        assert accounted(shared_steady, before, back, gpu) >= reset_from_s - gone_s - 0.3
        assert counts_from_reset(shared_steady, back, gpu, reset_from_s, reset_to_s)
        since_s = before.value(STAMP, gpu=gpu) - 0.5
        counter = history(shared_exporter, since_s)["llem_gpu_zeus_energy_trace_joules_total", gpu]
        assert (
            sum(later < earlier for (_, earlier), (_, later) in pairwise(counter)) == 1
        )  # the driver's own reset


def test_gpus_that_are_renumbered_keep_their_joules(
    shared_exporter: Exporter, shared_steady: FakeDriver
) -> None:
    """If GPUs 0 and 2 swap their numbers in a reload, each UUID keeps its own counters."""
    before = all_read(shared_exporter)
    first, last = shared_steady.gpus[0], shared_steady.gpus[2]
    watts = {gpu.uuid: gpu.load.low_watts for gpu in (first, last)}
    shared_steady.unload()
    page_without(shared_exporter, *GPU_GAUGES)
    last.uuid, first.uuid = first.uuid, last.uuid
    for gpu in (first, last):
        gpu.set_load(low_watts=watts[gpu.uuid], high_watts=watts[gpu.uuid])
    shared_steady.reload()
    back = all_read(shared_exporter)
    for gpu in (first, last):
        uuid, number = gpu.uuid, str(gpu.index)
        assert back.value(POWER, gpu=number) == watts[uuid]
        assert back.value(INFO, uuid=uuid, gpu=number) == 1
        joules = back.value(NVML, uuid=uuid) - before.value(NVML, uuid=uuid)
        covered_s = back.value(COVERED, uuid=uuid) - before.value(COVERED, uuid=uuid)
        assert joules == pytest.approx(watts[uuid] * covered_s, rel=1e-6)
        assert len(back.labels(NVML, uuid=uuid)) == len(back.labels(ZEUS, uuid=uuid)) == 1


def test_an_nvml_that_hangs_while_it_is_reopened(
    shared_exporter: Exporter, shared_steady: FakeDriver
) -> None:
    """If nvmlInit hangs after a reload, pages are still served. The GPUs return when it ends."""
    before = all_read(shared_exporter)
    shared_steady.unload()
    shared_steady.init_hung = True
    shared_steady.reload()
    hung_s = time.time()
    shown = page_when(
        shared_exporter,
        lambda page: all(page.value(GAP, gpu=gpu) - before.value(GAP, gpu=gpu) >= 2 for gpu in "012"),
        "a gap",
    )
    assert shown.labels(POWER) == []
    assert shown.value(SUCCESS, collector="nvml") == 0
    shared_steady.init_hung, held_s = False, time.time() - hung_s
    back = all_read(shared_exporter)
    for gpu in ("0", "1", "2"):
        assert accounted(shared_steady, before, back, gpu) >= held_s - 0.3


def test_the_zeus_counter_goes_on_over_a_restart(
    shared_exporter: Exporter, shared_steady: FakeDriver
) -> None:
    """After SIGKILL and a restart, the hardware counter and the counter to use include the time between.

    The counter of the trapezoid starts at 0.
    """
    before = page_with(shared_exporter, TOTAL, 3, source="zeus")
    shared_exporter.kill()
    shared_exporter.start()
    after = page_with(shared_exporter, TOTAL, 3, source="zeus")
    for gpu in ("0", "1", "2"):
        true = shared_steady.exact_joules(int(gpu), before.value(STAMP, gpu=gpu), after.value(STAMP, gpu=gpu))
        slack = sum(counter_slack(shared_steady, page, gpu) for page in (before, after))
        assert rise(before, after, ZEUS, gpu) == pytest.approx(true, abs=slack)
        assert rise(before, after, TOTAL, gpu) == rise(before, after, ZEUS, gpu)
        assert after.value(NVML, gpu=gpu) < true


def test_a_gpu_that_was_lost_at_the_start_and_has_another_number_now(
    shared_exporter: Exporter, shared_steady: FakeDriver
) -> None:
    """A renumbered GPU joins under its own UUID. No GPU is read twice."""
    first, second = shared_steady.gpus[:2]
    shared_exporter.kill()
    second.lost = True
    shared_exporter.start()
    page_with(shared_exporter, ZEUS, 2)
    shared_steady.unload()
    page_without(shared_exporter, *GPU_GAUGES)
    second.lost = False
    first.uuid, second.uuid = second.uuid, first.uuid
    shared_steady.reload()
    shown = all_read(shared_exporter)
    assert {(labels["gpu"], labels["uuid"]) for labels in shown.labels(POWER)} == {
        (str(gpu.index), gpu.uuid) for gpu in shared_steady.gpus
    }
    assert len(shown.labels(INFO)) == len(shown.labels(NVML)) == 3


def test_a_replaced_driver_ends_the_process(shared_exporter: Exporter, shared_steady: FakeDriver) -> None:
    """If the driver is replaced, the exporter logs one line and exits with 1. A new process can read."""
    all_read(shared_exporter)
    shared_steady.replaced = True
    reset_from_s = time.time()
    shared_steady.reload()
    reset_to_s = time.time()
    assert shared_exporter.process.wait(60) == 1
    assert "Error: the NVIDIA driver was replaced" in shared_exporter.log().splitlines()[-1]
    shared_steady.replaced = False
    shared_exporter.start()
    after = all_read(shared_exporter)
    assert all(counts_from_reset(shared_steady, after, gpu, reset_from_s, reset_to_s) for gpu in "012")


def test_nvml_is_closed_before_it_is_reopened_once_all_gpus_are_lost(
    begin: Begin, steady: FakeDriver
) -> None:
    """NVML stays open while another GPU can be read. A GPU that was not asked for does not count."""
    exporter = begin("--no-collector.zeus", "--gpus", f"{steady.gpus[0].uuid},{steady.gpus[1].uuid}")
    page_with(exporter, POWER, 2)
    steady.gpus[0].lost = True
    page_when(exporter, lambda page: (page.get(ERRORS, gpu="0", error=LOST) or 0) >= 3, "two retries")
    assert steady.driver_calls().shutdown == 0
    steady.hung_calls = {"shutdown"}
    steady.gpus[1].lost = True
    wait_until(lambda: steady.driver_calls().shutdown, "nvmlShutdown")
    closing = steady.driver_calls()
    steady.gpus[0].lost = steady.gpus[1].lost = False
    page_with(exporter, ERRORS, 2, error=TOO_SLOW)
    assert steady.driver_calls().init == closing.init
    steady.hung_calls = frozenset()
    page_with(exporter, POWER, 2)
    assert steady.driver_calls().init > closing.init
