"""One GPU's window in NVMLBackend: joules, gaps, and bounds that hold."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.energy import PairEnergy, joules
from llem_measure.backends.nvml import PowerWindow
from llem_measure.nvml.discovery import Gpu
from llem_measure.sampling.devices import Status
from llem_measure.sampling.ledger import Reading
from llem_measure.sampling.ticks import WallClock

INTERVAL_MS = 100
LIMIT = Status(limit_watts=700.0)


def reading(at_s: float, watts: float | None, call_s: float = 0.0) -> Reading:
    errors = () if watts is not None else ("NVML_ERROR_UNKNOWN",)
    return Reading(1000 * at_s, 1000 * at_s, 0, at_s, watts, None, call_s, errors=errors)


def window_of(
    readings: list[Reading], start_s: float, end_s: float, status: Status = LIMIT
) -> tuple[PowerWindow, PairEnergy[float]]:
    """Return a window with these readings, the first of which is before it, and its energy."""
    window = PowerWindow(Gpu(0, "GPU-0"), INTERVAL_MS, WallClock(INTERVAL_MS))
    for number, each in enumerate(readings):
        window.ledger.add(each)
        window.on_reading(each, status, True)
        if number == 0:
            window.start_ms = 1000 * start_s
    return window, window.energy_until(1000 * end_s)


def test_the_window_is_cut_at_both_edges() -> None:
    """A ramp from 50 to 450 W, with bounds that half a step of 1/8 W widens."""
    window, energy = window_of([reading(n / 10, 100.0 * n) for n in range(6)], 0.05, 0.45)
    assert joules(energy.doubled) == pytest.approx((50 + 450) / 2 * 0.4)
    assert energy.covered_ms == pytest.approx(400)
    assert energy.gap_ms == 0
    widening = 0.4 / 16
    low_j, high_j = window.bounds_j(energy)
    assert low_j == pytest.approx(0.05 * 0 + 0.1 * (100 + 200 + 300) + 0.05 * 400 - widening)
    assert high_j == pytest.approx(0.05 * 100 + 0.1 * (200 + 300 + 400) + 0.05 * 500 + widening)
    assert window.peak_watts == 500.0


@pytest.mark.parametrize(
    ("watts", "status", "low_j", "high_j"),
    [(100, LIMIT, 39.975, 40.025 + 420), (100, Status(), 39.975, math.inf), (900, LIMIT, 359.975, 900.025)],
)
def test_a_gap_is_bounded_by_zero_and_the_limit(
    watts: float, status: Status, low_j: float, high_j: float
) -> None:
    """Without a limit nothing bounds it. A peak above the limit is the limit."""
    readings = [reading(t, watts) for t in (0.0, 0.1, 0.2, 0.8, 0.9, 1.0)]
    window, energy = window_of(readings, 0.0, 1.0, status)
    assert joules(energy.doubled) == pytest.approx(0.4 * watts)
    assert energy.gap_ms == pytest.approx(600)
    assert window.bounds_j(energy) == pytest.approx((low_j, high_j))


def test_a_gpu_that_answers_late_or_no_more_has_gaps_at_the_edges() -> None:
    """There is no coverage before the first sample and after the last."""
    failing = [reading(t, None) for t in (0.0, 0.1, 0.2)]
    _, energy = window_of([*failing, *(reading(t, 100.0) for t in (0.3, 0.4, 0.5))], 0.0, 1.0)
    assert joules(energy.doubled) == pytest.approx(20)
    assert (energy.covered_ms, energy.gap_ms) == pytest.approx((200, 800))


@pytest.mark.parametrize("watts", [[], [100.0]])
def test_less_than_two_samples_cover_nothing(watts: list[float]) -> None:
    """All of the window is a gap then."""
    _, energy = window_of([reading(0.0, None), *(reading(0.5, value) for value in watts)], 0.0, 1.0)
    assert (energy.doubled, energy.covered_ms, energy.gap_ms) == (0.0, 0.0, 1000.0)


def test_temperatures_limits_and_losses_are_kept() -> None:
    """The lowest and the highest temperature, the highest limit, and whether the GPU was lost once."""
    window = PowerWindow(Gpu(0, "GPU-0"), INTERVAL_MS, WallClock(INTERVAL_MS))
    statuses = [Status(50.0, limit_watts=300.0), Status(40.0, limit_watts=400.0), Status(), Status(45.0)]
    for tick, status in enumerate(statuses):
        window.on_reading(reading(tick / 10, 100.0), status, True)
    window.on_reading(reading(0.4, None), Status(), True)
    assert (window.celsius, window.was_lost) == ([40.0, 50.0], False)
    assert window.bounds_j(PairEnergy(0.0, 0.0, 0.0, 0.0, 1000.0)) == (0.0, 400.0)
    window.on_reading(reading(0.5, None), Status(), False)
    window.on_reading(reading(0.6, 100.0), Status(), True)
    assert window.was_lost


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
    before, after = readings[-2:]
    start_s = first * min(read_s[1], readings[1].monotonic_s - readings[1].watts_call_s / 2)
    least_s = max(start_s, before.monotonic_s + before.watts_call_s / 2)
    end_s = least_s + last * max(0.0, after.monotonic_s - after.watts_call_s / 2 - least_s)
    window, energy = window_of(readings, start_s, end_s)
    low_j, high_j = window.bounds_j(energy)
    assert low_j - 1e-9 <= joules_of(levels, changes_s, start_s, end_s) <= high_j + 1e-9


def joules_of(levels: list[float], changes_s: list[float], start_s: float, end_s: float) -> float:
    """Return the joules of a power that takes each level at its time."""
    spans_s = pairwise([*changes_s, math.inf])
    return math.fsum(
        watts * max(0.0, min(end_s, until_s) - max(start_s, from_s))
        for watts, (from_s, until_s) in zip(levels, spans_s, strict=False)
    )
