"""The rule, as properties."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llem_core import energy
from llem_core.energy import (
    NOTHING,
    PairEnergy,
    counter_step,
    even_energy,
    joules,
    pair_energy,
    part_energy,
    power_bounds,
    power_within,
)

YEAR_MS = 365.25 * 86_400_000
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Trace:
    """Samples: watts, and the milliseconds from each to the next."""

    watts: list[float]
    dt_ms: list[float]

    def pairs(self, max_gap_ms: float = float("inf")) -> list[PairEnergy[float]]:
        steps = zip(pairwise(self.watts), self.dt_ms, strict=True)
        return [pair_energy(watts0, watts1, dt_ms, max_gap_ms) for (watts0, watts1), dt_ms in steps]


def total(pairs: Sequence[PairEnergy[float]]) -> PairEnergy[float]:
    """The sums over pairs, in their order."""
    return PairEnergy(*(sum(column, 0.0) for column in zip(*pairs, strict=True)))


def traces(watts: st.SearchStrategy[float], dt_ms: st.SearchStrategy[float]) -> st.SearchStrategy[Trace]:
    """Traces of 2 to 40 samples."""
    return st.integers(1, 39).flatmap(
        lambda steps: st.builds(
            Trace,
            st.lists(watts, min_size=steps + 1, max_size=steps + 1),
            st.lists(dt_ms, min_size=steps, max_size=steps),
        )
    )


EXPORTER_WATTS = st.integers(0, 12_000).map(lambda steps: steps / energy.STEPS_PER_WATT)
WHOLE_MS = st.integers(1, 5_000).map(float)
ANY_WATTS = st.floats(0.0, 2_000.0, allow_subnormal=False)
ANY_MS = st.floats(1e-3, 60_000.0)
MAX_GAP_MS = st.sampled_from([100.0, 300.0, 1_000.0, 45_000.0])

EXPORTER_TRACES = traces(EXPORTER_WATTS, WHOLE_MS)
ANY_TRACES = traces(ANY_WATTS, ANY_MS)
TRACES = st.one_of(EXPORTER_TRACES, ANY_TRACES)


def exact_doubled(trace: Trace) -> Fraction:
    """The sum of (p0 + p1) * dt without rounding."""
    steps = zip(pairwise(trace.watts), trace.dt_ms, strict=True)
    return sum(
        ((Fraction(watts0) + Fraction(watts1)) * Fraction(dt_ms) for (watts0, watts1), dt_ms in steps),
        Fraction(0),
    )


def array(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def test_three_samples_of_100_w_give_20_j() -> None:
    """100 W at 0.0, 0.1 and 0.2 s are 20 J, with bounds 1/16 W away on either side."""
    whole = total(Trace([100.0, 100.0, 100.0], [100.0, 100.0]).pairs(300.0))
    assert joules(whole.doubled) == 20.0
    assert whole == PairEnergy(40_000.0, low=40_000.0, high=40_000.0, covered_ms=200.0, gap_ms=0.0)
    assert power_bounds(whole, None) == (20.0 - 0.2 / 16, 20.0 + 0.2 / 16)


@given(TRACES, MAX_GAP_MS)
def test_arrays_equal_scalars_to_the_bit(trace: Trace, max_gap_ms: float) -> None:
    """The same lines give arrays the same float64 as floats, element by element."""
    watts = array(trace.watts)
    arrays = pair_energy(watts[:-1], watts[1:], array(trace.dt_ms), max_gap_ms)
    scalars = trace.pairs(max_gap_ms)
    for name in PairEnergy._fields:
        expected = array([getattr(pair, name) for pair in scalars])
        assert getattr(arrays, name).tobytes() == expected.tobytes()


@given(st.lists(st.tuples(ANY_WATTS, ANY_WATTS, st.floats(0.0, 1.0)), min_size=1))
def test_array_power_within_equals_scalar_to_the_bit(cuts: list[tuple[float, float, float]]) -> None:
    """Interpolation gives arrays the same float64 as floats."""
    watts0, watts1, fraction = (array(column) for column in zip(*cuts, strict=True))
    expected = array([power_within(*cut) for cut in cuts])
    assert power_within(watts0, watts1, fraction).tobytes() == expected.tobytes()


@given(st.data(), EXPORTER_TRACES)
def test_exporter_sums_are_exact_in_any_order(data: st.DataObject, trace: Trace) -> None:
    """Sums of multiples of 1/8 W over whole ms equal the rational sum, however they are added."""
    exact = exact_doubled(trace)
    doubled = [pair.doubled for pair in trace.pairs()]
    shuffled = data.draw(st.permutations(doubled))
    assert Fraction(sum(doubled, 0.0)) == exact
    assert Fraction(sum(shuffled, 0.0)) == exact
    assert Fraction(float(np.sum(array(shuffled)))) == exact
    assert Fraction(float(np.cumsum(array(shuffled))[-1])) == exact


def test_sums_stay_exact_over_17_years() -> None:
    """After 17 years at 1000 W, the smallest pair still adds itself, no more and no less."""
    years = pair_energy(1_000.0, 1_000.0, 17 * YEAR_MS, float("inf")).doubled
    smallest = pair_energy(0.0, 1 / energy.STEPS_PER_WATT, 1.0, 300.0).doubled
    assert smallest == 1 / energy.STEPS_PER_WATT
    assert (years + smallest) - years == smallest


@given(st.integers(0, 2**51))
def test_counter_gives_back_its_units(units: int) -> None:
    """A published counter, in joules, gives back its whole number of 1/16000 J for 4 years at 1000 W."""
    doubled = units / energy.STEPS_PER_WATT
    assert round(energy.COUNTER_UNITS_PER_JOULE * joules(doubled)) == units


@given(st.data(), TRACES, MAX_GAP_MS)
def test_order_and_chunks_of_pairs_do_not_matter(
    data: st.DataObject, trace: Trace, max_gap_ms: float
) -> None:
    """Sums over chunks that share their edge sample, in any order, are the sums over the whole."""
    last = len(trace.dt_ms)
    cuts = sorted(data.draw(st.sets(st.integers(0, last))) | {0, last})
    chunks = [
        total(Trace(trace.watts[start : end + 1], trace.dt_ms[start:end]).pairs(max_gap_ms))
        for start, end in pairwise(cuts)
    ]
    whole = total(trace.pairs(max_gap_ms))
    assert total(data.draw(st.permutations(chunks))) == pytest.approx(whole, rel=TOLERANCE)


CUTS = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).map(sorted)


@given(ANY_WATTS, ANY_WATTS, ANY_MS, CUTS)
def test_additive_where_a_pair_is_cut(watts0: float, watts1: float, dt_ms: float, cuts: list[float]) -> None:
    """Two parts of a pair that touch are the part that they make, in joules and in bounds."""
    first, middle, last = cuts
    pair = watts0, watts1, dt_ms, dt_ms
    parts = total([part_energy(*pair, first, middle), part_energy(*pair, middle, last)])
    slack = TOLERANCE * 2 * max(watts0, watts1, 1.0) * dt_ms
    assert parts == pytest.approx(part_energy(*pair, first, last), rel=TOLERANCE, abs=slack)
    assert part_energy(*pair, 0.0, 1.0) == pytest.approx(pair_energy(*pair), rel=TOLERANCE)


def test_bounds_of_a_cut_pair_hold_a_step_at_any_instant() -> None:
    """A load that jumps from 120 W to 520 W right after the first sample stays inside the cut's bounds."""
    low, high = power_bounds(part_energy(120.0, 520.0, 100.0, 300.0, 0.0, 0.5), None)
    jump_at_once, no_jump = 0.05 * 520, 0.05 * 120
    assert high is not None
    assert low <= no_jump < jump_at_once <= high


def test_a_cut_gap_stays_a_gap() -> None:
    """However short the part, a pair beyond max_gap gives no joules."""
    assert part_energy(100.0, 100.0, 1000.0, 300.0, 0.0, 0.1) == NOTHING._replace(gap_ms=100.0)


@given(TRACES, st.integers(0, 10).map(lambda power: 2.0**power))
def test_scales_exactly_with_powers_of_two(trace: Trace, factor: float) -> None:
    """Twice the power, or twice the time, is twice the energy, to the bit."""
    whole = total(trace.pairs())
    stronger = total(Trace([factor * watts for watts in trace.watts], trace.dt_ms).pairs())
    longer = total(Trace(trace.watts, [factor * dt_ms for dt_ms in trace.dt_ms]).pairs())
    assert stronger[:3] == longer[:3] == tuple(factor * value for value in whole[:3])
    assert (stronger.covered_ms, longer.covered_ms) == (whole.covered_ms, factor * whole.covered_ms)


@given(TRACES, MAX_GAP_MS)
def test_a_pair_is_covered_or_a_gap(trace: Trace, max_gap_ms: float) -> None:
    """Each pair's time is all covered (up to and with max_gap_ms) or all gap, and a gap has no joules."""
    for pair, dt_ms in zip(trace.pairs(max_gap_ms), trace.dt_ms, strict=True):
        if dt_ms <= max_gap_ms:
            assert (pair.covered_ms, pair.gap_ms) == (dt_ms, 0.0)
        else:
            assert pair == NOTHING._replace(gap_ms=dt_ms)


@given(TRACES, MAX_GAP_MS, st.none() | st.floats(0.0, 1_500.0))
def test_bounds_contain_the_trapezoid(trace: Trace, max_gap_ms: float, limit_watts: float | None) -> None:
    """low <= joules <= high; high is None exactly where a gap has no limit to bound it."""
    whole = total(trace.pairs(max_gap_ms))
    low, high = power_bounds(whole, limit_watts)
    assert 0 <= low <= joules(whole.doubled)
    assert (high is None) == (whole.gap_ms > 0 and limit_watts is None)
    assert high is None or high >= joules(whole.doubled)


@given(st.data(), EXPORTER_TRACES, st.floats(0.0, 1.0))
def test_bounds_contain_every_curve_between_the_readings(
    data: st.DataObject, trace: Trace, rounding: float
) -> None:
    """Any curve that stays within half a rounding step of each pair's range has its joules in bounds."""
    low, high = power_bounds(total(trace.pairs()), None)
    assert high is not None
    half_step = (2 * rounding - 1) / (2 * energy.STEPS_PER_WATT)
    share = data.draw(st.lists(st.floats(0.0, 1.0), min_size=len(trace.dt_ms), max_size=len(trace.dt_ms)))
    curve = sum(
        (max(0.0, power_within(watts0, watts1, at) + half_step) * dt_ms / 1000)
        for (watts0, watts1), dt_ms, at in zip(pairwise(trace.watts), trace.dt_ms, share, strict=True)
    )
    slack = TOLERANCE * max(curve, 1.0)
    assert low - slack <= curve <= high + slack


@pytest.mark.parametrize(
    ("pair", "limit_watts", "bounds"),
    [
        pytest.param(pair_energy(100.0, 300.0, 1_000.0, 1_000.0), None, (99.9375, 300.0625), id="covered"),
        pytest.param(pair_energy(100.0, 300.0, 1_000.0, 999.0), None, (0.0, None), id="gap, no limit"),
        pytest.param(pair_energy(100.0, 300.0, 1_000.0, 999.0), 700.0, (0.0, 700.0), id="gap, limit"),
        pytest.param(pair_energy(0.0, 0.0, 1_000.0, 1_000.0), 700.0, (0.0, 0.0625), id="never below 0"),
    ],
)
def test_bounds_table(
    pair: PairEnergy[float], limit_watts: float | None, bounds: tuple[float, float | None]
) -> None:
    """Rectangles on either side, 1/16 W of rounding, and the limit over the gap."""
    assert power_bounds(pair, limit_watts) == bounds


@given(EXPORTER_WATTS, EXPORTER_WATTS, st.floats(0.0, 1.0))
def test_power_within_stays_between_its_samples(watts0: float, watts1: float, fraction: float) -> None:
    """Interpolated power is each sample at its own end, and never leaves their range."""
    assert power_within(watts0, watts1, 0.0) == watts0
    assert power_within(watts0, watts1, 1.0) == watts1
    assert min(watts0, watts1) <= power_within(watts0, watts1, fraction) <= max(watts0, watts1)


@pytest.mark.parametrize(
    ("count0", "count1", "step"),
    [
        pytest.param(10.0, 12.5, 2.5, id="rise"),
        pytest.param(10.0, 10.0, 0.0, id="standstill"),
        pytest.param(10.0, 3.0, 3.0, id="reset: the value after it"),
        pytest.param(10.0, 0.0, 0.0, id="reset to nothing"),
        pytest.param(0.0, 0.0, 0.0, id="nothing yet"),
    ],
)
def test_counter_step_table(count0: float, count1: float, step: float) -> None:
    """A counter's step is its rise, or after a fall its new value."""
    assert counter_step(count0, count1) == step


COUNTS = st.integers(0, 2**50).map(lambda eighths: eighths / energy.STEPS_PER_JOULE)


@given(st.lists(COUNTS, min_size=2))
def test_counter_steps_of_arrays_equal_scalars_and_never_fall(counts: list[float]) -> None:
    """Steps are never negative, and arrays give the same float64 as floats."""
    steps = [counter_step(count0, count1) for count0, count1 in pairwise(counts)]
    assert min(steps) >= 0
    values = array(counts)
    assert counter_step(values[:-1], values[1:]).tobytes() == array(steps).tobytes()


@given(st.lists(COUNTS, min_size=2))
def test_counter_without_a_fall_rises_by_its_ends_difference(counts: list[float]) -> None:
    """Without a reset, the steps add up to last minus first, exactly."""
    counts.sort()
    steps = (counter_step(count0, count1) for count0, count1 in pairwise(counts))
    assert sum(map(Fraction, steps)) == Fraction(counts[-1]) - Fraction(counts[0])


@given(st.lists(COUNTS, min_size=1), st.lists(COUNTS, min_size=1))
def test_counter_with_one_reset_counts_what_came_after_it(before: list[float], after: list[float]) -> None:
    """Over one reset, the steps are the rise before it and all that the new counter shows."""
    before.sort()
    after.sort()
    assume(after[0] < before[-1])
    steps = (counter_step(count0, count1) for count0, count1 in pairwise([*before, *after]))
    expected = Fraction(before[-1]) - Fraction(before[0]) + Fraction(after[-1])
    assert sum(map(Fraction, steps)) == expected


@given(st.lists(EXPORTER_WATTS, min_size=2, max_size=40), WHOLE_MS)
def test_pairs_evenly_apart_add_up_by_their_samples(watts: list[float], step_ms: float) -> None:
    """Sums over the samples of an even stretch are the sums over its pairs, to the bit."""
    pairs = Trace(watts, [step_ms] * (len(watts) - 1)).pairs()
    rises = sum(abs(after - before) for before, after in pairwise(watts))
    assert even_energy(sum(watts), rises, (watts[0], watts[-1]), step_ms, len(pairs)) == total(pairs)
