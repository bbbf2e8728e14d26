"""Zeus or CodeCarbon cannot be imported, or takes long. Power is read all the same."""

from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    NVML,
    POWER,
    SELECTED,
    SUCCESS,
    ZEUS,
    page_with,
)
from tests.llem_exporter.page import history
from tests.servers import wait_until

IMPORT_ERROR, EXIT = "ImportError('built for another Python')", "SystemExit('no licence')"


def test_zeus_is_imported_before_the_first_sample(
    start: StartExporter, steady: FakeDriver, tmp_path: Path
) -> None:
    """A slow import of Zeus, which stops all threads, delays the start of sampling and makes no gap."""
    (tmp_path / "zeus").mkdir()
    imported = tmp_path / "imported"
    (tmp_path / "zeus" / "__init__.py").write_text(
        f"import pathlib, time\ntime.sleep(1)\npathlib.Path({str(imported)!r}).write_text(str(time.time()))\n"
    )
    exporter = start("--no-collector.codecarbon", driver=steady, PYTHONPATH=str(tmp_path))
    page_with(exporter, POWER, 3)
    first_ms = min(points[0][0] for points in history(exporter).values())
    assert first_ms / 1000 > float(imported.read_text())


@pytest.mark.parametrize(("zeus", "codecarbon"), [(IMPORT_ERROR, EXIT), (EXIT, IMPORT_ERROR)])
def test_libraries_that_cannot_be_imported(
    start: StartExporter, steady: FakeDriver, tmp_path: Path, zeus: str, codecarbon: str
) -> None:
    """Any import error, also SystemExit, is logged. The collector fails, and power is still read."""
    for package, error in (("zeus", zeus), ("codecarbon", codecarbon)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise {error}\n")
    exporter = start(driver=steady, PYTHONPATH=str(tmp_path))
    for reason in ("built for another Python", "no licence"):
        wait_until(lambda reason=reason: reason in exporter.log(), reason)  # type: ignore[misc]
    shown = page_with(exporter, POWER, 3)
    assert {shown.value(AVAILABLE, backend=package) for package in ("zeus", "codecarbon")} == {0}
    assert {shown.value(SUCCESS, collector=package) for package in ("zeus", "codecarbon")} == {0}
    assert shown.labels(ZEUS) == []
    assert shown.value(SUCCESS, collector="nvml") == 1
    assert shown.value(SELECTED, backend="nvml") == 1
    page_with(exporter, NVML, 3)
