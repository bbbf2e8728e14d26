"""A driver that goes and comes, with other counters and other numbers."""

import time
from itertools import pairwise

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    COVERED,
    ERRORS,
    GPU_GAUGES,
    INFO,
    NVML,
    POWER,
    STAMP,
    ZEUS,
    Begin,
    accounted,
    all_read,
    gone_in_time,
    with_zeus,
)
from tests.llem_exporter.page import history


def test_a_driver_loaded_anew_is_read_on(begin: Begin, steady: FakeDriver) -> None:
    """Gone with the driver, back with it: the hardware's counter restarts from 0, ours goes on."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.unload()
    fault_s = time.monotonic()
    for gpu in ("0", "1", "2"):
        gone = gone_in_time(exporter, fault_s, gpu, GPU_GAUGES)
    assert len(gone.labels(NVML)) == len(gone.labels(ZEUS)) == len(gone.labels(INFO)) == 3
    assert gone.value(ERRORS, gpu="0", error="NVML_ERROR_UNINITIALIZED") >= 1
    steady.reload()
    reset_s = time.time()
    back = all_read(exporter)
    for gpu in ("0", "1", "2"):
        assert accounted(steady, before, back, gpu) >= time.monotonic() - fault_s - 1.5
        counted = back.value(ZEUS, gpu=gpu)
        assert counted < before.value(ZEUS, gpu=gpu)
        assert counted == pytest.approx(
            steady.exact_joules(int(gpu), reset_s, back.value(STAMP, gpu=gpu)), abs=30.0
        )
    falls = 0
    for readings in (history(exporter)["llem_gpu_zeus_energy_trace_joules_total", gpu] for gpu in "012"):
        falls += sum(after < ahead for (_, ahead), (_, after) in pairwise(readings))
    assert falls == 3  # the driver's own reset, once a GPU


def test_gpus_numbered_anew_keep_their_joules(begin: Begin, steady: FakeDriver) -> None:
    """GPUs 0 and 2 change places over a reload: each UUID goes on with its own power under its new number."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    first, last = steady.gpus[0], steady.gpus[2]
    uuids = first.uuid, last.uuid
    steady.unload()
    time.sleep(1.2)
    last.uuid, first.uuid = uuids
    watts = first.load.low_watts, last.load.low_watts
    first.set_load(low_watts=watts[1], high_watts=watts[1])
    last.set_load(low_watts=watts[0], high_watts=watts[0])
    steady.reload()
    back = all_read(exporter)
    for uuid, number, power in ((uuids[0], "2", watts[0]), (uuids[1], "0", watts[1])):
        assert back.value(POWER, gpu=number) == power
        assert back.value(INFO, uuid=uuid, gpu=number) == 1
        joules = back.value(NVML, uuid=uuid) - before.value(NVML, uuid=uuid)
        covered_s = back.value(COVERED, uuid=uuid) - before.value(COVERED, uuid=uuid)
        assert joules == pytest.approx(power * covered_s, rel=1e-6)
        assert len(back.labels(NVML, uuid=uuid)) == len(back.labels(ZEUS, uuid=uuid)) == 1


def test_a_gpu_that_was_lost_at_the_start_and_has_another_number_now(
    begin: Begin, steady: FakeDriver
) -> None:
    """It joins under its own UUID, and none is read twice."""
    first, second = steady.gpus[0], steady.gpus[1]
    second.lost = True
    exporter = begin()
    with_zeus(exporter, 2)
    steady.unload()
    time.sleep(1.2)
    second.lost = False
    first.uuid, second.uuid = second.uuid, first.uuid
    steady.reload()
    shown = with_zeus(exporter, 3)
    assert {(labels["gpu"], labels["uuid"]) for labels in shown.labels(POWER)} == {
        (str(gpu.index), gpu.uuid) for gpu in steady.gpus
    }
    assert len(shown.labels(INFO)) == len(shown.labels(NVML)) == 3


def test_a_driver_that_is_replaced_ends_the_process(begin: Begin, steady: FakeDriver) -> None:
    """Its library is the old one for as long as it lives: one line, status 1, and a new process reads."""
    exporter = begin()
    before = with_zeus(exporter)
    steady.replaced = True
    steady.reload()
    assert exporter.process.wait(10) == 1
    assert "Error: the NVIDIA driver was replaced" in exporter.log().splitlines()[-1]
    steady.replaced = False
    exporter.start()
    after = with_zeus(exporter)
    assert [after.value(ZEUS, gpu=gpu) < before.value(ZEUS, gpu=gpu) for gpu in "012"] == [True] * 3


def test_the_zeus_counter_goes_on_over_a_restart(begin: Begin, steady: FakeDriver) -> None:
    """Killed with -9 and started again: what was used meanwhile is in the counter, ours starts at 0."""
    exporter = begin()
    before = with_zeus(exporter)
    exporter.kill()
    time.sleep(1)
    exporter.start()
    after = with_zeus(exporter)
    for gpu in ("0", "1", "2"):
        true = steady.exact_joules(int(gpu), before.value(STAMP, gpu=gpu), after.value(STAMP, gpu=gpu))
        assert true > 100
        assert after.value(ZEUS, gpu=gpu) - before.value(ZEUS, gpu=gpu) == pytest.approx(true, abs=2.0)
        assert after.value(NVML, gpu=gpu) < true
