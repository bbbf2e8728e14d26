"""Nodes that are not a row of whole GPUs: MIG, superchips, CUDA_VISIBLE_DEVICES."""

import time

import pytest

from llem_core import metrics
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    COVERED,
    ERRORS,
    INFO,
    NVML,
    POWER,
    STAMP,
    ZEUS,
    Begin,
    page_with,
    rise,
    with_zeus,
)
from tests.llem_exporter.page import scrape

MIG = metrics.GPU_MIG_INFO.name


def test_mig_slices_are_named_and_the_power_is_there_once(begin: Begin, steady: FakeDriver) -> None:
    """No series of a slice has watts or joules: the sum over the node is that of the whole GPUs."""
    steady.gpus[1].mig_slices = 3
    exporter = begin()
    with_zeus(exporter)
    shown = page_with(exporter, MIG, 3)
    parent = steady.gpus[1].uuid.removeprefix("GPU-")[:-2]
    slices = [(labels["uuid"], labels["mig_uuid"], labels["profile"]) for labels in shown.labels(MIG)]
    assert sorted(slices) == [(steady.gpus[1].uuid, f"MIG-{parent}{n:02x}", "1g.9gb") for n in range(3)]
    for name in (POWER, NVML, ZEUS):
        assert len(shown.labels(name)) == 3
    assert sum(shown.value(POWER, gpu=gpu) for gpu in "012") == 600.0
    lines_of_slices = [line for line in shown.text.splitlines() if "MIG-" in line]
    assert all(line.startswith(MIG) for line in lines_of_slices)
    assert shown.labels(ERRORS) == []  # that a divided GPU has no utilization is no error
    assert shown.labels("llem_gpu_utilization_ratio", gpu="1") == []


def test_mig_slices_that_change_are_named_anew(begin: Begin, steady: FakeDriver) -> None:
    """Created and removed while the exporter runs; power goes on."""
    exporter = begin("--no-collector.zeus")
    page_with(exporter, POWER, 3)
    assert scrape(exporter).labels(MIG) == []
    steady.gpus[0].mig_slices = 2
    page_with(exporter, MIG, 2, gpu="0")
    steady.gpus[0].mig_slices = 1
    shown = page_with(exporter, MIG, 1, gpu="0")
    assert (shown.value(POWER, gpu="0"), shown.value("llem_gpu_gap_seconds_total", gpu="0")) == (100.0, 0)


def test_a_superchip_is_its_module(begin: Begin, steady: FakeDriver) -> None:
    """On a GH200 watts, our joules and the counter are all the module's, and the scope says so."""
    steady.gpus[0].module_watts = 80.0
    exporter = begin()
    first = with_zeus(exporter)
    assert first.value(INFO, gpu="0", scope="module") == 1
    assert first.value(INFO, gpu="1", scope="gpu") == 1
    assert [first.value(POWER, gpu=gpu) for gpu in "01"] == [180.0, 200.0]
    time.sleep(1)
    last = scrape(exporter)
    seconds = rise(first, last, STAMP, "0")
    assert rise(first, last, NVML, "0") == pytest.approx(180 * rise(first, last, COVERED, "0"))
    assert rise(first, last, ZEUS, "0") == pytest.approx(180 * seconds, abs=2.0)


@pytest.mark.parametrize("visible", ["1", "", "MIG-x"])
def test_cuda_visible_devices_hides_nothing(begin: Begin, steady: FakeDriver, visible: str) -> None:
    """Every GPU has its own counter, whatever CUDA may see."""
    exporter = begin(CUDA_VISIBLE_DEVICES=visible)
    first = with_zeus(exporter)
    time.sleep(1)
    last = scrape(exporter)
    for fake in steady.gpus:
        gpu = str(fake.index)
        joules = fake.load.low_watts * rise(first, last, STAMP, gpu)
        assert rise(first, last, ZEUS, gpu) == pytest.approx(joules, abs=2.0)
