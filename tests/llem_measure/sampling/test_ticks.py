"""Deadlines lie on the wall clock's grid, and survive whatever is done to that clock."""

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_measure.sampling.ticks import Mapping, Ticker, WallClock
from tests.llem_measure.fake_time import START_UNIX_S, FakeTime


def clock_of(time: FakeTime, interval_ms: int = 100) -> WallClock:
    return WallClock(interval_ms, time.unix_s, time.monotonic_s)


def test_ticks_are_the_next_points_of_the_grid() -> None:
    """Ticks are at whole intervals of unix time. The sleep ends exactly at the tick."""
    time = FakeTime()
    ticker = Ticker(clock_of(time), 100, time.sleep)
    first_ms = (int(START_UNIX_S * 1000) // 100 + 1) * 100
    for number, tick in enumerate(islice(ticker, 5)):
        assert tick.unix_ms == first_ms + 100 * number
        assert time.unix_s() * 1000 == pytest.approx(tick.unix_ms, abs=0.001)
        assert time.monotonic_s() == pytest.approx(tick.deadline_s, abs=1e-6)


def test_what_takes_too_long_costs_the_ticks_that_passed_meanwhile() -> None:
    """After 250 ms of work, the missed ticks are skipped."""
    time = FakeTime()
    ticker = Ticker(clock_of(time), 100, time.sleep)
    before = next(ticker)
    time.sleep(0.25)
    assert next(ticker).unix_ms == before.unix_ms + 300


def test_a_step_between_two_reads_of_the_clock_makes_no_long_sleep() -> None:
    """A step of an hour while the ticker computes its deadline does not make it sleep for an hour."""

    class SteppingClock(WallClock):
        """A clock whose mapping falls by an hour after it was read once."""

        _mapping: Mapping

        @property
        def mapping(self) -> Mapping:
            before = self._mapping
            self._mapping = Mapping(before.offset_s - 3600.0, 1)
            return before

        @mapping.setter
        def mapping(self, mapping: Mapping) -> None:
            self._mapping = mapping

    time, slept_s = FakeTime(), list[float]()
    next(Ticker(SteppingClock(100, time.unix_s, time.monotonic_s), 100, slept_s.append))
    assert max(slept_s) <= 0.1


def test_waking_too_early_repeats_no_tick() -> None:
    """A sleep that ends slightly early does not repeat a tick."""
    time = FakeTime()
    ticker = Ticker(clock_of(time), 100, lambda seconds: time.sleep(seconds * 0.999))
    ticks = [tick.unix_ms for tick in islice(ticker, 50)]
    assert {after - before for before, after in pairwise(ticks)} == {100}


@pytest.mark.parametrize(
    ("step_s", "interval_ms"),
    [(3.0, 100), (-3.0, 100), (3600.0, 100), (-3600.0, 100), (0.06, 100), (0.06, 10_000), (-0.02, 20)],
)
def test_a_step_is_taken_over_when_observed_and_counted_once(step_s: float, interval_ms: int) -> None:
    """The mapping is unchanged until observe(). Then it follows the wall clock at once.

    A difference of half an interval is a step, and always one of 50 ms.
    """
    time = FakeTime()
    clock = clock_of(time, interval_ms)
    time.set_wall(step_s)
    assert clock.now_ms() == pytest.approx(START_UNIX_S * 1000, abs=1)
    assert clock.observe() == pytest.approx(step_s, abs=1e-6)
    assert clock.now_ms() == pytest.approx(time.unix_s() * 1000, abs=1)
    assert clock.mapping.steps == 1
    assert clock.observe() == 0
    assert clock.mapping.steps == 1


def test_a_small_change_is_slewed_in() -> None:
    """A change of 20 ms is not a step. It is slewed by at most 1 ms per second."""
    time = FakeTime()
    clock = clock_of(time)
    time.set_wall(0.02)
    for seconds in range(1, 21):
        assert clock.observe() == 0
        assert clock.now_ms() - START_UNIX_S * 1000 == pytest.approx(seconds, abs=1.001)
    assert clock.mapping.steps == 0
    assert clock.now_ms() == pytest.approx(time.unix_s() * 1000, abs=1)


@given(
    interval_ms=st.sampled_from([20, 100, 250, 1000, 10_000]),
    steps_s=st.lists(st.floats(-5000, 5000), max_size=4),
)
def test_no_tick_comes_twice_in_a_row(interval_ms: int, steps_s: list[float]) -> None:
    """For any clock steps, neighbouring ticks differ, and all ticks are on the grid."""
    time = FakeTime()
    clock = clock_of(time, interval_ms)
    ticker = Ticker(clock, interval_ms, time.sleep)
    ticks = [tick.unix_ms for tick in islice(ticker, 3)]
    for step_s in steps_s:
        time.set_wall(step_s)
        clock.observe()
        ticks += [tick.unix_ms for tick in islice(ticker, 3)]
    assert all(before != after for before, after in pairwise(ticks))
    assert all(tick % interval_ms == 0 for tick in ticks)


def test_it_ends_when_the_event_is_set() -> None:
    """threading.Event.wait() returns True then."""
    time, slept_s = FakeTime(), list[float]()

    def wait(seconds: float) -> bool:
        slept_s.append(seconds)
        time.sleep(seconds)
        return len(slept_s) == 3

    assert len(list(Ticker(clock_of(time), 100, wait))) == 2


def test_a_reading_at_once_has_a_tick_that_is_now() -> None:
    """It need not be on the grid."""
    time = FakeTime()
    tick = Ticker(clock_of(time), 100, time.sleep).now()
    assert tick.unix_ms == pytest.approx(time.unix_s() * 1000, abs=0.01)
    assert tick.deadline_s == time.monotonic_s()


def test_the_sum_of_all_steps_is_known() -> None:
    """A replayed trace goes on evenly by it. What is slewed in is no step."""
    time = FakeTime()
    clock = clock_of(time)
    for step_s in (3.0, -7.0, 0.02):
        time.set_wall(step_s)
        clock.observe()
    assert clock.stepped_s == pytest.approx(-4.0, abs=1e-3)
