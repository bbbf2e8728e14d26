"""Success of the collectors and availability of the backends where one quantity, or every GPU, fails."""

import threading
import time
from itertools import pairwise

import pytest

from tests.fake_nvml import Architecture, FakeDriver
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    DURATION,
    ERRORS,
    GAP,
    GPU_GAUGES,
    INFO,
    LOST,
    NVML,
    PEAK,
    POWER,
    SAMPLES,
    SELECTED,
    STAMP,
    SUCCESS,
    TOO_SLOW,
    ZEUS,
    Begin,
    accounted,
    all_read,
    page_when,
    page_with,
    page_without,
    rise,
)
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.servers import Exporter, wait_until


def states(page: MetricsPage) -> list[list[float]]:
    """Success of the collectors, and availability of the backends: NVML's, Zeus's."""
    return [
        [page.value(SUCCESS, collector=name) for name in ("nvml", "zeus")],
        [page.value(AVAILABLE, backend=name) for name in ("nvml", "zeus")],
    ]


class Lateness:
    """The most by which a thread that sleeps for 10 ms at a time wakes up late, while this is entered."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._measure)

    def __enter__(self) -> "Lateness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _measure(self) -> None:
        before_s = time.monotonic()
        while not self._stopped.wait(0.01):
            now_s = time.monotonic()
            self.worst_s = max(self.worst_s, now_s - before_s - 0.01)
            before_s = now_s


@pytest.mark.parametrize(
    ("setting", "fault", "healthy", "gone", "works"),
    [
        ("denied", frozenset({"fields", "power"}), frozenset(), POWER, [0, 1]),
        ("power_override_watts", 0.0, None, POWER, [0, 1]),
        ("denied", frozenset({"energy"}), frozenset(), ZEUS, [1, 0]),
        ("lost", True, False, POWER, [0, 0]),
    ],
)
def test_a_collector_fails_where_its_quantity_cannot_be_read_of_one_gpu(
    shared_exporter: Exporter,
    shared_steady: FakeDriver,
    setting: str,
    fault: object,
    healthy: object,
    gone: str,
    works: list[int],
) -> None:
    """If a backend cannot read one GPU, only that backend is unavailable, until the fault is cleared."""
    all_read(shared_exporter)
    setattr(shared_steady.gpus[1], setting, fault)
    assert states(page_without(shared_exporter, gone, gpu="1")) == [works, works]
    setattr(shared_steady.gpus[1], setting, healthy)
    assert states(all_read(shared_exporter)) == [[1, 1], [1, 1]]


def test_while_a_gpu_hangs_the_others_lose_at_most_two_samples(
    shared_exporter: Exporter, shared_steady: FakeDriver
) -> None:
    """The GPU that is read first hangs. The others lose two samples at most, and get no gap.

    What a bare thread is late by at the same time is the machine's own lateness.
    """
    before = all_read(shared_exporter)
    with Lateness() as machine:
        shared_steady.gpus[0].hung = True
        held = page_with(shared_exporter, ERRORS, gpu="0", error=TOO_SLOW)
        shared_steady.gpus[0].hung = False
        after = all_read(shared_exporter)
    traces = history(shared_exporter, before.value(STAMP, gpu="0") - 0.2)
    for gpu in "12":
        ticks = [ms // 100 for ms, _ in traces["llem_gpu_power_trace_watts", gpu]]
        lost = max(later - earlier - 1 for earlier, later in pairwise(ticks))
        assert lost <= 2 + machine.worst_s / 0.1
        assert rise(before, after, GAP, gpu) <= machine.worst_s
        assert rise(before, held, SAMPLES, gpu) > 0
    assert rise(before, after, GAP, "0") > 1


def test_where_all_are_lost_no_duration_of_a_reading_is_left(
    shared_exporter: Exporter, shared_steady: FakeDriver
) -> None:
    """If all GPUs are lost, collector failures are published, but no duration of a reading."""
    all_read(shared_exporter)
    for gpu in shared_steady.gpus:
        gpu.lost = True
    shown = page_without(shared_exporter, *GPU_GAUGES)
    assert shown.labels(DURATION) == []
    assert {labels["collector"] for labels in shown.labels(SUCCESS)} == {"nvml", "zeus"}
    assert [shown.value(ERRORS, gpu=gpu, error=LOST) >= 1 for gpu in "012"] == [True] * 3
    for gpu in shared_steady.gpus:
        gpu.lost = False
    assert len(all_read(shared_exporter).labels(DURATION)) == 2


def test_one_absurd_reading_is_bridged(begin: Begin, steady: FakeDriver) -> None:
    """A single absurd reading makes no gap: its neighbours are two intervals apart."""
    exporter = begin("--no-collector.zeus", "--sample-interval", "1s")
    before = all_read(exporter, zeus=False)
    steady.gpus[1].power_override_watts = 10_000.0
    page_with(exporter, ERRORS, gpu="1", error="POWER_ABOVE_LIMIT")
    steady.gpus[1].power_override_watts = None
    after = page_when(
        exporter,
        lambda page: (
            page.value(STAMP, gpu="1") > before.value(STAMP, gpu="1") and page.labels(POWER, gpu="1")
        ),
        "the next sample",
    )
    assert accounted(steady, before, after, "1") == 0
    assert after.value(PEAK, gpu="1") == 200.0
    assert {watts for _, watts in history(exporter)["llem_gpu_power_trace_watts", "1"]} == {200.0}


def test_before_volta_there_is_power_and_no_counter(begin: Begin, steady: FakeDriver) -> None:
    """Before Volta, zeus is unavailable without an error, nvml is selected, and the old call reads power."""
    for gpu in steady.gpus:
        gpu.architecture = Architecture.PASCAL
    exporter = begin()
    wait_until(
        lambda: exporter.log().count("energy counter is not supported by this GPU") == 3, "zeus's answer"
    )
    shown = page_when(exporter, lambda page: len(page.labels(POWER)) == 3, "power")
    assert [shown.value(SELECTED, backend=name) for name in ("zeus", "nvml")] == [0, 1]
    assert shown.labels(SUCCESS, collector="zeus") == []
    assert shown.labels(ZEUS) == []
    assert {labels["power_source"] for labels in shown.labels(INFO)} == {"legacy"}
    assert shown.value(POWER, gpu="0") == 100.0
    assert scrape(exporter).value(NVML, gpu="0") >= 0
