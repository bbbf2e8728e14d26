"""GPUs with MIG slices, a GPU with an odd name, and CUDA_VISIBLE_DEVICES in the environment."""

from collections.abc import Iterator

import pytest

from llem_core import metrics
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.pages import (
    COVERED,
    ERRORS,
    GAP,
    INFO,
    NVML,
    POWER,
    SAMPLES,
    STAMP,
    TOO_SLOW,
    ZEUS,
    SteadyDriver,
    all_read,
    counted_error,
    page_when,
    page_with,
    rise,
)
from tests.llem_exporter.page import MetricsPage, scrape
from tests.servers import Exporter

MIG = metrics.GPU_MIG_INFO.name
DIVIDED, ODDLY_NAMED, REDIVIDED = "0", "1", "2"
NAME = 'H"1\\0\n0'


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDriver]:
    """Three GPUs, each of another kind."""
    with SteadyDriver(tmp_path_factory.mktemp("driver"), gpus=3) as driver:
        driver.gpus[int(DIVIDED)].mig_slices = 3
        driver.gpus[int(ODDLY_NAMED)].name = NAME
        driver.gpus[int(REDIVIDED)].mig_slices = 2
        yield driver


@pytest.fixture(scope="module")
def exporter(mixed: FakeDriver) -> Iterator[Exporter]:
    """An exporter whose CUDA_VISIBLE_DEVICES hides all GPUs. A GPU's slices change once it has been read."""
    env = {**mixed.env, "CUDA_VISIBLE_DEVICES": "MIG-x"}
    with Exporter(env=env, args=["--no-collector.codecarbon"]) as exporter:
        page_with(exporter, MIG, 2, gpu=REDIVIDED)
        mixed.gpus[int(REDIVIDED)].mig_slices = 1
        yield exporter


@pytest.fixture(scope="module")
def span(exporter: Exporter) -> tuple[MetricsPage, MetricsPage]:
    """Two pages, at least a second apart."""
    first = all_read(exporter)
    return first, page_when(exporter, lambda page: rise(first, page, STAMP, DIVIDED) >= 1, "a second")


def test_mig_slices_are_named_and_the_power_is_there_once(exporter: Exporter, mixed: FakeDriver) -> None:
    """MIG slices have no watts or joules. The sum over the node is that of the whole GPUs."""
    shown = all_read(exporter)
    uuid = mixed.gpus[int(DIVIDED)].uuid
    slices = [
        (labels["uuid"], labels["mig_uuid"], labels["profile"]) for labels in shown.labels(MIG, gpu=DIVIDED)
    ]
    parent = uuid.removeprefix("GPU-")[:-2]
    assert sorted(slices) == [(uuid, f"MIG-{parent}{n:02x}", "1g.9gb") for n in range(3)]
    for name in (POWER, NVML, ZEUS):
        assert len(shown.labels(name)) == 3
    assert sum(shown.value(POWER, gpu=gpu) for gpu in "012") == 600.0
    lines_of_slices = [line for line in shown.text.splitlines() if "MIG-" in line]
    assert all(line.startswith(MIG) for line in lines_of_slices)
    # NVML does not support the utilization of a GPU with slices. That is not an error.
    assert {labels["error"] for labels in shown.labels(ERRORS)} <= {TOO_SLOW}
    assert shown.labels("llem_gpu_utilization_ratio", gpu=DIVIDED) == []


def test_every_counter_is_its_own_gpus_whatever_cuda_may_see(
    span: tuple[MetricsPage, MetricsPage], mixed: FakeDriver
) -> None:
    """CUDA_VISIBLE_DEVICES neither hides nor renumbers GPUs."""
    assert [counted_error(mixed, *span, gpu) for gpu in "012"] == [0.0] * 3


def test_labels_are_escaped(exporter: Exporter) -> None:
    """A GPU name may contain quotes, backslashes and newlines."""
    (labels,) = scrape(exporter).labels(INFO, gpu=ODDLY_NAMED)
    assert labels["name"] == NAME


def test_each_sample_costs_one_call_and_one_more_for_the_counter(
    exporter: Exporter, mixed: FakeDriver
) -> None:
    """A sample needs one call for power and one for the counter. Slow readings need calls once a second."""
    outer, calls = all_read(exporter), mixed.calls()
    first = scrape(exporter)
    last = page_when(exporter, lambda page: rise(first, page, SAMPLES, DIVIDED) >= 15, "samples")
    later_calls = mixed.calls()
    beyond = page_when(exporter, lambda page: rise(last, page, SAMPLES, DIVIDED) >= 1, "the next sample")
    for fake, before, after in zip(mixed.gpus, calls, later_calls, strict=True):
        gpu = str(fake.index)
        least, most = rise(first, last, SAMPLES, gpu), rise(outer, beyond, SAMPLES, gpu) + 1
        assert least <= after.fields - before.fields <= most
        assert least <= after.energy - before.energy <= most
        assert after.power == before.power
        assert 0 < after.slow - before.slow <= 12 * (rise(outer, beyond, STAMP, gpu) + 2)


@pytest.mark.full
def test_slices_that_change_are_named_anew(exporter: Exporter) -> None:
    """If MIG slices change while the exporter runs, the page shows them. Power has no gap."""
    shown = page_with(exporter, MIG, 1, gpu=REDIVIDED)
    assert shown.value(POWER, gpu=REDIVIDED) == 300.0
    assert shown.value(GAP, gpu=REDIVIDED) < shown.value(COVERED, gpu=REDIVIDED)
