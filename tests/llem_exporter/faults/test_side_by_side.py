"""A different fault on each GPU of one node at once: none affects another GPU, and no joule is invented."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.faults.injection import FALL_JOULES, FAULTS, SPIKE_WATTS
from tests.llem_exporter.faults.pages import (
    DENIED,
    ERRORS,
    GAP,
    GPU_GAUGES,
    GRID_SECONDS,
    INFO,
    LOST,
    NVML,
    PEAK,
    POWER,
    SAMPLES,
    SLOW_GAUGES,
    STAMP,
    TEMPERATURE,
    TOO_SLOW,
    UNSUPPORTED,
    ZEUS,
    SteadyDriver,
    accounted,
    all_read,
    counted_error,
    counter_slack,
    page_with,
    rise,
)
from tests.llem_exporter.page import MetricsPage, history, scrape
from tests.servers import Exporter, wait_until

GPUS = {name: str(number) for number, name in enumerate(["healthy", *FAULTS, "healthy, too"])}
POWER_FAULTS = {
    "power denied": DENIED,
    "zero": "ZERO_POWER",
    "absurd": "POWER_ABOVE_LIMIT",
}
"""Faults of the power reading alone, and the error that each is counted as."""

GAPS = ("lost", "hung", "unreadable", "unsupported", *POWER_FAULTS)
"""Faults during which there are no power samples."""

GONE: Mapping[str, list[str]] = {
    "lost": GPU_GAUGES,
    "hung": GPU_GAUGES,
    "unreadable": [POWER, PEAK, STAMP],
    "unsupported": [POWER, PEAK, STAMP],
    **{name: [POWER] for name in POWER_FAULTS},
    "counter denied": [ZEUS],
    "counter fell": [ZEUS],
    "counter jumped": [ZEUS],
    "status denied": SLOW_GAUGES,
}
"""The metrics that vanish from the page, by fault."""

COUNTED: Mapping[str, str] = {
    "lost": LOST,
    "hung": TOO_SLOW,
    "unreadable": DENIED,
    "unsupported": UNSUPPORTED,
    **POWER_FAULTS,
    "counter denied": DENIED,
    "counter fell": "COUNTER_FELL",
    "counter jumped": "COUNTER_JUMPED",
    "counter restarted": "COUNTER_FELL",
    "status denied": DENIED,
}
"""The error that each fault is counted as."""

FRESH_SECONDS, READ_SECONDS = 1.0, 0.3
"""The maximum age of a published reading, and the maximum duration of a call that gives a sample."""

HOLD_SECONDS = 2.0


@dataclass(frozen=True)
class Recording:
    """What the exporter showed before, during and after the faults, which held from `set_s` to `cleared_s`.

    `during` has pages with the unix times of their requests. `without` has, by fault, the first page from
    which everything in GONE has vanished. `begun_s` is the time before the first fault was set.
    """

    driver: FakeDriver
    before: MetricsPage
    during: list[tuple[float, MetricsPage]]
    without: dict[str, MetricsPage]
    back: MetricsPage
    begun_s: float
    set_s: float
    cleared_s: float
    traces: dict[tuple[str, str], list[tuple[int, float]]]
    log: str
    exit_status: int

    def watts(self, name: str) -> float:
        """Return the power of a GPU."""
        return self.driver.gpus[int(GPUS[name])].load.low_watts

    def logged(self, name: str, text: str) -> int:
        """Return the number of log lines with this text about a GPU."""
        index = GPUS[name]
        return self.log.count(f"GPU {index} ({self.driver.gpus[int(index)].uuid}): {text}")


def inject(driver: FakeDriver, on: bool) -> float:
    """Set or clear all faults. Return the unix time after the last one."""
    for name, fault in FAULTS.items():
        fault(driver.gpus[int(GPUS[name])], on)
    return time.time()


def gone(page: MetricsPage, name: str) -> bool:
    """Return whether everything that a fault removes from the page has vanished."""
    return not any(page.labels(series, gpu=GPUS[name]) for series in GONE[name])


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """Hold the faults for 2 s and until each was seen. Send SIGTERM while a GPU hangs again."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("driver")
        driver = stack.enter_context(SteadyDriver(directory, gpus=len(GPUS), step_watts=20.0))
        exporter = stack.enter_context(Exporter(env=driver.env, args=["--no-collector.codecarbon"]))
        before = all_read(exporter, len(GPUS))
        begun_s = time.time()
        set_s = inject(driver, on=True)
        during: list[tuple[float, MetricsPage]] = []
        without: dict[str, MetricsPage] = {}

        def seen() -> bool:
            during.append((time.time(), scrape(exporter)))
            asked_s, page = during[-1]
            for name in GONE:
                if gone(page, name):
                    without.setdefault(name, page)
            power_errors = [
                page.get(ERRORS, gpu=GPUS[name], error=POWER_FAULTS[name]) for name in POWER_FAULTS
            ]
            errors = [page.get(ERRORS, gpu=GPUS[name], error=error) for name, error in COUNTED.items()]
            return (
                without.keys() == GONE.keys()
                and all(errors)
                and all((count or 0) >= 10 for count in power_errors)
                and rise(before, page, SAMPLES, GPUS["healthy"]) >= 10 * HOLD_SECONDS / 2
                and asked_s - set_s >= HOLD_SECONDS
            )

        wait_until(seen, "every fault on the page")
        cleared_s = inject(driver, on=False)
        back = all_read(exporter, len(GPUS))
        wait_until(lambda: "the driver call has returned" in exporter.log(), "the end of the hang")
        traces, log = history(exporter), exporter.log()
        driver.gpus[int(GPUS["hung"])].hung = True
        page_with(exporter, ERRORS, gpu=GPUS["hung"], error=TOO_SLOW)
        wait_until(lambda: exporter.log().count("a driver call has not returned") == 2, "the second hang")
        exit_status = exporter.terminate()
        yield Recording(
            driver, before, during, without, back, begun_s, set_s, cleared_s, traces, log, exit_status
        )


def test_what_cannot_be_read_leaves_the_page_and_counters_stay(recording: Recording) -> None:
    """The gauges of an unreadable GPU disappear. Its counters and its info stay."""
    for name in GONE:
        page, gpu = recording.without[name], GPUS[name]
        counters = [NVML, SAMPLES, *([] if ZEUS in GONE[name] else [ZEUS])]
        fallen = [
            series
            for series in counters
            if page.value(series, gpu=gpu) < recording.before.value(series, gpu=gpu)
        ]
        assert (name, fallen, page.value(INFO, gpu=gpu)) == (name, [], 1)


def test_each_fault_is_counted_by_its_name(recording: Recording) -> None:
    """Each fault is counted under the driver's error name, or under ours for an invalid value."""
    _, page = recording.during[-1]
    counted = {
        name: {labels["error"] for labels in page.labels(ERRORS, gpu=gpu)} for name, gpu in GPUS.items()
    }
    for name, errors in counted.items():
        # On a machine that is busy for 0.3 s any reading may take too long.
        assert errors | {TOO_SLOW} == {TOO_SLOW, COUNTED.get(name, TOO_SLOW)}, name
    assert page.value(ERRORS, gpu=GPUS["hung"], error=TOO_SLOW) == 1
    assert page.value(ERRORS, gpu=GPUS["counter restarted"], error="COUNTER_FELL") <= 5


def test_no_page_shows_a_reading_older_than_a_second(recording: Recording) -> None:
    """No sample on the page is older than a second, and failed GPUs disappear within a second."""
    late = 0
    for asked_s, page in recording.during:
        for labels in page.labels(STAMP):
            assert asked_s - page.value(STAMP, **labels) <= FRESH_SECONDS + GRID_SECONDS
        if asked_s - recording.set_s > FRESH_SECONDS + READ_SECONDS:
            late += 1
            assert [name for name in ("lost", "hung", *POWER_FAULTS) if not gone(page, name)] == []
    assert late


def test_power_and_counter_fail_each_by_itself(recording: Recording) -> None:
    """Without power, counter and temperature are still published. Without the counter, power is."""
    before, (_, held) = recording.before, recording.during[-1]
    for name in POWER_FAULTS:
        assert held.get(POWER, gpu=GPUS[name]) is None
        assert rise(before, held, ZEUS, GPUS[name]) > 0
        assert held.value(TEMPERATURE, gpu=GPUS[name]) == before.value(TEMPERATURE, gpu=GPUS[name])
    for name in ("counter denied", "counter fell", "counter jumped", "counter restarted", "status denied"):
        assert recording.without.get(name, held).value(POWER, gpu=GPUS[name]) == recording.watts(name)


def test_a_gpu_that_hangs_stops_no_other(recording: Recording) -> None:
    """While one GPU hangs, the others are sampled and handed over, and its gap grows."""
    gone_page, (asked_s, held) = recording.without["hung"], recording.during[-1]
    assert rise(gone_page, held, SAMPLES, GPUS["hung"]) == 0
    assert held.value(GAP, gpu=GPUS["hung"]) >= asked_s - recording.set_s - 2 * READ_SECONDS
    for name in ("healthy", "healthy, too"):
        assert rise(recording.before, held, SAMPLES, GPUS[name]) >= 10 * HOLD_SECONDS / 2
        times_ms = [ms for ms, _ in recording.traces["llem_gpu_power_trace_watts", GPUS[name]]]
        held_ms = [ms for ms in times_ms if recording.set_s <= ms / 1000 <= recording.cleared_s]
        assert len(held_ms) >= 10 * HOLD_SECONDS / 2


def test_sigterm_ends_the_process_while_a_gpu_hangs(recording: Recording) -> None:
    """With a hung GPU, SIGTERM gives exit status 0."""
    assert recording.exit_status == 0


def test_covered_and_gap_seconds_are_all_the_time_and_joules_are_exact(recording: Recording) -> None:
    """For every fault, there are gaps only while power could not be read."""
    held_s = recording.cleared_s - recording.set_s
    for name, gpu in GPUS.items():
        if name == "spike":  # its joules are not those of its load
            continue
        gap_s = accounted(recording.driver, recording.before, recording.back, gpu)
        if name in GAPS:
            assert gap_s >= held_s - READ_SECONDS, name
        else:
            assert gap_s < held_s / 2, name  # 0 on a quiet machine


def test_hardware_counters_lose_and_invent_nothing(recording: Recording) -> None:
    """The counter includes the energy used during the fault. A fall of the counter is not hidden."""
    driver, before, back = recording.driver, recording.before, recording.back
    steps = {"counter fell": -FALL_JOULES}
    errors = {
        name: counted_error(driver, before, back, gpu, steps.get(name, 0.0))
        for name, gpu in GPUS.items()
        if name != "counter restarted"
    }
    assert errors == dict.fromkeys(errors, 0.0)
    gpu = GPUS["counter restarted"]
    most = driver.exact_joules(int(gpu), recording.begun_s, back.value(STAMP, gpu=gpu))
    least = driver.exact_joules(int(gpu), recording.set_s, back.value(STAMP, gpu=gpu))
    slack = counter_slack(driver, back, gpu)
    assert least - slack <= back.value(ZEUS, gpu=gpu) <= most + slack


def test_no_trace_holds_what_no_gpu_reads(recording: Recording) -> None:
    """0 W and 10 kW are not samples, a spike is. A counter falls only after a restart of the counter."""
    for name, gpu in GPUS.items():
        watts = {value for _, value in recording.traces["llem_gpu_power_trace_watts", gpu]}
        assert watts == {recording.watts(name), *([SPIKE_WATTS] if name == "spike" else [])}, name
        counter = [value for _, value in recording.traces["llem_gpu_zeus_energy_trace_joules_total", gpu]]
        falls = sum(later < earlier for earlier, later in pairwise(counter))
        assert falls == (name == "counter restarted"), name
    assert recording.back.value(PEAK, gpu=GPUS["absurd"]) == recording.watts("absurd")
    assert recording.back.value(PEAK, gpu=GPUS["spike"]) == SPIKE_WATTS


@pytest.mark.parametrize(
    ("name", "failed", "recovered"),
    [
        ("hung", "a driver call has not returned", "the driver call has returned"),
        ("zero", "power cannot be read: power of 0 W is impossible", "power works again"),
        ("absurd", "power cannot be read: power of 10000 W is above", "power works again"),
        ("power denied", "power cannot be read: ", "power works again"),
        ("status denied", f"status cannot be read: {DENIED}", "status works again"),
        (
            "counter fell",
            "energy counter cannot be read: the counter decreased by",
            "energy counter works again",
        ),
    ],
)
def test_the_log_has_one_line_for_a_fault_and_one_for_its_end(
    recording: Recording, name: str, failed: str, recovered: str
) -> None:
    """The number of lines does not depend on the duration or the number of failed readings."""
    assert (recording.logged(name, failed), recording.logged(name, recovered)) == (1, 1)
