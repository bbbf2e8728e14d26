"""What a tick reads, when it counts for, and what a failing GPU or a stepping clock does to it."""

import threading
from collections.abc import Callable
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import DeviceError, DeviceLostError
from llem_measure.sampling.devices import DeviceInfo, Status
from llem_measure.sampling.ledger import GpuLedger, Page
from llem_measure.sampling.ring import Ring
from llem_measure.sampling.sampler import GpuSampler, Sampler
from llem_measure.sampling.ticks import WallClock
from tests.llem_measure.fake_time import FakeTime, FormulaDevice

INTERVAL_MS = 100


class Rig:
    """One sampled GPU on clocks moved by hand."""

    def __init__(
        self,
        watts_at: Callable[[int], float] = lambda _: 100.0,
        time: FakeTime | None = None,
        index: int = 0,
    ) -> None:
        self.time = time or FakeTime()
        self.clock = WallClock(INTERVAL_MS, self.time.unix_s, self.time.monotonic_s)
        self.device = FormulaDevice(watts_at, DeviceInfo(index, "GPU-formula", "formula"))
        self.lateness: list[float] = []
        self.calls: list[float] = []
        self.gpu = GpuSampler(
            self.device,
            GpuLedger(Ring(100_000), 3 * INTERVAL_MS),
            self.clock,
            INTERVAL_MS,
            observe_lateness=self.lateness.append,
            observe_call=self.calls.append,
            sleep=self.time.sleep,
        )

    def slow(self, takes_s: float) -> Callable[[int], float]:
        """A reading of 999 W that takes its time."""

        def read(_: int) -> float:
            self.time.sleep(takes_s)
            return 999.0

        return read

    def tick(self, count: int = 1) -> Page:
        for tick in islice(self.gpu.ticker, count):
            self.gpu.read(tick)
        return self.page()

    def page(self) -> Page:
        return self.gpu.ledger.page(self.clock.now_ms(), self.time.monotonic_s())

    def times_ms(self) -> list[int]:
        return list(self.gpu.ledger.trace(0, 10**15).times_ms)


@pytest.mark.parametrize(
    ("read_takes_s", "after_tick_ms"), [(0.0, 0), (0.0039, 0), (0.0052, 3), (0.101, 50), (0.298, 149)]
)
def test_a_sample_has_the_middle_of_its_read_for_its_time(read_takes_s: float, after_tick_ms: int) -> None:
    """Up to 2 ms after the tick, a sample has the time of the tick. Later it has its own millisecond."""
    rig = Rig()
    rig.tick()
    rig.device.watts_at = rig.slow(read_takes_s)
    tick = next(rig.gpu.ticker)
    assert rig.gpu.read(tick)
    assert rig.page().sample_ms == tick.unix_ms + after_tick_ms
    assert rig.lateness[-1] == pytest.approx(read_takes_s / 2, abs=1e-6)
    assert rig.calls[-1] == pytest.approx(read_takes_s, abs=1e-6)


def test_a_read_longer_than_max_gap_is_an_error_and_no_sample() -> None:
    """The time of a value within a read of 301 ms is unknown."""
    rig = Rig()
    rig.tick()
    rig.device.watts_at = rig.slow(0.301)
    shown = rig.tick()
    assert (shown.samples, shown.errors, shown.watts) == (1, {"READ_TOO_SLOW": 1}, 100.0)


def test_a_call_that_hangs_is_noted_once_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """A hang of over a second is counted by look(). Its end is logged by the GPU's thread."""
    rig, stopped = Rig(), threading.Event()

    def hang(_: int) -> float:
        for seconds in (0.9, 0.2, 5.0):
            rig.time.sleep(seconds)
            rig.gpu.look()
            errors.append(dict(rig.page().errors))
        stopped.set()
        return 100.0

    errors: list[dict[str, int]] = []
    rig.device.watts_at = hang
    with caplog.at_level("INFO"):
        rig.gpu.run(stopped)
        rig.gpu.look()
        rig.gpu.look()
    assert errors == [{}, {"READ_TOO_SLOW": 1}, {"READ_TOO_SLOW": 1}]
    assert rig.page().errors == {"READ_TOO_SLOW": 1}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_watts_are_rounded_before_they_are_integrated() -> None:
    """100.06 W are 100 W in the gauge and in the joules."""
    shown = Rig(lambda _: 100.06).tick(11)
    assert (shown.watts, shown.nvml_joules) == (100.0, 100.0)


@pytest.mark.parametrize("read_takes_s", [0.0, 0.12, 0.25])
@pytest.mark.parametrize("index", [0, 1, 7])
def test_slow_readings_come_about_once_a_second(read_takes_s: float, index: int) -> None:
    """This holds even if reads take longer than an interval."""
    rig = Rig(index=index)
    rig.device.status = Status(temperature_celsius=40.0)
    rig.device.watts_at = rig.slow(read_takes_s)
    start_s = rig.time.monotonic_s()
    times_s: list[float] = []
    rig.device.on_status = lambda: times_s.append(rig.time.monotonic_s())
    while rig.time.monotonic_s() < start_s + 10:
        rig.tick()
        rig.gpu.read_status()
    assert 8 <= len(times_s) <= 11
    assert rig.page().status.temperature_celsius == 40.0


def test_slow_readings_are_shown_for_five_seconds() -> None:
    """They expire even while power is read."""
    rig = Rig()
    rig.tick()
    rig.gpu.ledger.set_status(Status(temperature_celsius=40.0), rig.time.monotonic_s())
    assert rig.tick(49).status.temperature_celsius == 40.0
    assert rig.tick(3).status.temperature_celsius is None


def test_an_unexpected_exception_is_counted_by_its_type_and_the_gpu_read_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This holds for power and slow readings. Each logs one line."""
    rig = Rig()
    rig.device.watts_at = failing(UnicodeDecodeError("utf-8", b"", 0, 1, "odd"))
    rig.tick(3)
    rig.device.on_status = failing_now(KeyError("odd"))
    for _ in range(2):
        rig.gpu.read_status()
        rig.time.sleep(1.1)
    rig.device.watts_at = lambda _: 100.0
    shown = rig.tick()
    assert (shown.watts, shown.errors) == (100.0, {"UnicodeDecodeError": 3, "KeyError": 2})
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 2


def test_ten_failures_in_a_row_reopen_whatever_they_are_called() -> None:
    """The GPU is reopened once a second until a reading succeeds. Then the count starts again."""
    rig = Rig()
    rig.device.watts_at = failing(DeviceError("odd", "NVML_ERROR_UNKNOWN"))
    rig.tick(10)
    assert rig.device.reopened == 0
    rig.tick(11)
    reopened = rig.device.reopened
    assert reopened >= 1
    rig.device.watts_at = lambda _: 100.0
    rig.tick(11)
    rig.device.watts_at = failing(DeviceError("odd", "NVML_ERROR_UNKNOWN"))
    rig.tick(10)
    assert rig.device.reopened == reopened + 1


def test_an_absurd_reading_is_an_error_and_no_sample() -> None:
    """NaN, infinite and negative power is counted as an error and does not make a gap."""
    values = [float("nan"), float("inf"), -1.0, 1e308]
    rig = Rig()
    rig.tick()
    for value in values:
        rig.device.watts_at = lambda _, value=value: value  # type: ignore[misc]
        rig.tick()
        rig.device.watts_at = lambda _: 100.0
        rig.tick()
    shown = rig.page()
    assert (shown.errors, shown.nvml_joules) == ({"NOT_A_SAMPLE": len(values)}, 20.0 * len(values))


def test_each_quantity_is_read_once_a_tick() -> None:
    """A tick makes one reading of power and one of the energy counter."""
    power, energy = list[int](), list[float]()

    def watts_at(unix_ms: int) -> float:
        power.append(unix_ms)
        return 100.0

    def joules() -> float:
        energy.append(7.0)
        return 7.0

    rig = Rig(watts_at)
    rig.gpu.attach(Counter(joules))
    assert rig.tick(20).samples == len(power) == len(energy) == 20


def test_a_failing_gpu_is_asked_at_every_tick() -> None:
    """A temporary error is counted each time, by the driver's name."""
    rig = Rig()
    rig.device.watts_at = failing(DeviceError("slow", "NVML_ERROR_TIMEOUT"))
    assert rig.tick(9).errors == {"NVML_ERROR_TIMEOUT": 9}
    assert rig.device.reopened == 0


def test_a_lost_gpu_is_opened_anew_once_a_second_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    """A lost GPU is not read, only reopened.

    The loss and the return are logged, and the time between is a gap.
    """
    rig = Rig()
    rig.tick(11)
    rig.device.watts_at = failing(DeviceLostError("gone", "NVML_ERROR_GPU_IS_LOST"))
    with caplog.at_level("INFO"):
        shown = rig.tick(50)
        assert shown.errors == {"NVML_ERROR_GPU_IS_LOST": 5}
        assert rig.device.reopened == 4
        assert (shown.watts, shown.nvml_joules) == (None, 100.0)
        rig.device.watts_at = lambda _: 100.0
        shown = rig.tick(21)
    assert shown.watts == 100.0
    assert shown.integrated_s is not None
    assert shown.gap_s is not None
    assert shown.integrated_s + shown.gap_s == pytest.approx(8.1)
    assert shown.gap_s == pytest.approx(5.1, abs=1.0)
    assert [record.message.split(": ", 1)[1] for record in caplog.records] == [
        "power cannot be read: gone",
        "power is read again",
    ]


def test_power_and_energy_counter_fail_each_for_itself() -> None:
    """The counter is read while power cannot be read, and vice versa."""
    rig = Rig()
    counter = Counter(lambda: 7.03)
    rig.gpu.attach(counter)
    assert rig.tick().joules == 7.0
    rig.device.watts_at = failing(DeviceLostError("none", "NVML_ERROR_NOT_SUPPORTED"))
    shown = rig.tick()
    assert (shown.watts, shown.joules, shown.sample_ms) == (None, 7.0, rig.gpu.ticker.next_ms)
    counter.joules = failing_now(DeviceError("down", "NVML_ERROR_UNKNOWN"))
    rig.device.watts_at = lambda _: 100.0
    shown = rig.tick(11)
    assert (shown.watts, shown.joules) == (100.0, None)


@pytest.mark.parametrize("step_s", [3.0, -3.0, 3600.0, -3600.0, 0.15, -0.15])
def test_a_clock_step_repeats_no_time_and_invents_no_joules(step_s: float) -> None:
    """Published times ascend. A step makes a hole longer than max_gap."""
    rig = Rig()
    rig.tick(50)
    rig.time.set_wall(step_s)
    rig.clock.observe()
    shown = rig.tick(100)
    times_ms = rig.times_ms()
    steps_ms = [after - before for before, after in pairwise(times_ms)]
    assert min(steps_ms) > 0
    assert shown.watts == 100.0
    if step_s > -10:
        assert sum(step > 300 for step in steps_ms) == 1
        assert shown.gap_s is not None
        assert shown.gap_s >= max(step_s, 0)
    assert shown.integrated_s is not None
    assert shown.integrated_s <= 15
    assert shown.nvml_joules == pytest.approx(100 * shown.integrated_s)


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(-20, 20)), min_size=1, max_size=8))
def test_whatever_the_clock_does_joules_stay_below_power_times_true_time(
    script: list[tuple[int, float]],
) -> None:
    """For any steps, published times ascend, and the integrated time does not exceed the elapsed time."""
    rig = Rig()
    start_s = rig.time.monotonic_s()
    for ticks, step_s in script:
        rig.tick(ticks)
        rig.time.set_wall(step_s)
        rig.clock.observe()
    shown = rig.tick(5)
    passed_s = rig.time.monotonic_s() - start_s
    times_ms = rig.times_ms()
    assert all(before < after for before, after in pairwise(times_ms))
    # Changes short of a step are slewed in by 1 ms each.
    slewed_s = 0.001 * len(script)
    assert (shown.integrated_s or 0.0) <= passed_s + slewed_s + 0.001


def test_pulls_end_at_the_tick_that_the_slowest_gpu_waits_for() -> None:
    """A pull has whole ticks of all GPUs. It does not wait for a read longer than max_gap."""
    time = FakeTime()
    clock = WallClock(INTERVAL_MS, time.unix_s, time.monotonic_s)
    sampler = Sampler([FormulaDevice(lambda _: 1.0)] * 2, clock, INTERVAL_MS, 60_000)
    now_ms = clock.now_ms()
    first, second = sampler.gpus
    first.ticker.next_ms, second.ticker.next_ms = now_ms + 60, now_ms - 40
    assert sampler.settled_ms(now_ms) == now_ms - 40
    second.ticker.next_ms = now_ms - 5000
    assert sampler.settled_ms(now_ms) == (now_ms - 300) // 100 * 100
    assert not sampler.ready


class Counter:
    """An energy counter that is a function."""

    def __init__(self, joules: Callable[[], float]) -> None:
        self.joules = joules

    def read_joules(self, unix_ms: int) -> float:
        del unix_ms
        return self.joules()

    def reopen(self) -> None:
        """Nothing to open."""


def failing(error: Exception) -> Callable[[int], float]:
    def read(_: int) -> float:
        raise error

    return read


def failing_now(error: Exception) -> Callable[[], float]:
    return lambda: failing(error)(0)


@pytest.mark.parametrize(
    ("after_tick_ms", "pause_ms"), [(0, 3), (2, 1), (3.1, 0), (50, 0), (98.9, 0), (99.5, 3.5)]
)
def test_long_work_leaves_a_pause_around_each_tick(after_tick_ms: float, pause_ms: float) -> None:
    """The pause is from 1 ms before a tick until 3 ms after it."""
    time = FakeTime(1_795_507_546.0 + after_tick_ms / 1000)
    clock = WallClock(INTERVAL_MS, time.unix_s, time.monotonic_s)
    sampler = Sampler([FormulaDevice(lambda _: 1.0)], clock, INTERVAL_MS, 60_000)
    assert 1000 * sampler.pause_s() == pytest.approx(pause_ms, abs=0.01)
