"""Joules, integrated and gap seconds of one GPU, and what of it is published when."""

from fractions import Fraction
from itertools import pairwise
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_measure.sampling.devices import Status
from llem_measure.sampling.ledger import GpuLedger, Page, Read, rounded
from llem_measure.sampling.ring import Ring

T0_MS = 1_795_507_546_000
MAX_GAP_MS = 300


def new_ledger(capacity: int = 1000) -> GpuLedger:
    return GpuLedger(Ring(capacity), MAX_GAP_MS)


def read(
    ms: int,
    watts: float | None = None,
    joules: float | None = None,
    *,
    steps: int = 0,
    at_s: float | None = None,
) -> Read:
    """A read `ms` after T0; the monotonic clock shows `at_s`, or as many seconds."""
    return Read(T0_MS + ms, T0_MS + ms, steps, ms / 1000 if at_s is None else at_s, watts, joules)


def page(ledger: GpuLedger, ms: int) -> Page:
    return ledger.page(T0_MS + ms, ms / 1000)


def filled(*reads: Read) -> GpuLedger:
    ledger = new_ledger()
    for one in reads:
        ledger.add(one)
    return ledger


def test_three_samples_of_100_watts_are_20_joules() -> None:
    """100 W at 0.0, 0.1 and 0.2 s: 20 J over 0.2 s."""
    ledger = filled(read(0, 100.0), read(100, 100.0), read(200, 100.0))
    shown = page(ledger, 200)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s, shown.samples) == (20.0, 0.2, 0.0, 3)
    assert shown.sample_unix_s == (T0_MS + 200) / 1000


def test_nothing_is_counted_before_the_first_power_sample() -> None:
    """A GPU without power has no joules instead of 0. Its hardware counter is still published."""
    shown = page(filled(read(0, None, 12.5)), 0)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (None, None, None)
    assert (shown.joules, shown.sample_unix_s, shown.fresh) == (12.5, T0_MS / 1000, True)


def test_a_missing_power_reading_is_bridged() -> None:
    """A missing reading between two samples 200 ms apart is not a gap."""
    shown = page(filled(read(0, 100.0), read(100, None, 5.0), read(200, 100.0)), 200)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (20.0, 0.2, 0.0)


def test_a_hole_longer_than_max_gap_is_a_gap_with_its_seconds() -> None:
    """Samples 301 ms apart give 0.301 s of gap and no joules. 300 ms apart they give joules."""
    assert page(filled(read(0, 100.0), read(300, 100.0)), 300).nvml_joules == 30.0
    shown = page(filled(read(0, 100.0), read(301, 100.0)), 301)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (0.0, 0.0, 0.301)


def test_an_open_gap_grows_while_nothing_is_read() -> None:
    """Gap seconds grow before the GPU returns, and do not shrink when it returns."""
    ledger = filled(read(0, 100.0))
    assert page(ledger, 600).gap_s == 0.0
    assert page(ledger, 1000).gap_s == 0.7
    assert page(ledger, 5000).gap_s == 4.7
    ledger.add(read(5100, 100.0))
    assert page(ledger, 5100).gap_s == 5.1


def test_gauges_vanish_after_a_second_and_counters_stay() -> None:
    """The second is measured by the monotonic clock."""
    ledger = filled(read(0, 100.0, 7.0), read(100, 120.0, 8.0))
    ledger.set_status(Status(temperature_celsius=40.0), read(100, 120.0, 8.0).monotonic_s)
    shown = ledger.page(T0_MS + 999_999, 1.1)
    assert (shown.watts, shown.peak_watts, shown.status.temperature_celsius) == (120.0, 120.0, 40.0)
    shown = ledger.page(T0_MS + 1101, 1.101)
    assert (shown.watts, shown.peak_watts, shown.sample_unix_s, shown.status) == (None, None, None, Status())
    assert (shown.nvml_joules, shown.joules, shown.samples) == (11.0, 8.0, 2)


def test_the_slow_readings_are_published_for_five_seconds() -> None:
    """Slow readings disappear after 5 s, even while power is read."""
    ledger = filled(read(0, 100.0))
    ledger.set_status(Status(temperature_celsius=40.0), 0.0)
    ledger.add(read(5000, 100.0))
    assert page(ledger, 5000).status.temperature_celsius == 40.0
    assert page(ledger, 5001).status == Status()


def test_the_peak_is_of_the_last_minute() -> None:
    """A peak expires after 60 s. Then the next highest value is the peak."""
    ledger = filled(read(0, 500.0), read(30_000, 300.0), read(40_000, 200.0))
    assert page(ledger, 40_000).peak_watts == 500.0
    ledger.add(read(60_001, 100.0))
    assert page(ledger, 60_001).peak_watts == 300.0
    ledger.add(read(95_000, 50.0))
    assert page(ledger, 95_000).peak_watts == 200.0


def test_errors_are_counted_by_name() -> None:
    """Each failed reading adds one under its own name."""
    ledger = new_ledger()
    ledger.add_errors(["NVML_ERROR_TIMEOUT"])
    ledger.add_errors(["NVML_ERROR_TIMEOUT", "NOT_A_SAMPLE"])
    assert page(ledger, 0).errors == {"NVML_ERROR_TIMEOUT": 2, "NOT_A_SAMPLE": 1}


@pytest.mark.parametrize(
    ("value", "sample"),
    [(None, None), (nan, None), (inf, None), (-0.1, None), (0.0, 0.0), (100.06, 100.0), (100.07, 100.125)],
)
def test_a_sample_is_a_finite_number_of_eighths(value: float | None, sample: float | None) -> None:
    """None, NaN, infinite and negative readings are not samples. Others are rounded to 1/8."""
    assert rounded(value, 8) == sample


def test_a_sample_before_a_settled_time_is_left_out_of_both() -> None:
    """A sample older than the settled time is in neither the history nor the joules."""
    ledger = filled(read(0, 100.0), read(100, 100.0))
    assert len(ledger.trace(0, T0_MS + 200).times_ms) == 2
    ledger.add(read(199, 900.0))
    ledger.add(read(200, 100.0))
    assert list(ledger.trace(0, T0_MS + 300).watts) == [100.0, 100.0, 100.0]
    assert page(ledger, 300).nvml_joules == 20.0


def test_after_a_clock_step_nothing_is_published_within_max_gap() -> None:
    """A step is a gap in the history. The power gauge is still published."""
    ledger = filled(read(0, 100.0), read(100, 100.0))
    ledger.add(read(-2900, 110.0, steps=1, at_s=0.2))
    shown = ledger.page(T0_MS - 2900, 0.2)
    assert (shown.watts, shown.sample_unix_s, shown.samples) == (110.0, None, 2)
    for ms in (101, 400, 401, 500):
        ledger.add(read(ms, 100.0, steps=1))
    assert list(ledger.trace(0, T0_MS + 600).times_ms) == [T0_MS, T0_MS + 100, T0_MS + 401, T0_MS + 500]
    shown = page(ledger, 500)
    assert (shown.integrated_s, shown.gap_s) == (0.199, 0.301)


eighths = st.integers(0, 8 * 2000).map(lambda n: n / 8)


@given(st.lists(st.tuples(st.integers(1, 400), eighths), min_size=2, max_size=200))
def test_the_sums_are_exact(samples: list[tuple[int, float]]) -> None:
    """Joules equal the sum in rational arithmetic, rounded once."""
    ledger, ms = new_ledger(), 0
    exact, covered_ms, gap_ms = Fraction(0), 0, 0
    times: list[tuple[int, Fraction]] = []
    for dt_ms, watts in samples:
        ms += dt_ms
        ledger.add(read(ms, watts))
        times.append((ms, Fraction(watts)))
    for (t0, p0), (t1, p1) in pairwise(times):
        if t1 - t0 <= MAX_GAP_MS:
            exact += (p0 + p1) * (t1 - t0) / 2000
            covered_ms += t1 - t0
        else:
            gap_ms += t1 - t0
    shown = page(ledger, ms)
    assert shown.nvml_joules == float(exact)
    assert shown.nvml_joules is not None
    assert Fraction(round(16_000 * shown.nvml_joules), 16_000) == exact
    assert (shown.covered_ms, shown.gap_ms) == (covered_ms, gap_ms)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.one_of(st.none(), eighths), st.integers(1, 700)),
        st.tuples(st.just("step"), st.integers(-5000, 5000), st.just(0)),
        st.tuples(st.just("page"), st.just(0), st.integers(0, 900)),
        st.tuples(st.just("trace"), st.just(0), st.integers(0, 400)),
    ),
    max_size=60,
)


@given(operations)
def test_published_times_ascend_and_no_counter_goes_back(
    script: list[tuple[str, float | None, int]],
) -> None:
    """For reads, scrapes and clock steps in any order, the joules of the history equal the counter."""
    ledger, elapsed_ms, wall_ms, steps = new_ledger(), 0, T0_MS + 10_000, 0
    pulled: list[int] = []
    counters = [(0.0, 0.0, 0.0, 0.0)]
    for what, value, ms in script:
        elapsed_ms, wall_ms = elapsed_ms + ms, wall_ms + ms
        if what == "read":
            ledger.add(Read(wall_ms, wall_ms, steps, elapsed_ms / 1000, value, 1.0))
        elif what == "step":
            wall_ms, steps = wall_ms + int(value or 0), steps + 1
        elif what == "trace":
            pulled += ledger.trace(pulled[-1] if pulled else 0, wall_ms - ms).times_ms
        shown = ledger.page(wall_ms, elapsed_ms / 1000) if what == "page" else None
        if shown is not None:
            counters.append((shown.doubled, shown.covered_ms, shown.gap_ms, shown.samples))
    assert all(before < after for before, after in pairwise(pulled))
    assert all(a <= b for before, after in pairwise(counters) for a, b in zip(before, after, strict=True))
    trace = ledger.trace(0, 2 * T0_MS)
    assert set(pulled) <= set(trace.times_ms)
    again = new_ledger()
    for time_ms, watts in zip(trace.times_ms, trace.watts, strict=True):
        again.add(Read(time_ms, time_ms, 0, 0.0, None if isnan(watts) else watts, None))
    assert again.page(0, 0.0).nvml_joules == ledger.page(0, 0.0).nvml_joules
