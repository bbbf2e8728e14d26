"""Which values of a hardware counter are readings."""

from collections.abc import Callable

import pytest

from llem_core.errors import DeviceError
from llem_measure.sampling.counter.filter import CounterFilter, is_stuck
from tests.llem_measure.fake_time import FakeTime, FormulaCounter


class Filtered:
    """A counter whose value is set, behind a filter, and the power of the same time."""

    def __init__(
        self, joules: float, limit_watts: float | None = 700.0, update_s: float | None = None
    ) -> None:
        self.joules, self.power_joules, self.update_s = joules, 0.0, update_s
        self.time = FakeTime()
        self.counter = FormulaCounter(lambda _: self.joules)
        self.filter = CounterFilter(
            self.counter,
            lambda: limit_watts,
            lambda: self.power_joules,
            lambda: self.update_s,
            self.time.monotonic_s,
        )
        assert self.read() == joules

    def read(self) -> float:
        return self.filter.read_joules(0)


def after(first: float, then: float, limit_watts: float | None = 700.0) -> Filtered:
    """Return a counter that has read `first` and reads `then` from now on."""
    filtered = Filtered(first, limit_watts)
    filtered.joules = then
    return filtered


def refused(filtered: Filtered, name: str = "COUNTER_FELL", reason: str = "the counter ") -> None:
    """Check that the next value is an error."""
    with pytest.raises(DeviceError, match=reason) as failure:
        filtered.read()
    assert failure.value.name == name


@pytest.mark.parametrize(
    ("first", "then", "limit_watts"),
    [(3e6, 3e6 - 0.001, 700.0), (3e6, 3e6 - 1399, 700.0), (3e6, 3e6 - 1999, None), (2000.0, 1001.0, 700.0)],
)
def test_a_small_fall_is_a_late_value(first: float, then: float, limit_watts: float) -> None:
    """A fall below 2 s at the limit (by default 1000 W) is an error, also after open()."""
    filtered = after(first, then, limit_watts)
    for _ in range(2):
        refused(filtered, reason="too little for a reset")
        filtered.filter.open()
    assert filtered.counter.opened == 2


@pytest.mark.parametrize(("first", "then"), [(3e6, 0.0), (3e6, 3e6 - 1400), (1000.0, 0.0), (1000.0, 499.0)])
def test_a_restart_is_a_reading_as_soon_as_it_rises(first: float, then: float) -> None:
    """A fall of at least 2 s at the limit, or to below half, is a restart. The next rise is a reading."""
    filtered = after(first, then)
    refused(filtered, reason="until the counter rises from there")
    refused(filtered)
    for filtered.joules in (then + 0.001, then + 70):
        assert filtered.read() == filtered.joules


def test_a_second_restart_is_none_that_is_late() -> None:
    """Late values are at most 2 s old. A driver that is loaded again 3 s after a reset counts from 0."""
    filtered = after(1085.0, 700.0)
    filtered.time.sleep(2.0)
    refused(filtered, reason="until the counter rises from there")
    filtered.time.sleep(0.1)
    filtered.joules = 735.0
    assert filtered.read() == 735.0


def test_a_counter_too_high_for_a_restart_is_late() -> None:
    """It cannot have counted 3 MJ in the 10 s since its last reading."""
    filtered = after(3e6, 3e6 - 1)
    filtered.time.sleep(10.0)
    refused(filtered, reason="too little for a reset")


def test_a_restart_may_have_risen_by_what_the_time_allows() -> None:
    """A counter that is read every 10 s may rise by at most 12 s at the limit."""
    filtered = Filtered(3e6)
    for filtered.joules in (0.0, 8401.0):
        filtered.time.sleep(10.0)
        refused(filtered)
    filtered.time.sleep(10.0)
    filtered.joules = 8401.0 + 8400.0
    assert filtered.read() == 16_801.0


@pytest.mark.parametrize("odd", [3e6 + 6000, 1.8e16])
def test_a_jump_is_an_error(odd: float) -> None:
    """A rise of over 4 x the limit is an error. The next valid value is a reading."""
    filtered = Filtered(3e6)
    for _ in range(3):
        filtered.time.sleep(0.01)
        filtered.joules = odd
        refused(filtered, "COUNTER_JUMPED")
    filtered.joules = 3e6 + 70
    assert filtered.read() == 3e6 + 70


@pytest.mark.parametrize(("rise", "jumps"), [(5000 * 2.5, False), (5000 * 2.5 + 1, True), (4e9, True)])
def test_without_a_limit_a_rise_of_over_5_kw_is_a_jump(rise: float, jumps: bool) -> None:
    """The counter may have been late by 2 s, and 0.5 s have passed."""
    filtered = after(3e6, 3e6 + rise, None)
    filtered.time.sleep(0.5)
    if jumps:
        refused(filtered, "COUNTER_JUMPED")
    else:
        assert filtered.read() == 3e6 + rise


def test_a_long_silence_is_no_jump() -> None:
    """A GPU that was lost for an hour may have used an hour of energy."""
    for limit_watts, watts in ((700.0, 2800.0), (None, 5000.0)):
        filtered = after(3e6, 3e6 + 3600 * watts, limit_watts)
        filtered.time.sleep(3600.0)
        assert filtered.read() == filtered.joules


@pytest.mark.parametrize("odd", [[0.0], [0.0, 0.0, 0.0], [31.0, 5.0, 0.0], [0.0, 3e6 - 70], [0.0, 2e6]])
def test_values_that_fall_for_a_moment_are_errors(odd: list[float]) -> None:
    """If a short fall were a restart, the next reading would add the whole counter."""
    filtered = Filtered(3e6)
    for filtered.joules in odd:
        refused(filtered)
    filtered.joules = 3e6 + 70
    assert filtered.read() == 3e6 + 70


def test_a_jump_after_a_fall_is_not_a_restart() -> None:
    """The value to which it fell is forgotten then."""
    filtered = Filtered(3e6)
    for filtered.joules, name in ((10.0, "COUNTER_FELL"), (9e6, "COUNTER_JUMPED"), (20.0, "COUNTER_FELL")):
        refused(filtered, name)
    filtered.joules = 21.0
    assert filtered.read() == 21.0


@pytest.mark.parametrize(("first", "then"), [(3e6, 3e6), (0.0, 5.0)])
def test_what_does_not_fall_is_a_reading(first: float, then: float) -> None:
    """An unchanged value is a reading as well."""
    assert after(first, then).read() == then


def test_after_a_small_fall_it_is_read_on_from_where_it_was() -> None:
    """A value is a reading when it exceeds the previous reading."""
    filtered = Filtered(3e6)
    for filtered.joules in (3e6 - 500, 3e6 - 1):
        with pytest.raises(DeviceError, match=f"the counter decreased by {3e6 - filtered.joules:g} J"):
            filtered.read()
    filtered.joules = 3e6 + 1
    assert filtered.read() == 3e6 + 1


def let_pass(filtered: Filtered, seconds: float, watts: float) -> Callable[[], float]:
    """Let time pass with a reading every 100 ms that must succeed. Return the function for the next one."""
    for _ in range(round(seconds * 10) - 1):
        filtered.time.sleep(0.1)
        filtered.power_joules += watts / 10
        filtered.read()
    filtered.time.sleep(0.1 + 1e-6)
    filtered.power_joules += watts / 10
    return filtered.read


@pytest.mark.parametrize("joules", [0.0, 3e6])
@pytest.mark.parametrize(("update_s", "after_s"), [(None, 10.0), (0.1, 10.0), (5.0, 15.0), (10.0, 30.0)])
def test_a_counter_that_does_not_rise_is_stuck(joules: float, update_s: float | None, after_s: float) -> None:
    """After 10 s and 3 update periods, beside 247 W. It returns with its first rise."""
    filtered = Filtered(joules, update_s=update_s)
    let_pass(filtered, after_s, 247.0)
    assert not filtered.filter.stuck
    refused(filtered, "COUNTER_STUCK")
    refused(filtered, "COUNTER_STUCK")
    assert (filtered.filter.stuck, filtered.filter.has_risen) == (True, False)
    filtered.joules += 1.0
    assert filtered.read() == joules + 1.0
    assert (filtered.filter.stuck, filtered.filter.has_risen) == (False, True)
    # From now on, the same time counts again.
    let_pass(filtered, after_s, 247.0)
    refused(filtered, "COUNTER_STUCK")
    assert filtered.filter.has_risen


@pytest.mark.parametrize("watts", [0.0, 0.01])
def test_without_energy_a_counter_is_not_stuck(watts: float) -> None:
    """10 J of power within 900 s are too few to say that it should have moved."""
    filtered = Filtered(3e6)
    let_pass(filtered, 900.0, watts)()
    assert not filtered.filter.stuck


@pytest.mark.parametrize(
    ("unchanged_s", "power_joules", "update_s", "stuck"),
    [
        (10.0, 10.1, None, True),
        (9.99, 1e6, None, False),
        (10.0, 10.0, None, False),
        (15.0, 1e6, 5.0, True),
        (14.9, 1e6, 5.0, False),
    ],
)
def test_the_rule_of_a_stuck_counter(
    unchanged_s: float, power_joules: float, update_s: float | None, stuck: bool
) -> None:
    """At least 10 s and 3 update periods without a rise, over 10 J of power."""
    assert is_stuck(unchanged_s, power_joules, update_s) == stuck
