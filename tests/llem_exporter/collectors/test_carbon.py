"""CodeCarbon in the exporter: the real library in its worker, on the fake driver."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.servers import Exporter, wait_until

READ_AT = "llem_codecarbon_sample_timestamp_seconds"
ENERGY = "llem_codecarbon_energy_joules_total"
GRAMS = "llem_codecarbon_emissions_grams_total"


def values(page: str) -> dict[str, float]:
    """CodeCarbon's and the backends' series on a page of /metrics."""
    lines = re.findall(r"^(llem_(?:codecarbon|backend|collector)_\S+) (\S+)$", page, re.MULTILINE)
    return {series: float(value) for series, value in lines}


def measured(exporter: Exporter, after_unix_s: float = 0.0) -> dict[str, float]:
    """The page's values as soon as CodeCarbon has measured after a time."""

    def newer() -> dict[str, float]:
        found = values(exporter.metrics())
        return found if found.get(READ_AT, 0.0) > after_unix_s else {}

    return wait_until(newer, "a measurement of CodeCarbon's")


def worker_of(pid: int) -> int:
    """The process ID of an exporter's worker, or 0."""
    children = Path(f"/proc/{pid}/task")
    for task in children.iterdir():
        for child in (task / "children").read_text().split():
            if "codecarbon.worker" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    return 0


def kill_worker(pid: int) -> None:
    """Kill an exporter's worker. os.kill(0) would kill the tests."""
    worker = worker_of(pid)
    assert worker
    os.kill(worker, signal.SIGKILL)


def gone(pid: int) -> Callable[[], bool]:
    """Whether a process has ended; one that nobody has waited for yet is a zombie, state Z of proc(5)."""

    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
        except (FileNotFoundError, ProcessLookupError):
            return True

    return ended


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeDriver, Exporter]]:
    """An exporter of two GPUs that draw 100 W each, with a country."""
    folder = tmp_path_factory.mktemp("measuring")
    with (
        FakeDriver(folder, gpus=2, low_watts=100.0, high_watts=100.0, sine_watts=0.0) as driver,
        Exporter(env=driver.env, args=["--codecarbon.country-iso-code", "deu"]) as exporter,
    ):
        yield driver, exporter


def test_joules_and_grams_with_a_country(measuring: tuple[FakeDriver, Exporter]) -> None:
    """The gpu component equals the GPUs' energy, every component rises, and a country gives grams."""
    _, exporter = measuring
    first = measured(exporter)
    last = measured(exporter, first[READ_AT])
    gpu = f'{ENERGY}{{component="gpu"}}'
    assert last[gpu] - first[gpu] == pytest.approx(200 * (last[READ_AT] - first[READ_AT]), rel=0.3)
    assert last[f'{ENERGY}{{component="cpu"}}'] > first[f'{ENERGY}{{component="cpu"}}']
    assert last[f'{ENERGY}{{component="ram"}}'] > first[f'{ENERGY}{{component="ram"}}']
    assert last[GRAMS] > first[GRAMS]
    info = next(series for series in last if series.startswith("llem_codecarbon_info"))
    assert 'country_iso_code="DEU"' in info
    assert last['llem_backend_available{backend="codecarbon"}'] == 1
    assert last['llem_backend_selected{backend="zeus"}'] == 1
    assert last['llem_collector_success{collector="codecarbon"}'] == 1


def test_signals_of_the_exporters_leave_its_worker_alone(measuring: tuple[FakeDriver, Exporter]) -> None:
    """SIGINT, SIGTERM and SIGHUP do not stop the worker, and no failure is logged."""
    _, exporter = measuring
    before = measured(exporter)
    worker = worker_of(exporter.pid)
    assert worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker, number)
    measured(exporter, before[READ_AT])
    assert worker_of(exporter.pid) == worker
    assert "WARNING CodeCarbon: the worker" not in exporter.log()


def test_a_lost_gpu_is_no_part_of_a_total(measuring: tuple[FakeDriver, Exporter]) -> None:
    """When a GPU is lost, the gpu component disappears, with one log line. It restarts from 0 later."""
    driver, exporter = measuring
    gpu, success = f'{ENERGY}{{component="gpu"}}', 'llem_collector_success{collector="codecarbon"}'
    before = measured(exporter)
    assert (gpu in before, before[success]) == (True, 1)
    driver.gpus[1].lost = True
    without = wait_until(
        lambda: page if gpu not in (page := values(exporter.metrics())) else {}, "no joules of the GPUs"
    )
    assert without[success] == 0
    after = measured(exporter, before[READ_AT])
    assert gpu not in after
    assert f'{ENERGY}{{component="cpu"}}' in after
    wait_until(lambda: "a GPU cannot be read" in exporter.log(), "a line in the log")
    driver.gpus[1].lost = False
    again = wait_until(lambda: page if gpu in (page := values(exporter.metrics())) else {}, "joules of both")
    assert again[gpu] < before[gpu]
    assert again[success] == 1
    assert exporter.log().count("a GPU cannot be read") == 1


def test_a_node_without_gpus(tmp_path: Path) -> None:
    """--gpus none publishes cpu and ram on a node without a driver. codecarbon is selected."""
    with FakeDriver(tmp_path, gpus=1) as driver:
        driver.unload()
        with Exporter(env=driver.env, args=["--gpus", "none"]) as exporter:
            found = measured(exporter)
            assert {series for series in found if series.startswith(ENERGY)} == {
                f'{ENERGY}{{component="cpu"}}',
                f'{ENERGY}{{component="ram"}}',
            }
            assert found['llem_backend_selected{backend="codecarbon"}'] == 1
            assert exporter.fetch("/-/ready").status == 200
            assert exporter.fetch("/history", {"since": "0"}).status == 200


def test_it_can_be_switched_off(start: StartExporter, driver: FakeDriver) -> None:
    """--no-collector.codecarbon starts no worker and publishes no CodeCarbon series."""
    exporter = start("--no-collector.codecarbon", driver=driver)
    assert not worker_of(exporter.pid)  # a worker is started before the exporter is ready
    found = values(exporter.metrics())
    assert not [series for series in found if series.startswith("llem_codecarbon")]
    assert 'llem_collector_success{collector="codecarbon"}' not in found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_the_worker_ends_with_the_exporter(driver: FakeDriver, how: signal.Signals) -> None:
    """The worker ends for every way in which the exporter ends."""
    with driver, Exporter(env=driver.env) as exporter:
        worker = wait_until(lambda: worker_of(exporter.pid), "the worker")
        os.kill(exporter.pid, how)
        wait_until(gone(worker), "the worker's end")


@pytest.mark.full
@pytest.mark.parametrize("measures", [False, True], ids=["starting", "measuring"])
def test_the_worker_ends_with_the_exporter_while_the_driver_hangs(
    driver: FakeDriver, *, measures: bool
) -> None:
    """The worker ends with a killed exporter, even if a driver call of the worker hangs."""
    with driver, Exporter(env=driver.env) as exporter:
        worker = wait_until(lambda: worker_of(exporter.pid), "the worker")
        if measures:
            measured(exporter)
        driver.gpus[1].hung = True
        time.sleep(6)  # until the worker measures again
        os.kill(exporter.pid, signal.SIGKILL)
        wait_until(gone(worker), "the worker's end")
