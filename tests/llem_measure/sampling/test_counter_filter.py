"""Which values of a hardware counter are readings."""

import pytest

from llem_core.errors import DeviceError
from llem_measure.sampling.counter_filter import RisingCounter
from tests.llem_measure.fake_time import FakeTime


class Scripted:
    """A counter that reads what it is told."""

    def __init__(self, joules: float) -> None:
        self.joules = joules
        self.reopened = 0

    def read_joules(self, unix_ms: int) -> float:  # noqa: ARG002 - as the protocol has it
        return self.joules

    def reopen(self) -> None:
        self.reopened += 1


def after(first: float, then: float, limit_watts: float | None = 700.0) -> RisingCounter:
    """A counter that has read `first` and reads `then` from now on."""
    counter = Scripted(first)
    rising = RisingCounter(counter, lambda: limit_watts, FakeTime().monotonic_s)
    assert rising.read_joules(0) == first
    counter.joules = then
    return rising


def refused(rising: RisingCounter, name: str = "COUNTER_FELL") -> None:
    """Read what is no reading."""
    with pytest.raises(DeviceError) as failure:
        rising.read_joules(0)
    assert failure.value.name == name


@pytest.mark.parametrize(
    ("first", "then", "limit_watts"),
    [(3e6, 3e6 - 0.001, 700.0), (3e6, 3e6 - 1399, 700.0), (3e6, 3e6 - 1999, None), (2000.0, 1001.0, 700.0)],
)
def test_a_value_that_falls_back_a_little_is_none(first: float, then: float, limit_watts: float) -> None:
    """A fall below 2 s at the limit (by default 1000 W) is an error, also after reopen()."""
    rising = after(first, then, limit_watts)
    for _ in range(2):
        refused(rising)
        rising.reopen()


@pytest.mark.parametrize(("first", "then"), [(3e6, 0.0), (3e6, 3e6 - 1400), (1000.0, 0.0), (1000.0, 499.0)])
def test_a_restart_is_a_reading_as_soon_as_it_rises(first: float, then: float) -> None:
    """A fall of at least 2 s at the limit, or to below half, is a restart. The next rise is a reading."""
    counter = Scripted(first)
    rising = RisingCounter(counter, lambda: 700.0, FakeTime().monotonic_s)
    assert rising.read_joules(0) == first
    counter.joules = then
    refused(rising)
    refused(rising)
    counter.joules = then + 0.001
    assert rising.read_joules(0) == then + 0.001
    counter.joules = then + 70
    assert rising.read_joules(0) == then + 70


def test_a_restart_may_have_risen_by_what_the_time_allows() -> None:
    """A counter that is read every 10 s may rise by at most 12 s at the limit."""
    counter, time = Scripted(3e6), FakeTime()
    rising = RisingCounter(counter, lambda: 700.0, time.monotonic_s)
    rising.read_joules(0)
    for counter.joules in (0.0, 8401.0):
        time.sleep(10.0)
        refused(rising)
    time.sleep(10.0)
    counter.joules = 8401.0 + 8400.0
    assert rising.read_joules(0) == 16_801.0


@pytest.mark.parametrize("odd", [3e6 + 6000, 1.8e16])
def test_a_jump_is_none(odd: float) -> None:
    """A rise that exceeds the power limit is an error. The next valid value is a reading."""
    counter, time = Scripted(3e6), FakeTime()
    rising = RisingCounter(counter, lambda: 700.0, time.monotonic_s)
    rising.read_joules(0)
    for _ in range(3):
        time.sleep(0.01)
        counter.joules = odd
        refused(rising, "COUNTER_JUMPED")
    counter.joules = 3e6 + 70
    assert rising.read_joules(0) == 3e6 + 70


def test_a_long_silence_is_no_jump() -> None:
    """A GPU that was lost for an hour may have used an hour of energy."""
    counter, time = Scripted(3e6), FakeTime()
    rising = RisingCounter(counter, lambda: 700.0, time.monotonic_s)
    rising.read_joules(0)
    time.sleep(3600.0)
    counter.joules = 3e6 + 3600 * 700.0
    assert rising.read_joules(0) == counter.joules


def test_without_a_limit_no_jump_is_seen() -> None:
    """Without a limit, any rise is valid. A replayed trace may have any watts."""
    assert after(3e6, 4e9, None).read_joules(0) == 4e9


@pytest.mark.parametrize("odd", [[0.0], [0.0, 0.0, 0.0], [31.0, 5.0, 0.0], [0.0, 3e6 - 70], [0.0, 2e6]])
def test_readings_that_fall_for_a_moment_are_none(odd: list[float]) -> None:
    """If a short fall were a restart, the next reading would add the whole counter."""
    counter = Scripted(3e6)
    rising = RisingCounter(counter, lambda: 700.0, FakeTime().monotonic_s)
    rising.read_joules(0)
    for counter.joules in odd:
        refused(rising)
    counter.joules = 3e6 + 70
    assert rising.read_joules(0) == 3e6 + 70


@pytest.mark.parametrize(("first", "then"), [(3e6, 3e6), (0.0, 5.0)])
def test_what_does_not_fall_is_a_reading(first: float, then: float) -> None:
    """An unchanged value is a reading as well."""
    assert after(first, then).read_joules(0) == then


def test_it_is_read_on_from_where_it_was() -> None:
    """After a small fall, a value is a reading when it exceeds the previous reading."""
    counter = Scripted(3e6)
    rising = RisingCounter(counter, lambda: 700.0, FakeTime().monotonic_s)
    rising.read_joules(0)
    for joules in (3e6 - 500, 3e6 - 1):
        counter.joules = joules
        with pytest.raises(DeviceError, match=f"it fell by {3e6 - joules:g} J"):
            rising.read_joules(0)
    counter.joules = 3e6 + 1
    assert rising.read_joules(0) == 3e6 + 1
