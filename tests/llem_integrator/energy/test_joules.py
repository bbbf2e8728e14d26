"""The rule over arrays: windows, gaps, counters, bounds."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llem_core import energy
from llem_integrator.energy.counters.cut import Counter
from llem_integrator.energy.counters.rises import counted
from llem_integrator.energy.power.running_sums import trapezoid
from llem_integrator.energy.power.traces import MaxGaps, PowerTraces
from llem_integrator.series.samples import make_series
from llem_integrator.series.spans import spans_of
from llem_integrator.series.table import integrated_steps
from llem_integrator.windows.window import Window

Array = NDArray[Any]

T0 = 1_795_507_546_000


def window(start_ms: float, end_ms: float) -> Window:
    """A window in ms after T0."""
    return Window(T0 * 1000 + round(start_ms * 1000), T0 * 1000 + round(end_ms * 1000))


def times(*offsets_ms: int) -> Array:
    return np.array(offsets_ms, np.int64) + T0


def watts(*values: float) -> Array:
    return np.array(values, np.float64)


@st.composite
def traces(draw: st.DrawFn) -> tuple[Array, Array]:
    """A trace like the exporter's: whole ms, mostly 100 ms apart, multiples of 1/8 W."""
    steps = draw(st.lists(st.sampled_from([100, 100, 100, 97, 104, 900]), min_size=1, max_size=60))
    values = draw(st.lists(st.integers(0, 8 * 700), min_size=len(steps) + 1, max_size=len(steps) + 1))
    return np.cumsum([0, *steps]) + T0, np.array(values) / 8


def test_three_samples_of_100_watts_are_20_joules() -> None:
    """100 W at 0.0, 0.1 and 0.2 s are 20 J."""
    result = trapezoid(times(0, 100, 200), watts(100, 100, 100), window(0, 200), 300, 700)
    assert (result.joules, result.coverage, result.gap_s, result.sample_count) == (20.0, 1.0, 0.0, 3)


def test_a_missing_sample_is_bridged_and_a_hole_is_a_gap() -> None:
    """Samples 200 ms apart are integrated. Beyond max_gap there are gap seconds and no joules."""
    bridged = trapezoid(times(0, 200), watts(100, 300), window(0, 200), 300, 700)
    assert (bridged.joules, bridged.gap_s) == (40.0, 0.0)
    holed = trapezoid(times(0, 100, 1100, 1200), watts(100, 100, 100, 100), window(0, 1200), 300, 700)
    assert (holed.joules, holed.gap_s, holed.largest_gap_s, holed.covered_s) == (20.0, 1.0, 1.0, 0.2)
    assert holed.high == pytest.approx(20 + 700 + 0.2 / 16)


def test_a_step_of_just_max_gap_is_no_gap() -> None:
    """A pair exactly max_gap apart is integrated. A millisecond more is a gap."""
    bridged = trapezoid(times(0, 300), watts(100, 100), window(0, 300), 300, 700)
    assert (bridged.joules, bridged.gap_s, bridged.largest_gap_s) == (30.0, 0.0, 0.0)
    holed = trapezoid(times(0, 300, 601), watts(100, 100, 100), window(0, 601), 300, 700)
    assert (holed.joules, holed.gap_s, holed.largest_gap_s) == (30.0, 0.301, 0.301)


def test_the_peak_is_that_of_the_samples_in_the_window() -> None:
    """A sample at the end of the window counts, a later one does not."""
    trace = times(0, 100, 200), watts(100, 200, 300)
    for end_ms, peak in ((200, 300.0), (199, 200.0)):
        assert trapezoid(*trace, window(0, end_ms), 300, 700).peak_watts == peak


def test_one_sample_is_no_measurement() -> None:
    """With one sample there is no coverage, and joules are null, not 0."""
    for trace in (times(0), times()), (times(0, 5000), times(5000)):
        for unix_ms in trace:
            result = trapezoid(unix_ms, np.full(len(unix_ms), 100.0), window(-100, 100), 300, 700)
            assert (result.joules, result.low, result.high, result.coverage) == (None, None, None, 0.0)


def test_a_window_inside_one_pair_needs_no_sample_of_its_own() -> None:
    """A window between two samples is interpolated at both edges."""
    result = trapezoid(times(0, 100), watts(0, 100), window(25, 75), 300, 700)
    assert (result.joules, result.coverage, result.sample_count) == (2.5, 1.0, 0)


def test_a_window_inside_a_gap_has_nothing() -> None:
    """Any part of a gap is a gap."""
    assert trapezoid(times(0, 1000), watts(9, 9), window(400, 500), 300, 700).joules is None


def test_outside_the_samples_there_is_no_coverage() -> None:
    """If a window begins before the data, the coverage begins at the first sample."""
    result = trapezoid(times(0, 100, 200), watts(10, 10, 10), window(-200, 200), 300, None)
    assert (result.joules, result.coverage, result.high) == (2.0, 0.5, None)
    late = trapezoid(times(0, 100, 200), watts(10, 10, 10), window(100, 300), 300, None)
    assert (late.joules, late.coverage, late.tail_gap_s) == (1.0, 0.5, 0.1)


@given(traces(), st.lists(st.integers(-500, 8_000_000), min_size=3, max_size=3, unique=True))
def test_additive(trace: tuple[Array, Array], edges_us: list[int]) -> None:
    """J[a,c] = J[a,b] + J[b,c]. The same holds for covered and gap seconds."""
    a, b, c = (edge / 1000 for edge in sorted(edges_us))
    whole, left, right = (trapezoid(*trace, window(*w), 300, 700) for w in ((a, c), (a, b), (b, c)))
    for name in ("covered_s", "gap_s"):
        assert getattr(whole, name) == pytest.approx(getattr(left, name) + getattr(right, name), abs=1e-9)
    assert (whole.joules or 0.0) == pytest.approx(
        (left.joules or 0.0) + (right.joules or 0.0), rel=1e-12, abs=1e-9
    )


@given(traces(), st.data())
def test_cutting_into_chunks_changes_nothing(trace: tuple[Array, Array], data: st.DataObject) -> None:
    """Chunks that share their edge sample add up to the whole, exactly in units of the counter."""
    unix_ms, values = trace
    cut = data.draw(st.integers(0, len(unix_ms) - 1))
    whole = window(0, float(unix_ms[-1] - T0))
    units = [
        round((trapezoid(unix_ms[part], values[part], whole, 300, 700).joules or 0) * 16_000)
        for part in (slice(0, cut + 1), slice(cut, None), slice(None))
    ]
    assert units[0] + units[1] == units[2]


@given(traces())
def test_array_equals_scalar_and_exact_arithmetic(trace: tuple[Array, Array]) -> None:
    """The joules of arrays equal those of a loop over floats and of exact fractions."""
    unix_ms, values = trace
    loop, exact = 0.0, Fraction(0)
    for i in range(len(unix_ms) - 1):
        dt = int(unix_ms[i + 1] - unix_ms[i])
        loop += energy.pair_energy(float(values[i]), float(values[i + 1]), float(dt), 300).doubled
        if dt <= 300:
            exact += (Fraction(float(values[i])) + Fraction(float(values[i + 1]))) * dt / 2000
    result = trapezoid(unix_ms, values, window(0, float(unix_ms[-1] - T0)), 300, 700)
    assert result.joules is None or result.joules == energy.joules(loop) == float(exact)


@given(traces(), st.floats(0.001, 1000), st.integers(0, 4_000_000), st.integers(1, 4_000_000))
def test_scale_and_bounds(trace: tuple[Array, Array], factor: float, start_us: int, length_us: int) -> None:
    """Joules are proportional to power and inside their bounds."""
    cut = window(start_us / 1000, (start_us + length_us) / 1000)
    one = trapezoid(*trace, cut, 300, 700)
    if one.joules is None:
        return
    scaled = trapezoid(trace[0], trace[1] * factor, cut, 300, 700)
    assert scaled.joules == pytest.approx(one.joules * factor, rel=1e-9)
    assert one.low is not None
    assert one.high is not None
    assert one.low <= one.joules <= one.high


def counter(
    offsets_ms: list[int],
    joules: list[float],
    seconds: list[float] | None = None,
    max_gap_ms: float = 15_000,
) -> Counter:
    unix_ms, values = times(*offsets_ms), np.array(joules, np.float64)
    if seconds is None:
        return Counter(unix_ms, values, max_gap_ms=max_gap_ms)
    units = values * energy.COUNTER_UNITS_PER_JOULE
    _, covered_ms, reset = integrated_steps(unix_ms, units, np.array(seconds))
    return Counter(unix_ms, values, covered_ms, reset, interval_ms=100, max_gap_ms=max_gap_ms)


def test_a_hardware_counter_between_scrapes() -> None:
    """Edges within a step are interpolated. The bounds are the readings around them."""
    read = counter([0, 5000, 10000, 15000, 20000], [1000, 2000, 4000, 4500, 6000])
    result = counted(read, window(2500, 12500), 700)
    assert (result.joules, result.coverage, result.method) == (500 + 2000 + 250, 1.0, "counter")
    assert (result.low, result.high) == (2000 - 1 / 8, 3500 + 1 / 8)


def test_the_counter_may_lag_at_both_edges() -> None:
    """A reading closer to an edge than the lag does not tighten the bounds."""
    read = counter([0, 1000, 1400, 9000, 9200, 10000], [0, 100, 140, 900, 920, 1000])
    result = counted(read, window(1000, 9000), 700)
    assert (result.joules, result.low, result.high) == (800.0, 0.0, 900 + 1 / 8)


def test_a_reading_outside_that_is_missing_is_bounded_by_the_limit() -> None:
    """Without a reading after the end, the power limit gives the upper bound.

    Without a limit there is none.
    """
    read = counter([0, 5000, 10000], [0, 500, 1000])
    result = counted(read, window(0, 10000), 700)
    assert (result.joules, result.high) == (1000.0, 1000 + 0.5 * 700 + 1 / 8)
    assert counted(read, window(0, 10000), None).high is None


def test_a_step_that_an_edge_cuts_is_no_invented_energy() -> None:
    """A step longer than max_gap counts only if it is completely inside the window. A part of it is a gap."""
    read = counter([0, 1000, 61000, 62000], [0, 100, 7000, 7100], max_gap_ms=3000)
    cut = counted(read, window(500, 31000), 700)
    assert (cut.joules, cut.covered_s, cut.gap_s, cut.largest_gap_s) == (50.0, 0.5, 30.0, 30.0)
    whole = counted(read, window(500, 61500), 700)
    assert (whole.joules, whole.coverage) == (50 + 6900 + 50, 1.0)
    inside = counted(read, window(20000, 30000), 700)
    assert (inside.joules, inside.coverage) == (None, 0.0)


def test_a_reset_counts_the_value_after_it() -> None:
    """A restarted hardware counter adds its new value. The upper bound adds the limit over that step."""
    read = counter([0, 5000, 10000, 15000], [50_000, 51_000, 300, 1300])
    result = counted(read, window(0, 14000), 700)
    assert (result.joules, result.resets, result.late) == (1000 + 300 + 800, 1, 0)
    assert result.high == 1000 + 300 + 1000 + 5 * 700 + 1 / 8


def test_a_small_fall_of_a_hardware_counter_is_a_late_value() -> None:
    """A fall of less than limit x 2 s is a late value: the running maximum is used."""
    read = counter([0, 100, 200, 300], [50_000, 50_100, 50_050, 50_200], max_gap_ms=300)
    result = counted(read, window(0, 300), 700)
    assert (result.joules, result.resets, result.late) == (200.0, 0, 1)


def test_a_young_counter_that_restarts_is_reset_not_late() -> None:
    """A fall below limit x 2 s is a reset if the next readings do not exceed the old value."""
    read = counter([0, 20_000, 40_000, 60_000, 80_000], [800, 1200, 0, 400, 800], max_gap_ms=60_000)
    result = counted(read, window(0, 80_000), 700)
    assert (result.joules, result.resets, result.late) == (400 + 0 + 400 + 400, 1, 0)


def test_a_young_counter_that_restarts_and_soon_counts_higher_is_reset() -> None:
    """A reset is also detected if the counter soon exceeds the old value."""
    read = counter([0, 1000, 2000, 3000, 4000], [600, 700, 0, 500, 1000])
    result = counted(read, window(0, 4000), 700)
    assert (result.joules, result.resets, result.late) == (100 + 0 + 500 + 500, 1, 0)


def test_a_young_counter_that_is_higher_three_seconds_after_a_restart_is_reset() -> None:
    """Late values are at most 2 s old. This one is above half of the old value, and soon exceeds it."""
    read = counter([0, 100, 3400, 3500, 4500], [1050, 1085, 735, 770, 1120])
    result = counted(read, window(0, 4500), 700)
    assert (result.joules, result.resets, result.late) == (35 + 735 + 35 + 350, 1, 0)


def test_a_fall_with_no_limit_known_is_still_told_from_a_late_value() -> None:
    """Without a limit, a small fall is a late value and a deep one is a reset."""
    late = counted(counter([0, 100, 200], [3e9, 3e9 - 100, 3e9 + 50]), window(0, 200), None)
    assert (late.joules, late.late) == (50.0, 1)
    reset = counted(counter([0, 100, 200], [3e9, 10, 60]), window(0, 200), None)
    assert (reset.joules, reset.resets) == (60.0, 1)


def test_an_exporters_counter_covers_what_its_seconds_say() -> None:
    """A restart is a gap. The upper bound includes the power limit over its seconds."""
    read = counter([0, 5000, 20000, 25000], [1000, 1500, 300, 800], [10, 15, 3, 8])
    result = counted(read, window(0, 25000), 700)
    assert (result.joules, result.covered_s, result.gap_s, result.largest_gap_s) == (1300.0, 13.0, 12.0, 12.0)
    assert result.resets == 1
    widening, edges = 25 / 16, 700 * 0.1
    assert result.high == pytest.approx(1300 + 12 * 700 + 0.5 * 700 + widening + edges)
    assert result.low is not None
    assert 0 <= result.low <= 1300 - widening - edges


def test_an_exporters_small_fall_is_a_reset_too() -> None:
    """Only a hardware counter has late values. The exporter's counter falls only at a restart."""
    read = counter([0, 5000], [20, 10], [0.2, 0.1])
    assert counted(read, window(0, 5000), 700).resets == 1


@given(
    st.lists(st.integers(0, 8 * 4000), min_size=2, max_size=40),
    st.lists(st.integers(0, 200_000), min_size=3, max_size=3, unique=True),
)
def test_counter_is_additive(steps: list[int], edges_ms: list[int]) -> None:
    """J[a,c] = J[a,b] + J[b,c] holds for bridged counter steps."""
    read = counter([5000 * i for i in range(len(steps))], (np.cumsum(steps) / 8).tolist())
    a, b, c = sorted(edges_ms)
    whole, left, right = (counted(read, window(*w), 700) for w in ((a, c), (a, b), (b, c)))
    assert (whole.joules or 0.0) == pytest.approx((left.joules or 0.0) + (right.joules or 0.0), abs=1e-7)


@given(
    st.lists(st.integers(0, 8 * 5 * 700), min_size=2, max_size=40),
    st.integers(0, 200_000),
    st.integers(1, 200_000),
)
def test_counter_bounds_hold_the_joules(steps: list[int], start_ms: int, length_ms: int) -> None:
    """For any window, low <= joules <= high."""
    read = counter([5000 * i for i in range(len(steps))], (np.cumsum(steps) / 8).tolist())
    result = counted(read, window(start_ms, start_ms + length_ms), 700)
    if result.joules is not None:
        assert result.low is not None
        assert result.high is not None
        assert result.low <= result.joules <= result.high


def test_the_exporters_trapezoid_and_its_counter_agree_to_the_bit() -> None:
    """The published counter gives exactly the sum of the trace."""
    rng = np.random.default_rng(7)
    values = rng.integers(0, 5600, 5000) / 8
    unix_ms = T0 + np.cumsum(rng.choice([100, 100, 101, 103], 5000))
    doubled = np.concatenate([[0.0], np.cumsum((values[:-1] + values[1:]) * np.diff(unix_ms))])
    published = np.array([energy.joules(float(total)) for total in doubled])
    seconds = (unix_ms - unix_ms[0]) / 1000
    span = Window(int(unix_ms[100]) * 1000, int(unix_ms[4900]) * 1000)
    scraped = slice(0, 5000, 50)
    steps = integrated_steps(
        unix_ms[scraped], published[scraped] * energy.COUNTER_UNITS_PER_JOULE, seconds[scraped]
    )
    read = Counter(unix_ms[scraped], published[scraped], *steps[1:], interval_ms=100)
    assert counted(read, span, 700).joules == trapezoid(unix_ms, values, span, 300.0, 700).joules


@given(
    st.lists(st.sampled_from([100, 100, 100, 100, 100, 299, 301, 1000]), min_size=200, max_size=600),
    st.data(),
)
def test_a_trace_without_a_published_interval_is_the_same_in_any_pieces(
    steps: list[int], data: st.DataObject
) -> None:
    """Whether samples come in one piece or in many, the same steps are gaps."""
    unix_ms = T0 + np.cumsum(steps)
    series = make_series({"uuid": "GPU-0"}, unix_ms, np.full(len(unix_ms), 100.0))
    spans = spans_of([Window(int(unix_ms[20]) * 1000 + 1, int(unix_ms[-20]) * 1000 + 1)])
    cuts = sorted(data.draw(st.lists(st.integers(1, len(unix_ms) - 1), max_size=5, unique=True)))
    found = []
    for edges in ([0, len(unix_ms)], [0, *cuts, len(unix_ms)]):
        traces = PowerTraces(spans.edges_us(), MaxGaps(None, {}), {}, {})
        for first, stop in pairwise(edges):
            traces.add([series.part(first, stop)])
        traces.finish()
        row = traces.by_uuid["GPU-0"].sums.integrals(spans, np.array([700.0]), 30_000).row(0)
        found.append((row.joules, row.covered_s, row.gap_s, row.max_gap_s))
    assert found[0] == found[1]
