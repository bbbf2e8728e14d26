"""The rule over readings as they come: sums, edges, gaps, and bounds that hold."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_measure.sampling.devices import Status
from llem_measure.sampling.polling import Reading
from llem_measure.sampling.power_window import PowerWindow, WindowEnergy

LIMIT = Status(limit_watts=700.0)


def reading(at_s: float, watts: float | None, call_s: float = 0.0, status: Status = LIMIT) -> Reading:
    error = "" if watts is not None else "NVML_ERROR_UNKNOWN"
    return Reading(at_s - call_s / 2, at_s + call_s / 2, watts, status, error)


def integrated(readings: list[Reading], start_s: float, end_s: float) -> WindowEnergy:
    window = PowerWindow(0.3)
    window.add(readings[0])
    window.begin(start_s)
    for one in readings[1:]:
        window.add(one)
    return window.end(end_s)


def test_a_trapezoid_is_cut_at_both_edges() -> None:
    """The edges of the window are interpolated linearly. The bounds are those of the cut pairs."""
    ramp = [reading(n / 10, 100.0 * n) for n in range(6)]
    energy = integrated(ramp, 0.05, 0.45)
    assert energy.joules == pytest.approx((50 + 450) / 2 * 0.4)
    assert (energy.coverage, energy.gap_s, energy.largest_gap_s) == (1.0, 0.0, 0.0)
    widening = 0.4 / 16
    assert energy.low_j == pytest.approx(0.05 * 0 + 0.1 * (100 + 200 + 300) + 0.05 * 400 - widening)
    assert energy.high_j == pytest.approx(0.05 * 100 + 0.1 * (200 + 300 + 400) + 0.05 * 500 + widening)


def test_nothing_is_invented_across_a_gap() -> None:
    """A gap adds no joules. The bounds over it are 0 and the limit, or infinity without a limit."""
    times = [0.0, 0.1, 0.2, 0.8, 0.9, 1.0]
    energy = integrated([reading(t, 100.0) for t in times], 0.0, 1.0)
    assert energy.joules == pytest.approx(40)
    assert [energy.coverage, energy.gap_s, energy.largest_gap_s] == pytest.approx([0.4, 0.6, 0.6])
    assert [energy.low_j, energy.high_j] == pytest.approx([39.975, 40.025 + 420])
    assert integrated([reading(t, 100.0, status=Status()) for t in times], 0.0, 1.0).high_j == math.inf
    assert integrated([reading(t, 900.0) for t in times], 0.0, 1.0).high_j == pytest.approx(360.025 + 540)


def test_a_gpu_that_answers_late_or_no_more_has_gaps_at_the_edges() -> None:
    """There is no coverage before the first sample and after the last."""
    failing = [reading(t, None) for t in (0.0, 0.1, 0.2)]
    energy = integrated([*failing, *(reading(t, 100.0) for t in (0.3, 0.4, 0.5))], 0.0, 1.0)
    assert energy.joules == pytest.approx(20)
    assert [energy.coverage, energy.largest_gap_s] == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize("watts", [[], [100.0]])
def test_one_sample_is_no_measurement(watts: list[float]) -> None:
    """With fewer than two samples, joules are None, not 0."""
    readings = [reading(0.0, None), *(reading(0.5, value) for value in watts)]
    energy = integrated(readings, 0.0, 1.0)
    assert (energy.joules, energy.coverage, energy.low_j) == (None, 0.0, 0.0)


def test_a_read_longer_than_a_gap_is_no_sample() -> None:
    """A read that takes longer than max_gap is an error, because the time of its value is unknown."""
    window = PowerWindow(0.3)
    window.add(reading(0.0, 100.0))
    window.begin(0.0)
    window.add(reading(0.2, 999.0, call_s=0.31))
    window.add(reading(0.3, 100.0))
    assert window.end(0.3).joules == pytest.approx(30)
    assert (window.samples, window.errors) == (2, {"READ_TOO_SLOW": 1})


calls_s = st.floats(0, 0.09)
steps = st.lists(
    st.tuples(st.floats(0.09, 0.5), calls_s, st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30
)


@given(steps, st.floats(0, 1), st.floats(0, 1), st.lists(st.floats(0, 700), min_size=31, max_size=31))
def test_the_true_joules_lie_within_the_bounds(
    script: list[tuple[float, float, float, float]], first: float, last: float, levels: list[float]
) -> None:
    """The bounds hold for any time of a value within its call and any time of a power change."""
    readings, read_s, changes_s = [reading(0.0, levels[0])], [0.0], [0.0]
    middle_s = 0.0
    for (step_s, call_s, within_call, within_pair), watts in zip(script, levels[1:], strict=False):
        middle_s += step_s
        readings.append(reading(middle_s, watts, call_s))
        read_s.append(middle_s + call_s * (within_call - 0.5))
        changes_s.append(read_s[-2] + within_pair * (read_s[-1] - read_s[-2]))
    # The window begins after the first reading, and ends before the last one's call does.
    start_s = first * min(read_s[1], readings[1].start_s)
    least_s = max(start_s, readings[-2].end_s)
    end_s = least_s + last * max(0.0, readings[-1].start_s - least_s)
    energy = integrated(readings, start_s, end_s)
    exact_j = joules_of(levels, changes_s, start_s, end_s)
    assert energy.low_j - 1e-9 <= exact_j <= energy.high_j + 1e-9


def joules_of(levels: list[float], changes_s: list[float], start_s: float, end_s: float) -> float:
    """Of a power that takes each level at its time."""
    spans_s = pairwise([*changes_s, math.inf])
    return math.fsum(
        watts * max(0.0, min(end_s, until_s) - max(start_s, from_s))
        for watts, (from_s, until_s) in zip(levels, spans_s, strict=False)
    )
