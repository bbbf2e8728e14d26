"""A start on a driver that does not answer, or on GPUs that do not."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from llem_exporter.gpus import OTHERS_SECONDS
from tests.fake_nvml import FakeDriver, FakeGpu
from tests.llem_exporter.faults.injection import FAULTS
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    DENIED,
    ERRORS,
    GPU_GAUGES,
    INFO,
    LOST,
    NVML,
    PEAK,
    POWER,
    SLOW_GAUGES,
    STAMP,
    SUCCESS,
    TEMPERATURE,
    TOO_SLOW,
    UNSUPPORTED,
    ZEUS,
    Begin,
    SteadyDriver,
    all_read,
    page_when,
    page_with,
    page_without,
)
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.llem_exporter.test_cli import run
from tests.servers import Exporter, wait_until


def test_an_nvml_that_hangs_ends_the_start(steady: FakeDriver) -> None:
    """After --driver.timeout the exporter logs one line and exits with status 1."""
    steady.init_hung = True
    started_s = time.monotonic()
    done = run("--web.listen-address", "127.0.0.1:0", "--driver.timeout", "1.5s", **steady.env)
    assert time.monotonic() - started_s >= 1.5
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "the NVIDIA driver hangs: NVML has not answered for 1.5 s" in done.stderr


def test_a_slow_driver_and_the_first_gpu_that_answers_are_waited_for(
    begin: Begin, steady: FakeDriver
) -> None:
    """If nvmlInit or GPUs hang, the exporter waits for the first GPU. The others join later."""
    steady.init_hung = True
    for gpu in steady.gpus:
        gpu.hung = True

    def release() -> None:
        steady.init_hung = False
        wait_until(lambda: all(calls.open for calls in steady.calls()), "a call on each GPU")
        time.sleep(OTHERS_SECONDS + 0.5)
        steady.gpus[1].hung = False

    releasing = threading.Timer(1.0, release)
    releasing.start()
    exporter = begin("--no-collector.zeus")
    releasing.join()
    shown = page_with(exporter, POWER, 1, gpu="1")
    assert shown.value(SUCCESS, collector="nvml") == 0
    assert len(shown.labels(INFO)) == 1
    for gpu in steady.gpus:
        gpu.hung = False
    all_read(exporter, zeus=False)


@pytest.mark.parametrize("by_uuid", [False, True])
def test_the_gpu_that_was_asked_for_is_waited_for(begin: Begin, steady: FakeDriver, by_uuid: bool) -> None:
    """With --gpus 1, the exporter waits for GPU 1 until --driver.timeout, although GPU 0 has answered."""
    steady.gpus[1].hung = True

    def release() -> None:
        steady.gpus[1].hung = False

    releasing = threading.Timer(OTHERS_SECONDS + 1.0, release)
    releasing.start()
    exporter = begin("--no-collector.zeus", "--gpus", steady.gpus[1].uuid if by_uuid else "1")
    releasing.join()
    assert [labels["gpu"] for labels in page_with(exporter, POWER).labels(POWER)] == ["1"]


def test_gpus_of_which_none_answers_end_the_start(steady: FakeDriver) -> None:
    """If all GPUs hang, the exporter exits after --driver.timeout. The error names each GPU."""
    for gpu in steady.gpus:
        gpu.hung = True
    started_s = time.monotonic()
    done = run("--web.listen-address", "127.0.0.1:0", "--driver.timeout", "3s", **steady.env)
    assert time.monotonic() - started_s >= 3
    assert (done.returncode, done.stderr.count("Traceback")) == (1, 0)
    reasons = ", ".join(f"GPU {index} (the driver did not answer for 3 s)" for index in range(3))
    assert done.stderr.splitlines()[-1] == (
        f"Error: no GPU can be opened: {reasons}; without a GPU, replay a trace: --replay demo"
    )


def test_where_every_gpu_has_failed_the_start_does_not_wait(steady: FakeDriver) -> None:
    """If every GPU fails, the exporter exits long before --driver.timeout. The error has each reason."""
    for gpu in steady.gpus:
        gpu.lost = True
    done = run("--web.listen-address", "127.0.0.1:0", "--driver.timeout", "1h", **steady.env)
    *warnings, error = done.stderr.splitlines()
    assert (done.returncode, len(warnings)) == (1, 3)
    assert f"Error: no GPU can be opened: GPU 0 ({LOST}), GPU 1 ({LOST}), GPU 2 ({LOST})" in error


def test_a_gpu_that_does_not_exist_is_an_error_at_once(steady: FakeDriver) -> None:
    """An unknown index or UUID is an error, even while another GPU hangs. The error lists the GPUs."""
    steady.gpus[0].hung = True
    args = ("--web.listen-address", "127.0.0.1:0", "--driver.timeout", "1h", "--gpus")
    done = run(*args, "1,3", **steady.env)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: GPU 3 not found: the number of GPUs is 3, and the first has index 0\n",
    )
    steady.gpus[0].hung = False
    done = run(*args, "GPU-x", **steady.env)
    listed = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in steady.gpus)
    assert (done.returncode, done.stderr) == (1, f"Error: GPU 'GPU-x' not found; the GPUs are {listed}\n")


def test_a_gpu_that_was_not_asked_for_has_no_series_even_if_it_is_lost(
    begin: Begin, steady: FakeDriver
) -> None:
    """If GPU 0 is lost and --gpus is the UUID of GPU 1, nvml reads every GPU that was asked for."""
    steady.gpus[0].lost = True
    exporter = begin("--no-collector.zeus", "--gpus", steady.gpus[1].uuid)
    shown = page_with(exporter, POWER, gpu="1")
    assert shown.value(AVAILABLE, backend="nvml") == 1
    assert [shown.labels(ERRORS), len(shown.labels(INFO))] == [[], 1]


def test_a_gpu_that_was_not_asked_for_and_opens_late_has_no_series(begin: Begin, steady: FakeDriver) -> None:
    """While a wanted GPU is lost, one that hung at the start may be it. If it is not, it stays closed.

    When all wanted GPUs are open, the exporter reads no others and reports success.
    """
    steady.gpus[0].hung = steady.gpus[2].lost = True
    wanted = [steady.gpus[1].uuid, steady.gpus[2].uuid]
    exporter = begin("--no-collector.zeus", "--gpus", ",".join(wanted))
    page_with(exporter, POWER, gpu="1")
    before = steady.calls()[0].open
    steady.gpus[0].hung = False
    wait_until(lambda: steady.calls()[0].open >= before + 2, "another try to open GPU 0")
    steady.gpus[2].lost = False
    shown = page_with(exporter, POWER, 1, gpu="2")
    assert sorted(labels["uuid"] for labels in shown.labels(INFO)) == sorted(wanted)
    page_when(exporter, lambda page: page.value(SUCCESS, collector="nvml") == 1, "all GPUs")


def _all_denied(gpu: FakeGpu, on: bool) -> None:
    gpu.denied = frozenset({"fields", "power", "energy", "slow", "open"} if on else ())


def _no_power(gpu: FakeGpu, on: bool) -> None:
    gpu.power_supported = gpu.instant_supported = not on


def _neither(gpu: FakeGpu, on: bool) -> None:
    gpu.power_supported = gpu.instant_supported = gpu.energy_supported = not on


FAULTS_AT_START = {
    **{
        name: FAULTS[name]
        for name in ("lost", "hung", "unreadable", "power denied", "counter denied", "zero")
    },
    "all denied": _all_denied,
    "no power": _no_power,
    "neither": _neither,
}
"""Only `neither` does not end: a counter that is not supported is not tried again."""

GPUS = {name: str(number) for number, name in enumerate(["healthy", *FAULTS_AT_START])}
UNOPENED = {"lost": LOST, "hung": TOO_SLOW, "all denied": DENIED}
NO_POWER = {
    "unreadable": DENIED,
    "power denied": DENIED,
    "zero": "ZERO_POWER",
    "no power": UNSUPPORTED,
    "neither": UNSUPPORTED,
}
COUNTERS = ("healthy", "power denied", "zero", "no power")
"""GPUs whose hardware counter can be read from the start."""


@dataclass(frozen=True)
class FaultyStart:
    """An exporter started with a different fault on each GPU: its pages with the faults and after them."""

    driver: FakeDriver
    exporter: Exporter
    first: MetricsPage
    recovered: MetricsPage
    log: str
    traces: dict[tuple[str, str], list[tuple[int, float]]]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyStart]:
    """Start with all faults, and then clear them."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("driver")
        driver = stack.enter_context(SteadyDriver(directory, gpus=len(GPUS), step_watts=20.0))
        for name, fault in FAULTS_AT_START.items():
            fault(driver.gpus[int(GPUS[name])], True)
        driver.gpus[int(GPUS["neither"])].temperature_celsius = 70
        exporter = stack.enter_context(Exporter(env=driver.env, args=["--no-collector.codecarbon"]))

        def shows_all(page: MetricsPage) -> bool:
            return (
                len(page.labels(ZEUS)) == len(COUNTERS)
                and all(page.labels(POWER, gpu=GPUS[name]) for name in ("healthy", "counter denied"))
                and all(page.labels(ERRORS, gpu=GPUS[name]) for name in (*UNOPENED, *NO_POWER))
                and all(page.labels(TEMPERATURE, gpu=GPUS[name]) for name in NO_POWER)
            )

        first = page_when(exporter, shows_all, "what can be read")
        log, traces = exporter.log(), history(exporter)
        driver.gpus[int(GPUS["neither"])].temperature_celsius = 71
        page_with(exporter, TEMPERATURE, gpu=GPUS["neither"])
        page_when(
            exporter, lambda page: page.get(TEMPERATURE, gpu=GPUS["neither"]) == 71, "a new temperature"
        )
        for name, fault in FAULTS_AT_START.items():
            fault(driver.gpus[int(GPUS[name])], False)

        def recovered(page: MetricsPage) -> bool:
            return (
                len(page.labels(POWER)) == len(page.labels(TEMPERATURE)) == len(GPUS)
                and len(page.labels(ZEUS)) == len(GPUS) - 1
            )

        yield FaultyStart(driver, exporter, first, page_when(exporter, recovered, "all"), log, traces)


def test_gpus_that_cannot_be_opened_are_counted_without_uuid(faulty: FaultyStart) -> None:
    """The page has only the errors of lost, hung and denied GPUs. The log names each."""
    for name, error in UNOPENED.items():
        assert faulty.first.labels(INFO, gpu=GPUS[name]) == []
        assert faulty.first.value(ERRORS, gpu=GPUS[name], uuid="", error=error) >= 1, name
        assert f"GPU {GPUS[name]}: " in faulty.log
    assert f"GPU {GPUS['all denied']}: power cannot be read: {DENIED} (" in faulty.log
    assert f"GPU {GPUS['hung']}: a driver call has not returned. The GPU is read again" in faulty.log
    index = GPUS["counter denied"]
    uuid = faulty.driver.gpus[int(index)].uuid
    assert f"GPU {index} ({uuid}): energy counter cannot be read: {DENIED} (" in faulty.log


def test_what_cannot_be_read_at_the_start_is_an_error_and_no_series(faulty: FaultyStart) -> None:
    """Without power, the power source is "none". Counter and status are still published."""
    for name, error in NO_POWER.items():
        gpu = GPUS[name]
        assert faulty.first.value(INFO, gpu=gpu, power_source="none") == 1, name
        assert faulty.first.value(ERRORS, gpu=gpu, error=error) >= 1, name
        assert [faulty.first.get(series, gpu=gpu) for series in (POWER, PEAK, NVML)] == [None] * 3, name
        assert [len(faulty.first.labels(series, gpu=gpu)) for series in SLOW_GAUGES] == [1] * len(SLOW_GAUGES)
        has_counter = name in COUNTERS
        assert [bool(faulty.first.get(series, gpu=gpu)) for series in (ZEUS, STAMP)] == [has_counter] * 2
        assert (("llem_gpu_zeus_energy_trace_joules_total", gpu) in faulty.traces) == has_counter, name


def test_a_backend_is_available_once_it_reads_every_gpu(faulty: FaultyStart) -> None:
    """In the end nvml can read all GPUs. zeus cannot read the counter of one of them."""
    for page, works in ((faulty.first, [0, 0]), (faulty.recovered, [1, 0])):
        assert [page.value(SUCCESS, collector=name) for name in ("nvml", "zeus")] == works
        assert [page.value(AVAILABLE, backend=name) for name in ("nvml", "zeus")] == works


def test_every_gpu_joins_when_it_can_be_read(faulty: FaultyStart) -> None:
    """Each GPU joins with its own power, power source and counter, and has samples in /history."""
    for fake in faulty.driver.gpus:
        gpu = str(fake.index)
        assert faulty.recovered.value(POWER, gpu=gpu) == fake.load.low_watts
        assert faulty.recovered.value(INFO, gpu=gpu, uuid=fake.uuid, power_source="instant") == 1
    wait_until(
        lambda: len({gpu for name, gpu in history(faulty.exporter) if "power" in name}) == len(GPUS), "traces"
    )


def test_slow_readings_leave_the_page_with_a_gpu_of_which_nothing_else_is_read(faulty: FaultyStart) -> None:
    """Without power and counter, the status of a lost GPU expire."""
    fake = faulty.driver.gpus[int(GPUS["neither"])]
    _neither(fake, True)
    page_without(faulty.exporter, POWER, STAMP, gpu=str(fake.index))
    page_with(faulty.exporter, TEMPERATURE, gpu=str(fake.index))
    fake.lost = True
    page_without(faulty.exporter, *GPU_GAUGES, gpu=str(fake.index))
    assert scrape(faulty.exporter).value(INFO, gpu=str(fake.index)) == 1
