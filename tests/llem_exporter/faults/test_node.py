"""An exporter process on a healthy node: what it shows, what it costs, how it ends."""

import signal
import socket
import time
from pathlib import Path

import pytest

from llem_core.metrics import METRICS_PAGE
from tests.bench.bench_exporter import PrefilledExporter
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.faults.pages import ERRORS, NVML, STAMP, ZEUS, page_with, with_zeus
from tests.llem_exporter.page import scrape


def test_a_healthy_node_shows_every_metric(start: StartExporter, driver: FakeDriver, tmp_path: Path) -> None:
    """Everything in METRICS_PAGE is there; joules agree with the true ones; zeus is selected."""
    driver.gpus[2].mig_slices = 1
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / driver.gpus[0].uuid).write_text("job=7\nuser=ada\n")
    exporter = start(
        "--codecarbon.country-iso-code", "DEU", "--jobs.dir", str(tmp_path / "jobs"), driver=driver
    )
    first = with_zeus(exporter)
    page_with(exporter, "llem_codecarbon_emissions_grams_total")
    time.sleep(2)
    driver.gpus[0].denied = frozenset({"fields"})
    time.sleep(0.15)
    driver.gpus[0].denied = frozenset()
    last = page_with(exporter, ERRORS, gpu="0", error="NVML_ERROR_NO_PERMISSION")
    for spec in METRICS_PAGE:
        name = f"{spec.name}_count" if spec.kind == "histogram" else spec.name
        assert name in last.names, name
    assert "process_resident_memory_bytes" in last.names
    assert [last.value("llem_backend_selected", backend=name) for name in ("zeus", "nvml")] == [1, 0]
    assert last.value("llem_backend_available", backend="codecarbon") == 1
    for gpu in ("0", "1", "2"):
        from_s, to_s = first.value(STAMP, gpu=gpu), last.value(STAMP, gpu=gpu)
        true = driver.exact_joules(int(gpu), from_s, to_s)
        assert last.value(ZEUS, gpu=gpu) - first.value(ZEUS, gpu=gpu) == pytest.approx(true, abs=2.0)
        counted = last.value(NVML, gpu=gpu) - first.value(NVML, gpu=gpu)
        assert counted == pytest.approx(true, rel=0.15)


def test_one_call_per_gpu_and_tick_and_one_more_with_zeus(start: StartExporter, driver: FakeDriver) -> None:
    """Slow readings come once a second; CodeCarbon's own calls are left out."""
    exporter = start("--no-collector.codecarbon", driver=driver)
    with_zeus(exporter)
    before = driver.calls()
    time.sleep(3)
    after = driver.calls()
    for old, new in zip(before, after, strict=True):
        assert 28 <= new.fields - old.fields <= 32
        assert 28 <= new.energy - old.energy <= 32
        assert new.power == old.power
        assert 5 * 2 <= new.slow - old.slow <= 6 * 4


def test_labels_are_escaped(start: StartExporter, driver: FakeDriver) -> None:
    """A GPU's name may hold whatever it likes."""
    driver.gpus[0].name = 'H"1\\0\n0'
    exporter = start("--gpus", "0", "--no-collector.zeus", driver=driver)
    (labels,) = scrape(exporter).labels("llem_gpu_info")
    assert labels["name"] == 'H"1\\0\n0'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(start: StartExporter, driver: FakeDriver, number: signal.Signals) -> None:
    """Exit status 0, no traceback."""
    exporter = start(driver=driver)
    exporter.process.send_signal(number)
    assert exporter.process.wait(5) == 0
    assert "Traceback" not in exporter.log()


def test_a_client_that_does_not_read_delays_the_end_by_no_more_than_2_s(driver: FakeDriver) -> None:
    """15 min of history asked for and not read: other scrapes are answered, SIGTERM ends the process."""
    with (
        PrefilledExporter(env=driver.env, args=["--no-collector.zeus"]) as exporter,
        socket.create_connection(("127.0.0.1", exporter.port)) as client,
    ):
        client.sendall(b"GET /history?since=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1)
        assert "llem_gpu_power_watts" in scrape(exporter).names
        started_s = time.monotonic()
        assert exporter.terminate() == 0
        assert time.monotonic() - started_s < 2
