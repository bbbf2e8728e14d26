"""A window between two readings of a counter, and bounds that hold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_measure.backends.counter_window import CounterReading, counter_energy

fractions = st.floats(0, 1)


@given(
    watts=st.lists(st.floats(0, 700), min_size=4, max_size=4),
    calls_s=st.tuples(st.floats(0, 0.1), st.floats(0, 0.1)),
    within=st.tuples(fractions, fractions),
    lags_s=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    edges=st.tuples(fractions, fractions),
)
def test_the_true_joules_lie_within_the_bounds(
    watts: list[float],
    calls_s: tuple[float, float],
    within: tuple[float, float],
    lags_s: tuple[float, float],
    edges: tuple[float, float],
) -> None:
    """The bounds hold for any read time within the call and any counter lag up to 0.5 s."""
    first_s, last_s = calls_s[0] * within[0], 2.0 + calls_s[1] * within[1]
    counted_j = joules_of(watts, first_s - lags_s[0], last_s - lags_s[1])
    first = CounterReading(1000.0, 0.0, calls_s[0])
    last = CounterReading(1000.0 + counted_j, 2.0, 2.0 + calls_s[1])
    window_s = calls_s[0] * edges[0], 2.0 + calls_s[1] * edges[1]
    energy = counter_energy(first, last, window_s, 700.0)
    assert energy.low_j - 1e-6 <= joules_of(watts, *window_s) <= energy.high_j + 1e-6


def joules_of(watts: list[float], start_s: float, end_s: float) -> float:
    """Of a power that changes every 0.7 s, from -0.5 s on."""
    changes_s = [-0.5, 0.2, 0.9, 1.6, math.inf]
    return math.fsum(
        level * max(0.0, min(end_s, changes_s[n + 1]) - max(start_s, changes_s[n]))
        for n, level in enumerate(watts)
    )


@pytest.mark.parametrize(
    ("first_j", "last_j", "limit_watts", "joules", "reset", "late"),
    [
        (5e4, 5.03e4, 700.0, 300.0, False, False),
        (5e4, 5e4, 700.0, None, False, False),
        (5e4, 4.9e4, 700.0, None, False, True),
        (5e4, 4.86e4, 700.0, 4.86e4, True, False),
        (5e4, 40.0, 700.0, 40.0, True, False),
        (5e4, 40.0, None, 40.0, True, False),
        (5e4, 4.9e4, None, None, False, True),
        (5000.0, 4000.0, 700.0, 4000.0, True, False),
    ],
)
def test_a_fall_is_a_reset_or_a_late_value(
    first_j: float, last_j: float, limit_watts: float | None, joules: float | None, reset: bool, late: bool
) -> None:
    """A fall of less than limit x 2 s is a late value: no joules. After a reset the new value is counted.

    A value that the GPU can have counted from 0 since the first reading is that of a reset.
    """
    first, last = CounterReading(first_j, 0.0, 0.0), CounterReading(last_j, 10.0, 10.0)
    energy = counter_energy(first, last, (0.0, 10.0), limit_watts)
    assert (energy.joules, energy.reset, energy.late) == (joules, reset, late)
    assert energy.low_j <= (joules or 0.0) <= energy.high_j
    if reset:
        assert energy.high_j == pytest.approx(last_j + 700 * 10.5, abs=0.01) or limit_watts is None


def test_without_a_limit_nothing_bounds_it() -> None:
    """Without a power limit, the bounds are 0 and infinity."""
    first, last = CounterReading(0.0, 0.0, 0.0), CounterReading(100.0, 1.0, 1.0)
    energy = counter_energy(first, last, (0.0, 1.0), None)
    assert (energy.low_j, energy.high_j) == (0.0, math.inf)
