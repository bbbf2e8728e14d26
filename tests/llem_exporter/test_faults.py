"""An exporter process while its GPUs, its driver or its clock do what they should not."""

import signal
import socket
import time
from pathlib import Path

import pytest

from llem_core import metrics
from llem_core.metrics import METRICS_PAGE
from tests.bench.bench_exporter import PrefilledExporter
from tests.fake_nvml import Architecture, FakeDriver, constant
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.llem_exporter.test_cli import run
from tests.servers import Exporter, wait_until

POWER, NVML, ZEUS = metrics.GPU_POWER.name, metrics.GPU_NVML_ENERGY.name, metrics.GPU_ZEUS_ENERGY.name
STAMP, SAMPLES, ERRORS = (
    metrics.GPU_SAMPLE_TIMESTAMP.name,
    metrics.GPU_SAMPLES.name,
    "llem_gpu_read_errors_total",
)
GPU_GAUGES = [
    spec.name
    for spec in METRICS_PAGE
    if spec.labels[:1] == ("gpu",) and spec.kind == "gauge" and spec is not metrics.GPU_INFO
]


def page_with(exporter: Exporter, name: str, count: int = 1, **labels: object) -> MetricsPage:
    """The page as soon as it has `count` series of this name and these labels, none of them 0."""

    def pages() -> list[MetricsPage]:
        shown = scrape(exporter)
        found = [shown.value(name, **series) for series in shown.labels(name, **labels)]
        return [shown] if len(found) == count and all(found) else []

    return wait_until(pages, f"{name} {labels}")[0]


def with_zeus(exporter: Exporter) -> MetricsPage:
    """The page as soon as the zeus counters of all three GPUs are on it."""
    return page_with(exporter, ZEUS, 3)


def test_a_healthy_node_shows_every_metric(start: StartExporter, driver: FakeDriver) -> None:
    """Everything in METRICS_PAGE is there; joules agree with the true ones; zeus is selected."""
    exporter = start("--codecarbon.country-iso-code", "DEU", driver=driver)
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


def test_a_lost_gpu_leaves_the_page_and_comes_back(start: StartExporter, driver: FakeDriver) -> None:
    """Within a second its gauges are gone, its counters and info stay; it recovers by itself."""
    exporter = start(driver=driver)
    before = with_zeus(exporter)
    driver.gpus[1].lost = True
    time.sleep(1.2)
    shown = scrape(exporter)
    for name in GPU_GAUGES:
        assert shown.get(name, gpu="1", **({"reason": "hw_thermal"} if "throttle" in name else {})) is None, (
            name
        )
    for name in (NVML, ZEUS, SAMPLES):
        assert shown.value(name, gpu="1") >= before.value(name, gpu="1")
    assert shown.value("llem_gpu_info", gpu="1") == 1
    assert shown.value(ERRORS, gpu="1", error="NVML_ERROR_GPU_IS_LOST") >= 1
    assert shown.value("llem_collector_success", collector="nvml") == 0
    assert [shown.get(POWER, gpu=gpu) is None for gpu in ("0", "2")] == [False, False]
    time.sleep(0.8)
    driver.gpus[1].lost = False
    page_with(exporter, POWER, 3)
    back = page_with(exporter, "llem_collector_success", collector="zeus")
    assert back.value("llem_gpu_gap_seconds_total", gpu="1") >= 1.9
    assert back.value("llem_gpu_gap_seconds_total", gpu="0") == 0
    from_s, to_s = before.value(STAMP, gpu="1"), back.value(STAMP, gpu="1")
    true = driver.exact_joules(1, from_s, to_s)
    assert back.value(ZEUS, gpu="1") - before.value(ZEUS, gpu="1") == pytest.approx(true, abs=2.0)


def test_a_gpu_that_hangs_stops_no_other_and_not_the_end(start: StartExporter, driver: FakeDriver) -> None:
    """The others keep their ticks, /history goes on, and SIGTERM ends the process within 2 s."""
    exporter = start(driver=driver)
    with_zeus(exporter)
    driver.gpus[2].hung = True
    time.sleep(1.5)
    before = scrape(exporter)
    assert before.get(POWER, gpu="2") is None
    since_s = time.time()
    time.sleep(2)
    after = scrape(exporter)
    for gpu in ("0", "1"):
        assert after.value(SAMPLES, gpu=gpu) - before.value(SAMPLES, gpu=gpu) >= 19
        assert after.value("llem_gpu_gap_seconds_total", gpu=gpu) == 0
    assert after.value(SAMPLES, gpu="2") == before.value(SAMPLES, gpu="2")
    assert len(history(exporter, f"{since_s:.3f}")["llem_gpu_power_trace_watts", "0"]) >= 15
    started_s = time.monotonic()
    assert exporter.terminate() == 0
    assert time.monotonic() - started_s < 2


def test_a_hung_call_that_ends_is_no_sample(start: StartExporter, driver: FakeDriver) -> None:
    """Nobody knows its time: it is an error, and the hang a gap."""
    exporter = start("--no-collector.zeus", driver=driver)
    driver.gpus[0].hung = True
    time.sleep(0.7)
    driver.gpus[0].hung = False
    time.sleep(0.5)
    shown = scrape(exporter)
    errors = {labels["error"] for labels in shown.labels(ERRORS, gpu="0")}
    assert errors & {"READ_TOO_SLOW", "NVML_ERROR_TIMEOUT"}
    assert 0.5 <= shown.value("llem_gpu_gap_seconds_total", gpu="0") <= 1.0


def test_before_volta_there_is_power_and_no_counter(start: StartExporter, driver: FakeDriver) -> None:
    """Zeus is not available, nvml is selected, power is read the old way."""
    for gpu in driver.gpus:
        gpu.architecture = Architecture.PASCAL
    exporter = start(driver=driver)
    wait_until(lambda: "no energy counter" in exporter.log() or "has no" in exporter.log(), "zeus's answer")
    time.sleep(0.3)
    shown = scrape(exporter)
    assert [shown.value("llem_backend_selected", backend=name) for name in ("zeus", "nvml")] == [0, 1]
    assert shown.get(ZEUS, gpu="0") is None
    assert {labels["power_source"] for labels in shown.labels("llem_gpu_info")} == {"legacy"}
    assert shown.value(POWER, gpu="0") > 0


def test_without_power_there_is_still_the_counter(start: StartExporter, driver: FakeDriver) -> None:
    """Zeus is published with its time; a GPU that reads neither says who it is, and its errors."""
    for gpu in driver.gpus[1:]:
        gpu.power_supported = gpu.instant_supported = False
    driver.gpus[2].energy_supported = False
    exporter = start(driver=driver)
    shown = page_with(exporter, ZEUS, gpu="1")
    assert shown.get(POWER, gpu="1") is None
    assert shown.get(NVML, gpu="1") is None
    assert shown.value(STAMP, gpu="1") > 0
    assert ("llem_gpu_zeus_energy_trace_joules_total", "1") in history(exporter)
    assert [shown.get(name, gpu="2") for name in (POWER, NVML, ZEUS, STAMP)] == [None] * 4
    assert shown.value("llem_gpu_info", gpu="2", power_source="none") == 1
    assert shown.value(ERRORS, gpu="2", error="NVML_ERROR_NOT_SUPPORTED") >= 1
    assert shown.value("llem_backend_available", backend="zeus") == 0
    driver.gpus[1].power_supported = driver.gpus[1].instant_supported = True
    shown = page_with(exporter, POWER, gpu="1")
    assert shown.value("llem_gpu_info", gpu="1", power_source="instant") == 1


def test_a_driver_loaded_anew_is_read_on(start: StartExporter, driver: FakeDriver) -> None:
    """Gone with the driver, back with it: the hardware's counter restarts, ours goes on."""
    exporter = start(driver=driver)
    before = with_zeus(exporter)
    driver.unload()
    time.sleep(1.3)
    gone = scrape(exporter)
    assert gone.labels(POWER) == []
    assert len(gone.labels(NVML)) == 3
    driver.reload()
    page_with(exporter, POWER, 3)
    back = page_with(exporter, "llem_collector_success", collector="zeus")
    for gpu in ("0", "1", "2"):
        assert back.value(ZEUS, gpu=gpu) < before.value(ZEUS, gpu=gpu)
        assert back.value(NVML, gpu=gpu) >= gone.value(NVML, gpu=gpu)


def test_the_zeus_counter_goes_on_over_a_restart(start: StartExporter, driver: FakeDriver) -> None:
    """Killed with -9 and started again: what was used meanwhile is in the counter, ours starts at 0."""
    exporter = start(driver=driver)
    before = with_zeus(exporter)
    exporter.kill()
    time.sleep(1)
    exporter.start()
    after = with_zeus(exporter)
    for gpu in ("0", "1", "2"):
        true = driver.exact_joules(int(gpu), before.value(STAMP, gpu=gpu), after.value(STAMP, gpu=gpu))
        assert true > 100
        assert after.value(ZEUS, gpu=gpu) - before.value(ZEUS, gpu=gpu) == pytest.approx(true, abs=2.0)
        assert after.value(NVML, gpu=gpu) < true


@pytest.mark.parametrize("visible", ["1", "", "MIG-x"])
def test_cuda_visible_devices_hides_nothing(start: StartExporter, driver: FakeDriver, visible: str) -> None:
    """Every GPU has its own counter, whatever CUDA may see."""
    for fake in driver.gpus:
        fake.set_load(constant(100.0 * (1 + fake.index)))
    exporter = start(driver=driver, CUDA_VISIBLE_DEVICES=visible)
    first = with_zeus(exporter)
    time.sleep(1)
    last = scrape(exporter)
    for gpu in ("0", "1", "2"):
        seconds = last.value(STAMP, gpu=gpu) - first.value(STAMP, gpu=gpu)
        watts = (last.value(ZEUS, gpu=gpu) - first.value(ZEUS, gpu=gpu)) / seconds
        assert watts == pytest.approx(100.0 * (1 + int(gpu)), rel=0.03)


@pytest.mark.parametrize("fault", ["lost", "hung"])
def test_a_gpu_that_does_not_answer_at_the_start_joins_later(
    start: StartExporter, driver: FakeDriver, fault: str
) -> None:
    """The others are read, with their counters; it comes with its own as soon as it answers."""
    setattr(driver.gpus[1], fault, True)
    exporter = start(driver=driver)
    shown = page_with(exporter, ZEUS, 2)
    assert shown.value("llem_collector_success", collector="nvml") == 0
    assert shown.value("llem_backend_available", backend="nvml") == 0
    assert shown.get("llem_gpu_info", gpu="1") is None
    assert exporter.fetch("/history?scraper=a").status == 200
    setattr(driver.gpus[1], fault, False)
    shown = page_with(exporter, ZEUS, 3)
    assert shown.value("llem_collector_success", collector="nvml") == 1
    assert shown.value("llem_backend_available", backend="zeus") == 1
    late = 'llem_gpu_power_trace_watts{gpu="1"'
    wait_until(lambda: late in exporter.fetch_text("/history?scraper=a"), "its samples")


def test_where_no_gpu_answers_there_is_nothing_to_serve(driver: FakeDriver) -> None:
    """The last line says so, after one of each GPU."""
    for gpu in driver.gpus:
        gpu.lost = True
    done = run(**driver.env)
    assert (done.returncode, done.stderr.count("NVML_ERROR_GPU_IS_LOST")) == (1, 3)
    assert "3 GPUs and opens none of them; without a GPU, play a trace" in done.stderr.splitlines()[-1]


def test_zeus_that_cannot_be_imported_is_named(
    start: StartExporter, driver: FakeDriver, tmp_path: Path
) -> None:
    """The log says why there are no counters; power goes on."""
    (tmp_path / "zeus").mkdir()
    (tmp_path / "zeus" / "__init__.py").write_text("raise ImportError('built for another Python')\n")
    exporter = start(driver=driver, PYTHONPATH=str(tmp_path))
    wait_until(lambda: "built for another Python" in exporter.log(), "the reason")
    shown = scrape(exporter)
    assert shown.value("llem_backend_available", backend="zeus") == 0
    assert shown.value(POWER, gpu="0") > 0


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
