"""What the energy counter of a superchip's GPU counts."""

from collections.abc import Iterable

import pytest

from llem_measure.sampling.counter.scope import EnergyScope

GPU_WATTS, MODULE_WATTS = 166.0, 467.0


def readings(
    watts: float, seconds: float, *, start_s: float = 0.0, joules: float = 3e6
) -> Iterable[tuple[float, float]]:
    """Yield the times and values of a counter of this power, every 100 ms."""
    for tick in range(round(10 * seconds) + 1):
        yield start_s + tick / 10, joules + watts * tick / 10


def add(scope: EnergyScope, values: Iterable[tuple[float, float]]) -> None:
    for at_s, joules in values:
        scope.add(at_s, joules, GPU_WATTS, MODULE_WATTS)


@pytest.mark.parametrize(
    ("watts", "found"),
    [(166.0, "gpu"), (150.0, "gpu"), (310.0, "gpu"), (467.0, "module"), (320.0, "module"), (500.0, "module")],
)
def test_it_is_the_nearer_of_gpu_and_module(watts: float, found: str) -> None:
    """The counter's rise is compared with both over 10 s. Then it is decided for good."""
    scope = EnergyScope(0.1)
    add(scope, readings(watts, 9.9))
    assert scope.scope == ""
    add(scope, readings(watts, 0.2, start_s=10.0, joules=3e6 + 10 * watts))
    assert scope.scope == found
    add(scope, readings(GPU_WATTS + MODULE_WATTS - watts, 20.0, start_s=11.0))
    assert scope.scope == found


def test_a_counter_that_hardly_moves_is_not_decided() -> None:
    """Less than 10 J say nothing: a counter that stands still is none of both."""
    scope = EnergyScope(0.1)
    add(scope, readings(0.0, 100.0))
    assert scope.scope == ""


@pytest.mark.parametrize(
    "second", [readings(467.0, 9.5, start_s=9.6, joules=0.0), readings(467.0, 9.5, start_s=20.0, joules=9e6)]
)
def test_after_a_reset_or_a_gap_it_begins_again(second: Iterable[tuple[float, float]]) -> None:
    """What the counter rose by meanwhile cannot be compared."""
    scope = EnergyScope(0.1)
    add(scope, readings(166.0, 9.5))
    add(scope, second)
    assert scope.scope == ""


def test_a_counter_that_is_read_once_a_second_is_compared_too() -> None:
    """A slow counter is read every second, in rare cases after 1.1 s."""
    scope = EnergyScope(0.1)
    for second in range(11):
        scope.add(1.1 * second, 467.0 * 1.1 * second, GPU_WATTS, MODULE_WATTS)
    assert scope.scope == "module"
