"""Zeus or CodeCarbon failing: at import, at the start, in the middle. The rest goes on."""

import os
import signal
import time
from pathlib import Path

import pytest

from llem_core import metrics
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    POWER,
    SUCCESS,
    ZEUS,
    Begin,
    accounted,
    all_read,
    page_with,
    with_zeus,
)
from tests.llem_exporter.page import scrape
from tests.llem_exporter.test_carbon import worker_of
from tests.servers import wait_until

CARBON = metrics.CODECARBON_ENERGY.name


def broken(folder: Path, package: str) -> str:
    """A path on which this package is found and cannot be imported."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("raise ImportError('built for another Python')\n")
    return str(folder)


def test_zeus_that_cannot_be_imported(begin: Begin, steady: FakeDriver, tmp_path: Path) -> None:
    """The log says why there are no counters, its collector fails; power goes on."""
    exporter = begin(PYTHONPATH=broken(tmp_path, "zeus"))
    wait_until(lambda: "built for another Python" in exporter.log(), "the reason")
    before = page_with(exporter, POWER, 3)
    assert before.value(AVAILABLE, backend="zeus") == 0
    assert before.value(SUCCESS, collector="zeus") == 0
    assert [before.value("llem_backend_selected", backend=name) for name in ("zeus", "nvml")] == [0, 1]
    time.sleep(0.5)
    after = scrape(exporter)
    assert [accounted(steady, before, after, gpu) for gpu in "012"] == [0, 0, 0]


def test_zeus_that_cannot_read_a_counter_at_the_start(begin: Begin, steady: FakeDriver) -> None:
    """Its collector fails and the log says why; the counter joins when it can be read."""
    steady.gpus[1].denied = frozenset({"energy"})
    exporter = begin()
    shown = page_with(exporter, ZEUS, 2)
    assert shown.value(SUCCESS, collector="zeus") == 0
    assert shown.value(SUCCESS, collector="nvml") == 1
    assert "GPU 1: its energy counter cannot be opened yet: NVML_ERROR_NO_PERMISSION" in exporter.log()
    steady.gpus[1].denied = frozenset()
    assert with_zeus(exporter, 3).value(SUCCESS, collector="zeus") == 1


def test_codecarbon_that_cannot_be_imported(start: StartExporter, steady: FakeDriver, tmp_path: Path) -> None:
    """The log says why, its collector fails; power and counters go on."""
    exporter = start(driver=steady, PYTHONPATH=broken(tmp_path, "codecarbon"))
    wait_until(lambda: "built for another Python" in exporter.log(), "the reason")
    shown = with_zeus(exporter)
    assert shown.value(AVAILABLE, backend="codecarbon") == 0
    assert shown.value(SUCCESS, collector="codecarbon") == 0
    assert shown.labels(CARBON) == []
    assert shown.value("llem_backend_selected", backend="zeus") == 1


def test_codecarbon_that_dies_in_the_middle(start: StartExporter, steady: FakeDriver) -> None:
    """Its collector fails at once, what it had counted stays; no GPU has a gap."""
    exporter = start(driver=steady)
    before = page_with(exporter, CARBON, 1, component="gpu")
    all_read(exporter)
    os.kill(worker_of(exporter.pid), signal.SIGKILL)

    def failed() -> bool:
        return scrape(exporter).value(SUCCESS, collector="codecarbon") == 0

    wait_until(failed, "the failure", 2)
    time.sleep(0.5)
    after = scrape(exporter)
    assert after.value(AVAILABLE, backend="codecarbon") == 0
    assert after.value(CARBON, component="gpu") >= before.value(CARBON, component="gpu")
    assert [accounted(steady, before, after, gpu) for gpu in "012"] == [0, 0, 0]
    assert "its worker ended with status -9" in exporter.log()


def test_the_worker_inherits_no_socket(start: StartExporter, steady: FakeDriver) -> None:
    """The exporter listens alone: its port is free when it ends, whatever the worker does."""
    exporter = start(driver=steady)
    page_with(exporter, CARBON, 1, component="gpu")

    def sockets_of(pid: int) -> set[str]:
        links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
        return {link for link in links if link.startswith("socket:")}

    ours, theirs = sockets_of(exporter.pid), sockets_of(worker_of(exporter.pid))
    assert ours
    assert ours & theirs == set()


@pytest.mark.parametrize("package", ["zeus", "codecarbon"])
def test_a_library_that_ends_the_process_at_import(
    start: StartExporter, steady: FakeDriver, tmp_path: Path, package: str
) -> None:
    """SystemExit out of an import is an error like any other."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('no licence')\n")
    exporter = start(driver=steady, PYTHONPATH=str(tmp_path))
    wait_until(lambda: "no licence" in exporter.log(), "the reason")
    shown = page_with(exporter, POWER, 3)
    assert shown.value(AVAILABLE, backend=package) == 0
    assert shown.value(SUCCESS, collector=package) == 0
