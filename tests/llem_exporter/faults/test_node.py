"""A healthy node with all collectors, and what happens when CodeCarbon's process dies."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llem_core import metrics
from llem_core.metrics import METRICS_PAGE
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.collectors.test_carbon import kill_worker, worker_of
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    COVERED,
    DENIED,
    ERRORS,
    SELECTED,
    STAMP,
    SUCCESS,
    TOTAL,
    ZEUS,
    SteadyDriver,
    accounted,
    all_read,
    counted_error,
    page_when,
    page_with,
    rise,
)
from tests.servers import Exporter, wait_until

CARBON = metrics.CODECARBON_ENERGY.name


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDriver]:
    """Three GPUs, one of them with a MIG slice."""
    with SteadyDriver(tmp_path_factory.mktemp("driver"), gpus=3) as driver:
        driver.gpus[2].mig_slices = 1
        yield driver


@pytest.fixture(scope="module")
def exporter(driver: FakeDriver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter with Zeus, CodeCarbon with a country, and a job on GPU 0."""
    jobs = tmp_path_factory.mktemp("jobs")
    (jobs / driver.gpus[0].uuid).write_text("job_id=7\nuser=ada\n")
    args = ["--codecarbon.country-iso-code", "DEU", "--jobs.dir", str(jobs)]
    with Exporter(env=driver.env, args=args) as exporter:
        yield exporter


def test_a_healthy_node_shows_every_metric(exporter: Exporter, driver: FakeDriver) -> None:
    """The page has every metric, except for superchips and varying power. Joules match the exact joules."""
    first = all_read(exporter)
    page_with(exporter, metrics.CODECARBON_EMISSIONS.name)
    driver.gpus[0].denied = frozenset({"fields"})
    page_with(exporter, ERRORS, gpu="0", error=DENIED)
    driver.gpus[0].denied = frozenset()
    last = all_read(exporter)
    shown = last.names | {name.removesuffix("_count") for name in last.names}
    missing = {spec.name for spec in METRICS_PAGE} - shown
    assert missing == {metrics.GPU_MODULE_POWER.name, metrics.GPU_POWER_UPDATE.name}
    assert last.value(metrics.GPU_SM_CLOCK.name, gpu="0") == 1_755e6
    assert "process_resident_memory_bytes" in last.names
    assert [last.value(SELECTED, backend=name) for name in ("zeus", "nvml")] == [1, 0]
    assert last.value(AVAILABLE, backend="codecarbon") == 1
    for gpu in ("0", "1", "2"):
        accounted(driver, first, last, gpu)
        assert counted_error(driver, first, last, gpu) == 0
        assert last.value(TOTAL, gpu=gpu, source="zeus") == last.value(ZEUS, gpu=gpu)


def test_the_worker_inherits_no_socket(exporter: Exporter) -> None:
    """The worker holds no socket of the exporter, so the port is free when the exporter exits."""
    page_with(exporter, CARBON, 1, component="gpu")

    def sockets_of(pid: int) -> set[str]:
        links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
        return {link for link in links if link.startswith("socket:")}

    sockets = sockets_of(exporter.pid)
    assert sockets
    assert sockets & sockets_of(worker_of(exporter.pid)) == set()


def test_a_codecarbon_that_dies_stops_nothing_else(exporter: Exporter, driver: FakeDriver) -> None:
    """If CodeCarbon dies, its counters stay. GPUs are read without a gap, and zeus is selected."""
    before = page_with(exporter, CARBON, 1, component="gpu")
    kill_worker(exporter.pid)
    page_when(exporter, lambda page: page.value(SUCCESS, collector="codecarbon") == 0, "the failure")
    after = page_when(exporter, lambda page: rise(before, page, STAMP, "0") >= 1, "a second")
    assert after.value(AVAILABLE, backend="codecarbon") == 0
    assert [after.value(SELECTED, backend=name) for name in ("zeus", "codecarbon")] == [1, 0]
    assert after.value(CARBON, component="gpu") >= before.value(CARBON, component="gpu")
    for gpu in ("0", "1", "2"):
        gap_s = accounted(driver, before, after, gpu)
        assert gap_s < rise(before, after, COVERED, gpu)  # 0 on a quiet machine
    wait_until(lambda: "the CodeCarbon process ended with status -9" in exporter.log(), "the reason")


def test_an_interrupt_ends_it_cleanly(exporter: Exporter) -> None:
    """SIGINT gives exit status 0 and no traceback."""
    exporter.process.send_signal(signal.SIGINT)
    assert exporter.process.wait(60) == 0
    assert "Traceback" not in exporter.log()
