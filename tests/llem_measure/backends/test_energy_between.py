"""The energy between two instants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.energy import NOTHING, add_energy, joules
from llem_measure.backends.nvml import energy_between

RAMP = [(100.0 * n, 100.0 * n) for n in range(6)]


def test_a_trapezoid_is_cut_at_both_edges() -> None:
    """The edges of the window are interpolated linearly. The bounds are those of the cut pairs."""
    energy = energy_between(RAMP, 50.0, 450.0, 300.0)
    assert joules(energy.doubled) == pytest.approx((50 + 450) / 2 * 0.4)
    assert joules(energy.low) == pytest.approx(0.05 * 0 + 0.1 * (100 + 200 + 300) + 0.05 * 400)
    assert joules(energy.high) == pytest.approx(0.05 * 100 + 0.1 * (200 + 300 + 400) + 0.05 * 500)
    assert (energy.covered_ms, energy.gap_ms) == pytest.approx((400, 0))


def test_nothing_is_invented_across_a_gap() -> None:
    """A gap that is cut by an edge is a gap of what lies inside."""
    samples = [(0.0, 100.0), (100.0, 100.0), (500.0, 100.0), (600.0, 100.0)]
    energy = energy_between(samples, 0.0, 300.0, 300.0)
    assert joules(energy.doubled) == pytest.approx(10.0)
    assert (energy.covered_ms, energy.gap_ms) == pytest.approx((100.0, 200.0))


@pytest.mark.parametrize("samples", [[], RAMP[:1]])
def test_less_than_two_samples_have_no_energy(samples: list[tuple[float, float]]) -> None:
    """There is no pair."""
    assert energy_between(samples, 0.0, 1000.0, 300.0) == NOTHING


def test_outside_of_the_samples_there_is_nothing() -> None:
    """Neither joules nor gap."""
    assert energy_between(RAMP, 500.0, 900.0, 300.0) == NOTHING
    assert energy_between(RAMP, -900.0, 0.0, 300.0) == NOTHING


@given(st.lists(st.tuples(st.floats(1, 500), st.floats(0, 700)), min_size=2, max_size=20), st.floats(0, 1))
def test_two_neighbouring_windows_add_up(steps: list[tuple[float, float]], share: float) -> None:
    """Wherever the edge between them lies."""
    samples, ms = list[tuple[float, float]](), 0.0
    for step_ms, watts in steps:
        ms += step_ms
        samples.append((ms, watts))
    edge_ms = share * ms
    first, second = (energy_between(samples, *window, 300.0) for window in ((0.0, edge_ms), (edge_ms, ms)))
    assert list(add_energy(first, second)) == pytest.approx(list(energy_between(samples, 0.0, ms, 300.0)))
