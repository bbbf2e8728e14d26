"""A start on a driver or on GPUs that do not answer."""

import threading
import time

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    ERRORS,
    INFO,
    POWER,
    SUCCESS,
    ZEUS,
    Begin,
    all_read,
    page_with,
)
from tests.llem_exporter.test_cli import run
from tests.servers import wait_until


def test_an_nvml_that_hangs_ends_the_start_with_a_line(steady: FakeDriver) -> None:
    """Not silence for ever: after --driver.timeout there is one line, and the status is 1."""
    steady.init_hung = True
    started_s = time.monotonic()
    done = run("--web.listen-address", "127.0.0.1:0", "--driver.timeout", "1.5s", **steady.env)
    assert 1.5 <= time.monotonic() - started_s < 6
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "the NVIDIA driver hangs: NVML has not answered for 1.5 s" in done.stderr


def test_a_driver_that_takes_its_time_is_waited_for(begin: Begin, steady: FakeDriver) -> None:
    """Loading takes long where persistence mode is off: nvmlInit that returns within the time is no error."""
    steady.init_hung = True
    threading.Timer(2.5, setattr, (steady, "init_hung", False)).start()
    assert begin("--no-collector.zeus").fetch("/-/ready").status == 200


def test_gpus_of_which_none_answers_are_waited_for(begin: Begin, steady: FakeDriver) -> None:
    """The first that does lets the exporter start; the others join as they answer."""
    for gpu in steady.gpus:
        gpu.hung = True
    threading.Timer(4, setattr, (steady.gpus[1], "hung", False)).start()
    exporter = begin("--no-collector.zeus")
    shown = page_with(exporter, POWER, 1, gpu="1")
    assert shown.value(SUCCESS, collector="nvml") == 0
    assert len(shown.labels(INFO)) == 1
    for gpu in steady.gpus:
        gpu.hung = False
    assert len(all_read(exporter).labels(POWER)) == 3


def test_gpus_of_which_none_answers_end_the_start_with_a_line(steady: FakeDriver) -> None:
    """One line that says how many hang."""
    for gpu in steady.gpus:
        gpu.hung = True
    done = run("--web.listen-address", "127.0.0.1:0", "--driver.timeout", "3s", **steady.env)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "NVML counts 3 GPUs and opens none of them (3 do not answer at all)" in done.stderr


def test_where_no_gpu_answers_there_is_nothing_to_serve(steady: FakeDriver) -> None:
    """The last line says so, after one of each GPU, and without waiting for what has failed."""
    for gpu in steady.gpus:
        gpu.lost = True
    started_s = time.monotonic()
    done = run(**steady.env)
    assert time.monotonic() - started_s < 6
    assert (done.returncode, done.stderr.count("NVML_ERROR_GPU_IS_LOST")) == (1, 3)
    assert "3 GPUs and opens none of them; without a GPU, play a trace" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("fault", ["lost", "hung"])
def test_a_gpu_that_does_not_answer_at_the_start_joins_later(
    start: StartExporter, steady: FakeDriver, fault: str
) -> None:
    """The others are read, with their counters; it comes with its own as soon as it answers."""
    setattr(steady.gpus[1], fault, True)
    exporter = start("--no-collector.codecarbon", driver=steady)
    shown = page_with(exporter, ZEUS, 2)
    assert shown.value(SUCCESS, collector="nvml") == 0
    assert shown.value(AVAILABLE, backend="nvml") == 0
    assert shown.get(INFO, gpu="1") is None
    error = {"lost": "NVML_ERROR_GPU_IS_LOST", "hung": "OPEN_TOO_SLOW"}[fault]
    assert shown.value(ERRORS, gpu="1", uuid="", error=error) >= 1
    assert "GPU 1 cannot be opened" in exporter.log() or "GPU 1 does not answer" in exporter.log()
    assert exporter.fetch("/history?scraper=a").status == 200
    setattr(steady.gpus[1], fault, False)
    shown = page_with(exporter, ZEUS, 3)
    assert shown.value(SUCCESS, collector="nvml") == 1
    assert shown.value(AVAILABLE, backend="zeus") == 1
    late = 'llem_gpu_power_trace_watts{gpu="1"'
    wait_until(lambda: late in exporter.fetch_text("/history?scraper=a"), "its samples")
