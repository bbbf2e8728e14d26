"""Joules, integrated and gap seconds of one GPU, and what of it is published when."""

from fractions import Fraction
from itertools import pairwise
from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_measure.sampling.devices import Status
from llem_measure.sampling.ledger import GpuLedger, GpuSnapshot, Reading
from llem_measure.sampling.ring import Ring, Samples

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
    complete: bool = True,
) -> Reading:
    """Return a reading `ms` after T0; the monotonic clock shows `at_s`, or as many seconds."""
    monotonic_s = ms / 1000 if at_s is None else at_s
    return Reading(T0_MS + ms, T0_MS + ms, steps, monotonic_s, watts, joules, complete=complete)


def snapshot(ledger: GpuLedger, ms: int) -> GpuSnapshot:
    return ledger.snapshot(ms / 1000)


def filled(*readings: Reading) -> GpuLedger:
    ledger = new_ledger()
    for reading in readings:
        ledger.add(reading)
    return ledger


def held(ledger: GpuLedger) -> Samples:
    return ledger.ring.copy(ledger.ring.held_numbers())


def test_three_samples_of_100_watts_are_20_joules() -> None:
    """100 W at 0.0, 0.1 and 0.2 s: 20 J over 0.2 s."""
    ledger = filled(read(0, 100.0), read(100, 100.0), read(200, 100.0))
    shown = snapshot(ledger, 200)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s, shown.samples) == (20.0, 0.2, 0.0, 3)
    assert shown.sample_unix_s == (T0_MS + 200) / 1000


def test_nothing_is_counted_before_the_first_power_sample() -> None:
    """A GPU without power has no joules instead of 0. Its hardware counter is still published."""
    shown = snapshot(filled(read(0, None, 12.5)), 0)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (None, None, None)
    assert (shown.joules, shown.sample_unix_s, shown.fresh) == (12.5, T0_MS / 1000, True)


def test_a_missing_power_reading_is_bridged() -> None:
    """A missing reading between two samples 200 ms apart is not a gap."""
    shown = snapshot(filled(read(0, 100.0), read(100, None, 5.0), read(200, 100.0)), 200)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (20.0, 0.2, 0.0)


def test_a_hole_longer_than_max_gap_is_a_gap_with_its_seconds() -> None:
    """Samples 301 ms apart give 0.301 s of gap and no joules. 300 ms apart they give joules."""
    assert snapshot(filled(read(0, 100.0), read(300, 100.0)), 300).nvml_joules == 30.0
    shown = snapshot(filled(read(0, 100.0), read(301, 100.0)), 301)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (0.0, 0.0, 0.301)


def test_an_open_gap_grows_while_nothing_is_read() -> None:
    """Gap seconds grow before the GPU returns, and do not shrink when it returns."""
    ledger = filled(read(0, 100.0))
    assert snapshot(ledger, 600).gap_s == 0.0
    assert snapshot(ledger, 1000).gap_s == 0.7
    assert snapshot(ledger, 5000).gap_s == 4.7
    ledger.add(read(5100, 100.0))
    assert snapshot(ledger, 5100).gap_s == 5.1


def test_gauges_vanish_after_a_second_and_counters_stay() -> None:
    """The second is measured by the monotonic clock."""
    ledger = filled(read(0, 100.0, 7.0), read(100, 120.0, 8.0))
    ledger.set_status(Status(temperature_celsius=40.0), read(100, 120.0, 8.0).monotonic_s)
    shown = ledger.snapshot(1.1)
    assert (shown.watts, shown.peak_watts, shown.status.temperature_celsius) == (120.0, 120.0, 40.0)
    shown = ledger.snapshot(1.101)
    assert (shown.watts, shown.peak_watts, shown.sample_unix_s, shown.status) == (None, None, None, Status())
    assert (shown.nvml_joules, shown.joules, shown.samples) == (11.0, 8.0, 2)


def test_the_slow_readings_are_published_for_five_seconds() -> None:
    """Slow readings disappear after 5 s, even while power is read."""
    ledger = filled(read(0, 100.0))
    ledger.set_status(Status(temperature_celsius=40.0), 0.0)
    ledger.add(read(5000, 100.0))
    assert snapshot(ledger, 5000).status.temperature_celsius == 40.0
    assert snapshot(ledger, 5001).status == Status()


def test_the_peak_is_of_the_last_minute() -> None:
    """A peak expires after 60 s. Then the next highest value is the peak."""
    ledger = filled(read(0, 500.0), read(30_000, 300.0), read(40_000, 200.0))
    assert snapshot(ledger, 40_000).peak_watts == 500.0
    ledger.add(read(60_001, 100.0))
    assert snapshot(ledger, 60_001).peak_watts == 300.0
    ledger.add(read(95_000, 50.0))
    assert snapshot(ledger, 95_000).peak_watts == 200.0


def test_errors_are_counted_by_name() -> None:
    """Each failed reading adds one under its own name, also if nothing was read."""
    ledger = filled(read(0)._replace(errors=("NVML_ERROR_TIMEOUT",)))
    ledger.add(read(100, 100.0)._replace(errors=("NVML_ERROR_TIMEOUT", "NOT_A_SAMPLE")))
    ledger.add_error("READ_TOO_SLOW")
    ledger.set_status(Status(errors=("NOT_A_SAMPLE",)), 0.1)
    shown = snapshot(ledger, 100)
    assert shown.errors == {"NVML_ERROR_TIMEOUT": 2, "NOT_A_SAMPLE": 2, "READ_TOO_SLOW": 1}
    assert (shown.reading.watts, shown.samples) == (100.0, 1)


def test_a_reading_that_is_not_later_is_dropped() -> None:
    """A reading at or before the newest time is in neither the history nor the joules."""
    ledger = filled(read(0, 100.0), read(200, 100.0))
    for ms in (199, 200):
        ledger.add(read(ms, 900.0))
    ledger.add(read(201, 100.0))
    assert list(held(ledger).watts) == [100.0, 100.0, 100.0]
    assert snapshot(ledger, 201).nvml_joules == 20.1


def test_while_the_counter_is_left_out_the_last_complete_reading_is_published() -> None:
    """All values of a snapshot are of one instant. The history has every reading, the gauges stay fresh."""
    ledger = filled(read(0, 100.0, 7.0), read(100, 200.0, complete=False), read(200, 300.0, complete=False))
    shown = snapshot(ledger, 200)
    assert (shown.watts, shown.peak_watts, shown.joules, shown.sample_unix_s) == (100, 100, 7, T0_MS / 1000)
    assert (shown.nvml_joules, shown.integrated_s, shown.samples) == (0.0, 0.0, 1)
    assert (shown.fresh, len(held(ledger).watts)) == (True, 3)
    ledger.add(read(300, 400.0, 8.0))
    shown = snapshot(ledger, 300)
    assert (shown.watts, shown.joules, shown.nvml_joules, shown.samples) == (400.0, 8.0, 75.0, 4)


def test_without_a_complete_reading_for_a_second_an_incomplete_one_is_published() -> None:
    """A value that was not read is absent then. An old value must not have a new timestamp."""
    ledger = filled(read(0, 100.0, 7.0))
    for ms in range(100, 1200, 100):
        ledger.add(read(ms, 200.0, complete=False))
    shown = snapshot(ledger, 1100)
    assert (shown.watts, shown.joules, shown.reading.unix_ms) == (200.0, None, T0_MS + 1100)


@pytest.mark.parametrize("step_ms", [3_600_000, 3000, 150, -150, -3000, -3_600_000])
def test_a_step_of_the_clock_changes_no_counter(step_ms: int) -> None:
    """A pair across a step counts with its monotonic time, and so does what follows."""
    ledger = filled(read(0, 100.0), read(100, 100.0))
    for ms in (200, 300):
        ledger.add(read(ms + step_ms, 110.0, 5.0, steps=1, at_s=ms / 1000))
    shown = ledger.snapshot(0.3)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (31.5, 0.3, 0.0)
    assert (shown.watts, shown.joules, shown.samples) == (110.0, 5.0, 4)
    assert shown.reading.unix_ms == T0_MS + 300 + step_ms


def test_a_gap_across_a_step_has_its_real_time() -> None:
    """A GPU was lost for 5 s while the clock was set by a year."""
    year_ms = 31_536_000_000
    ledger = filled(read(0, 100.0), read(5000 + year_ms, 100.0, steps=1, at_s=5.0))
    shown = ledger.snapshot(5.0)
    assert (shown.nvml_joules, shown.integrated_s, shown.gap_s) == (0.0, 0.0, 5.0)


def test_a_step_makes_a_hole_longer_than_max_gap_in_the_history() -> None:
    """After a small step back, the history goes on 300 ms after its newest time, so nothing bridges it."""
    ledger = filled(read(0, 100.0), read(100, 100.0))
    for ms in (-2900, 101, 400, 401, 500):
        ledger.add(read(ms, 100.0, steps=1, at_s=3.1 + ms / 1000))
        assert ledger.trace_paused == (ms <= 400)
    assert list(held(ledger).times_ms) == [T0_MS, T0_MS + 100, T0_MS + 401, T0_MS + 500]


def test_after_the_longest_pause_the_history_begins_again() -> None:
    """The history is empty then, and goes on with the new times under the next numbers."""
    ledger = GpuLedger(Ring(100), MAX_GAP_MS, pause_s=20.0)
    ledger.add(read(0, 100.0))
    ledger.add(read(-3_599_000, 100.0, steps=1, at_s=1.0))
    # A second step does not lengthen the pause.
    ledger.add(read(-3_590_000, 100.0, steps=2, at_s=10.0))
    ledger.add(read(-3_579_001, 100.0, steps=2, at_s=20.999))
    assert (ledger.trace_paused, ledger.ring.held_numbers()) == (True, range(1))
    for ms in (0, 100):
        ledger.add(read(-3_579_000 + ms, 100.0, steps=2, at_s=21.0 + ms / 1000))
    samples = held(ledger)
    assert (ledger.trace_paused, samples.numbers) == (False, range(1, 3))
    assert list(samples.times_ms) == [T0_MS - 3_579_000, T0_MS - 3_578_900]


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
    shown = snapshot(ledger, ms)
    assert shown.nvml_joules == float(exact)
    assert shown.nvml_joules is not None
    assert Fraction(round(16_000 * shown.nvml_joules), 16_000) == exact
    assert (shown.total.covered_ms, shown.total.gap_ms) == (covered_ms, gap_ms)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.one_of(st.none(), eighths), st.integers(1, 1500)),
        st.tuples(st.just("left out"), eighths, st.integers(1, 400)),
        st.tuples(st.just("step"), st.integers(-5000, 5000), st.just(0)),
        st.tuples(st.just("slew"), st.integers(-10, 10), st.just(0)),
        st.tuples(st.just("look"), st.just(0), st.integers(0, 900)),
    ),
    max_size=60,
)


@given(operations)
def test_counters_never_fall_and_never_exceed_the_time_that_passed(
    script: list[tuple[str, float | None, int]],
) -> None:
    """This holds for snapshots at any time, also in an open gap while the clock is slewed or set."""
    ledger, elapsed_ms, wall_ms, steps, slewed_ms = new_ledger(), 0, 10_000, 0, 0
    counters = [(0.0, 0.0, 0.0, 0.0)]
    trace = dict[int, tuple[float, float]]()
    for what, value, ms in script:
        elapsed_ms, wall_ms = elapsed_ms + ms, wall_ms + ms
        match what:
            case "read" | "left out":
                complete = what == "read"
                joules = 1.0 if complete else None
                at_s = elapsed_ms / 1000
                ledger.add(read(wall_ms, value, joules, steps=steps, at_s=at_s, complete=complete))
            case "step":
                wall_ms, steps = wall_ms + int(value or 0), steps + 1
            case "slew":
                wall_ms, slewed_ms = wall_ms + int(value or 0), slewed_ms + abs(int(value or 0))
        shown = ledger.snapshot(elapsed_ms / 1000)
        counters.append((shown.total.doubled, shown.total.covered_ms, shown.total.gap_ms, shown.samples))
        assert shown.total.covered_ms + shown.total.gap_ms <= elapsed_ms + slewed_ms
        samples = held(ledger)
        for number, ms_watts in zip(
            samples.numbers, zip(samples.times_ms, samples.watts, strict=True), strict=True
        ):
            assert repr(trace.setdefault(number, ms_watts)) == repr(ms_watts), "a held sample never changes"
    assert all(a <= b for before, after in pairwise(counters) for a, b in zip(before, after, strict=True))
    times_ms = [trace[number][0] for number in sorted(trace)]
    assert all(before < after for before, after in pairwise(times_ms)), "no pause ends in ten minutes"


@given(operations)
def test_the_samples_of_a_stretch_between_steps_add_up_to_its_joules(
    script: list[tuple[str, float | None, int]],
) -> None:
    """Integrated again, the history of each stretch gives what the counters rose by meanwhile, to the bit."""
    ledger, elapsed_ms, wall_ms, steps = new_ledger(), 0, 10_000, 0
    stretches = [list[tuple[Samples, GpuSnapshot]]()]
    for what, value, ms in script:
        elapsed_ms, wall_ms = elapsed_ms + ms, wall_ms + ms
        if what == "step":
            wall_ms, steps = wall_ms + int(value or 0), steps + 1
            stretches.append([])
        elif what == "read":
            before = ledger.ring.held_numbers()
            ledger.add(read(wall_ms, value, 1.0, steps=steps, at_s=elapsed_ms / 1000))
            added = ledger.ring.copy(range(before.stop, before.stop + 1))
            if value is not None and added.times_ms:
                stretches[-1].append((added, ledger.snapshot(elapsed_ms / 1000)))
    for stretch in stretches:
        again = new_ledger()
        for samples, _ in stretch:
            ms, watts = int(samples.times_ms[0]), samples.watts[0]
            assert not isnan(watts)
            again.add(Reading(ms, ms, 0, ms / 1000, watts, None))
        if stretch:
            (_, first), (_, last) = stretch[0], stretch[-1]
            rises = [after - before for after, before in zip(last.total, first.total, strict=True)]
            assert list(again.total) == rises
