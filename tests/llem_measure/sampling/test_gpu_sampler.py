"""What a tick reads, at what time it counts, and what a failing GPU does to it."""

from collections.abc import Callable
from itertools import islice, pairwise
from math import isnan

import pytest

from llem_core.backend import Backend
from llem_core.errors import DeviceError, DeviceLostError
from llem_measure.sampling.devices import DeviceInfo, Status
from llem_measure.sampling.gpu_sampler import GpuSampler
from llem_measure.sampling.ledger import FRESH_SECONDS, NO_READING
from tests.llem_measure.fake_time import FakeTime, FormulaCounter
from tests.llem_measure.sampling.sampled_gpu import SampledGpu, failing

SUPERCHIP = DeviceInfo(0, "GPU-superchip", "superchip", module="serial-1")


@pytest.mark.parametrize(
    ("read_takes_s", "after_tick_ms"), [(0.0, 0), (0.0039, 0), (0.0052, 3), (0.101, 50), (0.298, 149)]
)
def test_a_sample_has_the_middle_of_its_read_for_its_time(read_takes_s: float, after_tick_ms: int) -> None:
    """Up to 2 ms after the tick, a sample has the time of the tick. Later it has its own millisecond."""
    rig = SampledGpu()
    rig.tick()
    rig.device.watts_at = rig.slow(read_takes_s)
    shown = rig.tick()
    assert shown.reading.unix_ms == shown.reading.tick_ms + after_tick_ms
    assert shown.reading.watts_call_s == pytest.approx(read_takes_s, abs=1e-6)
    assert rig.observed.latenesses_s[-1] == pytest.approx(read_takes_s / 2, abs=1e-6)
    assert rig.observed.calls_s["power"][-1] == pytest.approx(read_takes_s, abs=1e-6)


def test_each_kind_of_call_has_its_own_time() -> None:
    """Power, energy and status are timed separately."""
    rig = SampledGpu(counter=FormulaCounter(lambda _: 7.0))
    rig.device.watts_at = rig.slow(0.001)
    rig.device.on_status = lambda: rig.time.sleep(0.03)
    shown = rig.tick(5)
    assert [rig.observed.calls_s[kind][-1] for kind in ("power", "status")] == pytest.approx([0.001, 0.03])
    assert [shown.reading.watts_call_s, shown.reading.joules_call_s] == pytest.approx([0.001, 0.0])
    assert [len(rig.observed.calls_s[kind]) for kind in ("power", "energy", "status")] == [5, 5, 1]


def test_a_read_longer_than_max_gap_is_an_error_and_no_sample() -> None:
    """The time of a value within a read of 301 ms is unknown."""
    rig = SampledGpu()
    rig.tick()
    rig.device.watts_at = rig.slow(0.301)
    shown = rig.tick()
    assert (shown.samples, shown.errors, shown.watts) == (1, {"READ_TOO_SLOW": 1}, 100.0)


def test_a_call_that_hangs_is_noted_once_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """A hang of over a second is counted by check_hang(), and not again when the call returns."""
    rig = SampledGpu()
    errors = list[dict[str, int]]()

    def hang(_: int) -> float:
        for seconds in (0.9, 0.2, 5.0):
            rig.time.sleep(seconds)
            rig.gpu.check_hang()
            errors.append(dict(rig.snapshot().errors))
        return 100.0

    rig.device.watts_at = hang
    with caplog.at_level("INFO"):
        rig.tick()
        rig.gpu.check_hang()
        rig.gpu.check_hang()
    assert errors == [{}, {"READ_TOO_SLOW": 1}, {"READ_TOO_SLOW": 1}]
    assert rig.snapshot().errors == {"READ_TOO_SLOW": 1}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    rig.device.watts_at = lambda _: 100.0
    assert rig.tick().watts == 100.0


def test_slow_readings_that_hang_are_noted_too() -> None:
    """A status call of over a second is an error while it lasts."""
    rig = SampledGpu()

    def hang() -> None:
        rig.time.sleep(1.1)
        rig.gpu.check_hang()

    rig.device.on_status = hang
    assert rig.tick().errors == {"READ_TOO_SLOW": 1}


def test_watts_are_rounded_before_they_are_integrated() -> None:
    """100.06 W are 100 W in the gauge and in the joules."""
    shown = SampledGpu(lambda _: 100.06).tick(11)
    assert (shown.watts, shown.nvml_joules) == (100.0, 100.0)


@pytest.mark.parametrize("read_takes_s", [0.0, 0.12, 0.25])
@pytest.mark.parametrize("index", [0, 1, 7])
def test_slow_readings_come_about_once_a_second(read_takes_s: float, index: int) -> None:
    """This holds even if reads take longer than an interval. The first comes with the first reading."""
    rig = SampledGpu(info=DeviceInfo(index, "GPU-formula"))
    rig.device.status = Status(temperature_celsius=40.0)
    rig.device.watts_at = rig.slow(read_takes_s)
    times_s = list[float]()
    rig.device.on_status = lambda: times_s.append(rig.time.monotonic_s())
    rig.tick()
    start_s = rig.time.monotonic_s()
    assert times_s == [start_s]
    while rig.time.monotonic_s() < start_s + 10:
        rig.tick()
    assert 9 <= len(times_s) <= 12
    assert rig.snapshot().status.temperature_celsius == 40.0


def test_slow_readings_of_several_gpus_come_at_different_times() -> None:
    """Eight GPUs in one wake-up would else delay the next tick together."""
    time, times_s = FakeTime(), dict[int, list[float]]()
    rigs = [SampledGpu(info=DeviceInfo(index, f"GPU-{index}"), time=time) for index in range(8)]
    for rig in rigs:
        read_s = times_s.setdefault(rig.gpu.index, [])
        rig.device.on_status = lambda read_s=read_s: read_s.append(time.monotonic_s())  # type: ignore[misc]
    for tick, _ in zip(rigs[0].ticker, range(50), strict=False):
        for rig in rigs:
            rig.gpu.read(tick)
            rig.gpu.finish()
    in_the_third_second = [round(10 * (read_s[2] - times_s[0][2])) for read_s in times_s.values()]
    assert len(set(in_the_third_second)) == 8


def test_slow_readings_that_come_alone_never_expire() -> None:
    """Without power, status readings expire after a second, and are read more often than that."""
    rig, times_s = SampledGpu(failing(DeviceError("denied", "NVML_ERROR_NO_PERMISSION"))), list[float]()
    rig.device.on_status = lambda: times_s.append(rig.time.monotonic_s())
    rig.tick(100)
    assert max(later - earlier for earlier, later in pairwise(times_s)) <= FRESH_SECONDS - 0.2


def test_the_last_reading_has_new_slow_readings() -> None:
    """They are read at the end even if they are not due. last_read is set then."""
    rig, times_s = SampledGpu(), list[float]()
    rig.device.on_status = lambda: times_s.append(rig.time.monotonic_s())
    rig.tick(3)
    assert (rig.gpu.first_read.is_set(), rig.gpu.last_read.is_set(), len(times_s)) == (True, False, 1)
    rig.gpu.read(next(rig.ticker))
    rig.gpu.finish(last=True)
    assert (rig.gpu.last_read.is_set(), len(times_s)) == (True, 2)


def test_an_unexpected_exception_is_counted_by_its_type_and_the_gpu_read_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This holds for power and status readings. Each logs one line."""
    rig = SampledGpu(failing(UnicodeDecodeError("utf-8", b"", 0, 1, "odd")))
    rig.tick(3)
    rig.device.watts_at, rig.device.on_status = lambda _: 100.0, raising(KeyError("odd"))
    shown = rig.tick(40)
    assert (shown.watts, shown.errors) == (100.0, {"UnicodeDecodeError": 3, "KeyError": 4})
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 2


def test_a_gpu_is_opened_by_its_first_reading() -> None:
    """A GPU that cannot be opened is an error, opened again each second. Nothing else is read until then."""
    rig, counter = SampledGpu(), FormulaCounter(lambda _: 7.0)
    device = ClosedDevice()
    rig.gpu = GpuSampler(device, counter, rig.ledger, rig.clock, 100, observe=rig.observed.add)
    shown = rig.tick(20)
    assert shown.errors == {"NVML_ERROR_GPU_IS_LOST": 2}
    assert (rig.gpu.is_open, rig.gpu.is_lost, rig.gpu.first_read.is_set()) == (False, False, True)
    assert (shown.reading is NO_READING, counter.opened, device.statuses) == (True, 0, 0)
    device.error = None
    shown = rig.tick(10)
    assert (rig.gpu.is_open, rig.gpu.is_lost) == (True, False)
    assert (shown.watts, shown.joules, counter.opened, device.statuses) == (100.0, 7.0, 1, 1)


def test_ten_failures_in_a_row_reopen_whatever_they_are_called() -> None:
    """The GPU is reopened once a second until a reading succeeds. Then the count starts again."""
    rig = SampledGpu(failing(DeviceError("odd", "NVML_ERROR_UNKNOWN")))
    rig.tick(10)
    assert rig.device.opened == 1
    rig.tick(11)
    opened = rig.device.opened
    assert opened == 2
    rig.device.watts_at = lambda _: 100.0
    rig.tick(11)
    opened = rig.device.opened
    rig.device.watts_at = failing(DeviceError("odd", "NVML_ERROR_UNKNOWN"))
    rig.tick(19)
    assert rig.device.opened == opened
    rig.tick(1)
    assert rig.device.opened == opened + 1


def test_an_absurd_reading_is_an_error_and_no_sample() -> None:
    """NaN, infinite and negative power is counted as an error and does not make a gap."""
    values = [float("nan"), float("inf"), -1.0, 1e308]
    rig = SampledGpu()
    rig.tick()
    for value in values:
        rig.device.watts_at = lambda _, value=value: value  # type: ignore[misc]
        rig.tick()
        rig.device.watts_at = lambda _: 100.0
        rig.tick()
    shown = rig.snapshot()
    assert (shown.errors, shown.nvml_joules) == ({"NOT_A_SAMPLE": len(values)}, 20.0 * len(values))


def test_each_quantity_is_read_once_a_tick() -> None:
    """A tick makes one reading of power and one of the energy counter, at the same time."""
    power_ms, energy_ms = list[int](), list[int]()

    def watts_at(unix_ms: int) -> float:
        power_ms.append(unix_ms)
        return 100.0

    def joules_at(unix_ms: int) -> float:
        energy_ms.append(unix_ms)
        return 7.0

    shown = SampledGpu(watts_at, FormulaCounter(joules_at)).tick(20)
    assert shown.samples == len(power_ms) == 20
    assert power_ms == energy_ms
    assert shown.reading.unix_ms == pytest.approx(power_ms[-1], abs=1)


def test_a_failing_gpu_is_asked_at_every_tick() -> None:
    """A temporary error is counted each time, by the driver's name."""
    rig = SampledGpu(failing(DeviceError("slow", "NVML_ERROR_TIMEOUT")))
    assert rig.tick(9).errors == {"NVML_ERROR_TIMEOUT": 9}
    assert rig.device.opened == 1


def test_a_lost_gpu_is_opened_anew_once_a_second_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    """A lost GPU is not read, only reopened.

    The loss and the return are logged, and the time between is a gap.
    """
    rig = SampledGpu()
    rig.tick(11)
    rig.device.watts_at = failing(DeviceLostError("gone", "NVML_ERROR_GPU_IS_LOST"))
    with caplog.at_level("INFO"):
        shown = rig.tick(50)
        assert shown.errors == {"NVML_ERROR_GPU_IS_LOST": 5}
        assert rig.device.opened == 1 + 4
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
        "power works again",
    ]


def test_power_and_energy_counter_fail_each_for_itself() -> None:
    """The counter is read while power cannot be read, and vice versa."""
    counter = FormulaCounter(lambda _: 7.03)
    rig = SampledGpu(counter=counter)
    assert rig.tick().joules == 7.0
    rig.device.watts_at = failing(DeviceLostError("none", "NVML_ERROR_NOT_SUPPORTED"))
    shown = rig.tick()
    assert (shown.watts, shown.joules, shown.reading.unix_ms) == (None, 7.0, shown.reading.tick_ms)
    counter.joules_at = failing(DeviceError("down", "NVML_ERROR_UNKNOWN"))
    rig.device.watts_at = lambda _: 100.0
    shown = rig.tick(11)
    assert (shown.watts, shown.joules) == (100.0, None)


def test_a_gpu_without_a_counter_is_asked_once() -> None:
    """Its source of joules is nvml."""
    counter = FormulaCounter(lambda _: 7.0, exists=False)
    rig = SampledGpu(counter=counter)
    assert rig.tick(30).joules is None
    assert (counter.opened, rig.gpu.counter.exists, rig.gpu.counter.scope) == (1, False, "")
    assert rig.gpu.counter.source is Backend.NVML
    assert SampledGpu().gpu.counter.source is Backend.NVML


def with_counter(
    counter_watts: float = 100.0, *, call_s: float = 0.0, info: DeviceInfo | None = None
) -> SampledGpu:
    """Return a GPU of 100 W with a counter of this power, whose calls take this long."""
    time = FakeTime()

    def read(_: int) -> float:
        time.sleep(call_s)
        return 5e6 + counter_watts * time.monotonic_s()

    return SampledGpu(counter=FormulaCounter(read), info=info, time=time)


def times_of_joules_ms(rig: SampledGpu) -> list[float]:
    samples = rig.samples()
    pairs = zip(samples.times_ms, samples.joules, strict=True)
    return [ms for ms, joules in pairs if not isnan(joules)]


@pytest.mark.parametrize("index", [0, 3, 7])
def test_a_slow_energy_counter_is_read_once_a_second(index: int) -> None:
    """A call of 2.4 ms is over 2 % of 100 ms. Power is read at every tick, and the trace tells the times."""
    rig = with_counter(call_s=0.0024, info=DeviceInfo(index, "GPU-formula"))
    rig.tick(300)
    assert rig.ledger.samples == len(rig.observed.calls_s["power"]) == 300
    steps_ms = [after - before for before, after in pairwise(times_of_joules_ms(rig))]
    assert steps_ms[:8] == pytest.approx([100] * 8, abs=2), "until nine calls have been timed"
    assert steps_ms[9:] == pytest.approx([1000] * len(steps_ms[9:]), abs=2)
    assert 28 <= len(steps_ms) - 9 <= 29
    assert len(rig.observed.calls_s["energy"]) == len(steps_ms) + 1


def test_slow_energy_calls_of_several_gpus_come_at_different_times() -> None:
    """Each of eight GPUs reads its slow counter at a tick of its own in each second."""
    ticks = set[int]()
    for index in range(8):
        rig = with_counter(call_s=0.0024, info=DeviceInfo(index, "GPU-formula"))
        rig.tick(100)
        ticks.add(round(times_of_joules_ms(rig)[-1] / 100) % 10)
    assert len(ticks) == 8


@pytest.mark.parametrize("call_s", [0.0, 0.0019])
def test_a_fast_energy_counter_is_read_at_every_tick(call_s: float) -> None:
    """A call of 1.9 ms is less than 2 % of 100 ms."""
    rig = with_counter(call_s=call_s)
    rig.tick(100)
    assert len(times_of_joules_ms(rig)) == 100


def test_a_counter_that_becomes_fast_is_read_at_every_tick_again() -> None:
    """The median is of nine calls."""
    call_s, time = [0.0024], FakeTime()

    def read(_: int) -> float:
        time.sleep(call_s[0])
        return 100 * time.monotonic_s()

    rig = SampledGpu(counter=FormulaCounter(read), time=time)
    rig.tick(50)
    call_s[0] = 0.0
    rig.tick(200)
    read_before = len(times_of_joules_ms(rig))
    rig.tick(50)
    assert len(times_of_joules_ms(rig)) == read_before + 50


def test_with_a_slow_counter_a_snapshot_is_of_one_instant() -> None:
    """Watts, joules and sums are those of the last reading of both, at most 1.1 s ago."""
    rig = with_counter(call_s=0.0024)
    rig.tick(40)
    for _ in range(40):
        shown = rig.tick()
        assert (shown.sample_unix_s, shown.joules, shown.integrated_s) != (None, None, None)
        assert shown.sample_unix_s is not None
        assert shown.joules is not None
        assert shown.integrated_s is not None
        assert 0 <= rig.clock.now_ms() - shown.reading.unix_ms <= 1100
        start_s = rig.samples().times_ms[0] / 1000
        assert shown.integrated_s == pytest.approx(shown.reading.unix_ms / 1000 - start_s)
        counted_s = (shown.joules - 5e6) / 100 + rig.clock.mapping.offset_s
        assert counted_s == pytest.approx(shown.reading.unix_ms / 1000, abs=0.005)


def test_slow_energy_calls_are_known_before_they_are_made() -> None:
    """The sampler reads the other GPUs first then."""
    rig = with_counter(call_s=0.0024)
    rig.tick(30)
    slow = list[bool]()
    for tick in islice(rig.ticker, 30):
        slow.append(rig.gpu.is_slow_now())
        calls = len(rig.observed.calls_s["energy"])
        rig.gpu.read(tick)
        rig.gpu.finish()
        assert slow[-1] == (len(rig.observed.calls_s["energy"]) > calls)
    assert sum(slow) == 3


def test_the_energy_counter_of_an_ordinary_gpu_counts_the_gpu() -> None:
    """It is published from its first reading. The source is zeus once it has moved."""
    rig = with_counter()
    assert rig.gpu.counter.source is None
    shown = rig.tick()
    assert (shown.joules is not None, rig.gpu.counter.scope, rig.gpu.counter.source) == (True, "gpu", None)
    rig.tick()
    assert rig.gpu.counter.source is Backend.ZEUS


@pytest.mark.parametrize(
    ("counter_watts", "scope", "source"), [(100.0, "gpu", Backend.ZEUS), (467.0, "module", Backend.NVML)]
)
def test_the_scope_of_a_superchips_counter_is_found(
    counter_watts: float, scope: str, source: Backend
) -> None:
    """It is withheld and without a source until 10 s are known. One that counts the module stays withheld."""
    rig = with_counter(counter_watts, info=SUPERCHIP)
    rig.device.status = Status(module_watts=467.0)
    shown = rig.tick(95)
    assert (shown.joules, rig.gpu.counter.scope, rig.gpu.counter.source) == (None, "", None)
    shown = rig.tick(10)
    assert (rig.gpu.counter.scope, rig.gpu.counter.source) == (scope, source)
    assert (shown.joules is None) == (scope == "module")
    assert shown.watts == 100.0
    assert all(isnan(joules) for joules in rig.samples().joules[:95])


def test_without_the_modules_power_the_scope_stays_unknown() -> None:
    """The counter is withheld then, and there is no source."""
    rig = with_counter(info=SUPERCHIP)
    shown = rig.tick(300)
    assert (shown.joules, rig.gpu.counter.scope, rig.gpu.counter.source) == (None, "", None)


def test_the_update_periods_of_power_and_counter_are_measured() -> None:
    """A sensor that changes every 500 ms, and a counter that changes at every tick."""
    rig = with_counter()
    rig.device.watts_at = lambda ms: 100.0 + ms // 500 % 97
    rig.tick(10)
    assert rig.gpu.power_period.seconds is None
    assert rig.gpu.counter is not None
    assert rig.gpu.counter.period.seconds == pytest.approx(0.1)
    rig.tick(60)
    assert rig.gpu.power_period.seconds == pytest.approx(0.5)


class StuckCounter(FormulaCounter):
    """A counter that stands still for a while."""

    def __init__(self, time: FakeTime, first_joules: float) -> None:
        super().__init__(self._read)
        self.is_stuck, self._time, self._joules = True, time, first_joules

    def _read(self, _: int) -> float:
        if not self.is_stuck:
            self._joules += 10.0
        return self._joules


@pytest.mark.parametrize("first_joules", [0.0, 3e6])
def test_a_counter_that_stands_still_beside_247_watts_is_withheld(first_joules: float) -> None:
    """After 10 s it is an error and has no value. The source is nvml, for good. It returns when it moves."""
    time = FakeTime()
    counter = StuckCounter(time, first_joules)
    rig = SampledGpu(lambda _: 247.0, counter, time=time)
    shown = rig.tick(100)
    assert (shown.joules, shown.errors, rig.gpu.counter.source) == (first_joules, {}, None)
    shown = rig.tick(2)
    assert (shown.joules, rig.gpu.counter.source) == (None, Backend.NVML)
    assert shown.errors.keys() == {"COUNTER_STUCK"}
    assert shown.watts == 247.0
    rig.tick(100)
    counter.is_stuck = False
    shown = rig.tick(11)
    assert shown.joules is not None
    assert shown.joules > first_joules
    assert rig.gpu.counter.source is Backend.NVML


def test_a_counter_that_stops_later_is_withheld_and_stays_the_source() -> None:
    """Its series ends until it moves again."""
    time = FakeTime()
    counter = StuckCounter(time, 3e6)
    rig = SampledGpu(lambda _: 247.0, counter, time=time)
    counter.is_stuck = False
    rig.tick(20)
    counter.is_stuck = True
    shown = rig.tick(102)
    assert (shown.joules, rig.gpu.counter.source) == (None, Backend.ZEUS)
    counter.is_stuck = False
    shown = rig.tick(11)
    assert (shown.joules is not None, rig.gpu.counter.source) == (True, Backend.ZEUS)


@pytest.mark.parametrize(
    ("watts", "joules_at"),
    [
        (3.0, lambda s: 3 * s // 0.125 * 0.125),
        (247.0, lambda s: 247 * (s // 10 * 10)),
        (247.0, lambda s: 247 * ((s + 0.05) // 10 * 10)),
    ],
    ids=["deep idle", "counter updates every 10 s", "counter updates between two ticks"],
)
def test_a_healthy_counter_is_not_stuck(watts: float, joules_at: Callable[[float], float]) -> None:
    """Neither 3 W in steps of 1/8 J nor updates every 10 s are an error."""
    time = FakeTime()
    rig = SampledGpu(lambda _: watts, FormulaCounter(lambda _: joules_at(time.monotonic_s())), time=time)
    for number, tick in enumerate(islice(rig.ticker, 3000)):
        time.sleep(0.00003 * (number * 7919 % 97))  # a tick may be late
        rig.gpu.read(tick)
        rig.gpu.finish()
    assert rig.snapshot().errors == {}
    assert rig.gpu.counter.source is Backend.ZEUS


def test_a_counter_that_cannot_be_read_for_a_minute_is_not_the_source() -> None:
    """Each failure is an error. The source stays nvml when the counter can be read later."""
    counter = FormulaCounter(failing(DeviceError("down", "NVML_ERROR_UNKNOWN")))
    rig = SampledGpu(counter=counter)
    rig.tick(600)
    assert rig.gpu.counter.source is None
    rig.tick(20)
    assert rig.gpu.counter.source is Backend.NVML
    counter.joules_at = lambda ms: ms / 10
    shown = rig.tick(30)
    assert (shown.joules is not None, rig.gpu.counter.source) == (True, Backend.NVML)


def test_without_power_a_counter_is_not_called_stuck() -> None:
    """Nothing shows that the GPU used energy."""
    rig = SampledGpu(
        failing(DeviceLostError("none", "NVML_ERROR_NOT_SUPPORTED")), FormulaCounter(lambda _: 7.0)
    )
    shown = rig.tick(300)
    assert shown.joules == 7.0
    assert shown.errors.keys() == {"NVML_ERROR_NOT_SUPPORTED"}


def test_a_healthy_gpu_has_no_error_in_a_day() -> None:
    """24 h of a load that changes, read every 2 s: no error, no gap, and the counter is always published."""
    time = FakeTime()
    counted = [0.0, time.monotonic_s()]

    def watts() -> float:
        hour = time.monotonic_s() // 3600
        return 3.0 if hour % 3 else 650.0

    def read(_: int) -> float:
        now_s = time.monotonic_s()
        counted[:] = counted[0] + watts() * (now_s - counted[1]), now_s
        return counted[0]

    rig = SampledGpu(lambda _: watts(), FormulaCounter(read), interval_ms=2000, time=time)
    shown = rig.tick(24 * 1800)
    assert (shown.errors, shown.gap_s, shown.samples) == ({}, 0.0, 24 * 1800)
    assert not any(isnan(joules) for joules in rig.samples().joules)
    assert shown.nvml_joules == pytest.approx(counted[0], rel=1e-3)


def test_without_a_limit_a_counter_that_jumps_is_rejected() -> None:
    """A counter cannot rise by more than 5 kW. A replayed trace has no such limit: it may be anything."""
    for source, errors in (("instant", {"COUNTER_JUMPED": 1}), ("replay", {})):
        jump = FormulaCounter(lambda _: 100.0)
        rig = SampledGpu(counter=jump, info=DeviceInfo(0, "GPU-0", power_source=source))
        rig.tick()
        jump.joules_at = lambda _: 1e9
        assert rig.tick().errors == errors


class ClosedDevice:
    """A GPU that cannot be opened, and has no UUID until it was."""

    def __init__(self) -> None:
        self.info = DeviceInfo(0, "")
        self.error: Exception | None = DeviceLostError("gone", "NVML_ERROR_GPU_IS_LOST")
        self.statuses = 0

    def open(self) -> bool:
        if self.error:
            raise self.error
        self.info = DeviceInfo(0, "GPU-0")
        return True

    def read_watts(self, unix_ms: int) -> float:
        assert unix_ms > 0
        return 100.0

    def read_status(self) -> Status:
        self.statuses += 1
        return Status()


def raising(error: Exception) -> Callable[[], object]:
    return lambda: failing(error)(0)
