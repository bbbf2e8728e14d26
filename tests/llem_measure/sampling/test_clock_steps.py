"""The wall clock is set while the exporter runs: the counters do not notice, and the history says so."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.energy import NOTHING, PairEnergy, add_energy, pair_energy
from llem_core.metrics import CLOCK_STEPS, HISTORY_PAUSED
from llem_exporter.collectors.sampler import SamplerCollector
from llem_measure.sampling.ledger import GpuSnapshot
from llem_measure.sampling.sampler import Sampler
from tests.llem_measure.sampling.sampled_gpu import SampledGpu

INTERVAL_MS = 100
MAX_GAP_MS = 3 * INTERVAL_MS
YEAR_S = 31_536_000.0


@dataclass(frozen=True, slots=True)
class Added:
    """A sample that was added to the history, and the counters with it."""

    unix_ms: float
    watts: float
    number: int
    clock_steps: int
    total: PairEnergy[float]


class SteppedGpu(SampledGpu):
    """A GPU whose power rises slowly, so that any samples of it give the same joules.

    The clock is looked at once a second, as the exporter does. `added` is all that was ever in the history.
    """

    def __init__(self, first_watts: float = 100.0, watts_per_s: float = 0.0) -> None:
        super().__init__()
        self.start_s = self.time.monotonic_s()
        self.device.watts_at = lambda _: first_watts + watts_per_s * self.elapsed_s
        self.added = list[Added]()
        self._ticks = 0

    @property
    def elapsed_s(self) -> float:
        return self.time.monotonic_s() - self.start_s

    def run(self, seconds: float) -> GpuSnapshot:
        """Read at each tick for some time."""
        end_s = self.time.monotonic_s() + seconds
        while self.time.monotonic_s() < end_s - 1e-6:
            before = self.ledger.ring.held_numbers().stop
            steps = self.clock.mapping.steps
            shown = self.tick()
            for number in range(before, self.ledger.ring.held_numbers().stop):
                sample = self.ledger.ring.copy(range(number, number + 1))
                self.added.append(Added(sample.times_ms[0], sample.watts[0], number, steps, shown.total))
            self._ticks += 1
            if self._ticks % 10 == 0:
                self.clock.observe()
        return self.snapshot()

    def metric(self, name: str) -> float:
        """Return a metric of the sampler."""
        families = SamplerCollector(Sampler([self.gpu], self.clock, INTERVAL_MS)).collect()
        samples = [sample for family in families for sample in family.samples]
        return next(sample.value for sample in samples if sample.name == name)

    def holes_ms(self) -> list[float]:
        """Return the steps between neighbouring samples of the history that are not an interval."""
        steps_ms = [after.unix_ms - before.unix_ms for before, after in pairwise(self.added)]
        return [step_ms for step_ms in steps_ms if step_ms != INTERVAL_MS]

    def check_history(self, *, cleared: int = 0) -> None:
        """Check that times ascend, but for a number of times at which the history began again.

        In each stretch between steps, the samples give exactly the joules of the counter.
        """
        falls = [after for before, after in pairwise(self.added) if after.unix_ms <= before.unix_ms]
        assert len(falls) == cleared
        assert [sample.number for sample in self.added] == list(range(len(self.added)))
        if falls:
            assert self.ledger.ring.held_numbers().start == falls[-1].number
        stretches = dict[int, list[Added]]()
        for sample in self.added:
            stretches.setdefault(sample.clock_steps, []).append(sample)
        for stretch in stretches.values():
            again = NOTHING
            for before, after in pairwise(stretch):
                dt_ms = after.unix_ms - before.unix_ms
                assert dt_ms <= MAX_GAP_MS
                again = add_energy(again, pair_energy(before.watts, after.watts, dt_ms, MAX_GAP_MS))
            rises = [
                after - before for before, after in zip(stretch[0].total, stretch[-1].total, strict=True)
            ]
            assert list(again) == rises
        for before, after in pairwise(self.added):
            if before.clock_steps != after.clock_steps and after not in falls:
                assert after.unix_ms - before.unix_ms > MAX_GAP_MS


def test_without_steps_every_tick_is_in_the_history_once() -> None:
    """A minute has all samples and no gap. Its samples give the joules of the counter."""
    rig = SteppedGpu(100.0, 3.3)
    shown = rig.run(60.0)
    rig.check_history()
    assert (len(rig.added), rig.holes_ms(), shown.gap_s) == (shown.samples, [], 0.0)
    assert 600 <= shown.samples <= 601
    assert (rig.metric(CLOCK_STEPS.name), rig.metric(HISTORY_PAUSED.name)) == (0, 0)


@pytest.mark.parametrize("step_s", [3.0, 3600.0, YEAR_S])
def test_a_step_forward_is_a_hole_in_the_history_alone(step_s: float) -> None:
    """It is counted once. The counters go on as if nothing had happened."""
    rig = SteppedGpu(500.0)
    rig.run(33.3)
    rig.time.set_wall(step_s)
    shown = rig.run(60.0)
    rig.check_history()
    assert rig.holes_ms() == [step_s * 1000 + INTERVAL_MS]
    assert len(rig.added) == shown.samples
    assert shown.gap_s == 0.0
    assert shown.integrated_s == pytest.approx(rig.elapsed_s - 0.06)
    assert shown.nvml_joules == pytest.approx(500 * (rig.elapsed_s - 0.06))
    assert (rig.metric(CLOCK_STEPS.name), rig.metric(HISTORY_PAUSED.name)) == (1, 0)


def test_after_a_step_back_the_history_waits_until_the_clock_has_passed() -> None:
    """llem_history_paused is 1 meanwhile. Gauges and counters go on."""
    rig = SteppedGpu(500.0)
    rig.run(33.3)
    rig.time.set_wall(-60.0)
    rig.run(0.7)  # until the clock is looked at
    before = len(rig.added)
    for seconds in (0.1, 29.9, 30.2):
        shown = rig.run(seconds)
        assert (rig.metric(HISTORY_PAUSED.name), len(rig.added)) == (1, before)
        assert (shown.watts, shown.gap_s) == (500.0, 0.0)
        assert shown.sample_unix_s is not None
        assert shown.nvml_joules == pytest.approx(500 * (rig.elapsed_s - 0.06))
    rig.run(60.0)
    rig.check_history()
    assert rig.holes_ms() == [MAX_GAP_MS + INTERVAL_MS]
    assert (rig.metric(CLOCK_STEPS.name), rig.metric(HISTORY_PAUSED.name)) == (1, 0)


def test_half_an_hour_after_an_hour_back_is_counted() -> None:
    """The clock was an hour ahead and was set back: 30 min at 500 W are 900 kJ."""
    rig = SteppedGpu(500.0)
    rig.time.set_wall(3600.0)
    rig.run(10.0)
    before = rig.snapshot().nvml_joules
    rig.time.set_wall(-3600.0)
    shown = rig.run(1800.0)
    assert before is not None
    assert shown.nvml_joules is not None
    assert shown.nvml_joules - before == pytest.approx(900_000)
    assert shown.gap_s == 0.0
    rig.check_history(cleared=1)


def test_a_clock_that_is_a_year_ahead_for_five_seconds_stops_nothing() -> None:
    """No gap is invented, joules are counted at once, and the history begins again after ten minutes."""
    rig = SteppedGpu(500.0)
    rig.run(10.0)
    for step_s in (YEAR_S, -YEAR_S):
        rig.time.set_wall(step_s)
        shown = rig.run(5.0)
        assert (shown.gap_s, shown.watts) == (0.0, 500.0)
        assert shown.nvml_joules == pytest.approx(500 * (rig.elapsed_s - 0.06), rel=1e-3)
    assert rig.metric(HISTORY_PAUSED.name) == 1
    before = len(rig.added)
    rig.run(590.0)
    assert (rig.metric(HISTORY_PAUSED.name), len(rig.added)) == (1, before)
    shown = rig.run(10.0)
    assert rig.metric(HISTORY_PAUSED.name) == 0
    assert 10 <= len(rig.added) - before <= 100
    assert shown.gap_s == 0.0
    assert shown.nvml_joules == pytest.approx(500 * (rig.elapsed_s - 0.06))
    rig.check_history(cleared=1)


sizes_s = st.one_of(st.floats(0.05, 20.0), st.floats(20.0, 10 * YEAR_S))
steps_s = st.tuples(sizes_s, st.sampled_from([1, -1])).map(lambda pair: pair[0] * pair[1])


@given(st.lists(st.tuples(st.floats(0.1, 20.0), steps_s), min_size=1, max_size=6))
def test_whatever_the_clock_does_the_counters_are_those_without_steps(
    script: list[tuple[float, float]],
) -> None:
    """Joules, covered and gap seconds are the same to one interval, and never fall."""
    stepped, steady = SteppedGpu(100.0, 2.0), SteppedGpu(100.0, 2.0)
    shown = [stepped.snapshot()]
    for seconds, step_s in script:
        shown.append(stepped.run(seconds))
        stepped.time.set_wall(step_s)
    shown.append(stepped.run(3.0))
    expected = steady.run(stepped.elapsed_s)
    last = shown[-1]
    interval_s, watts = INTERVAL_MS / 1000, 100.0 + 2.0 * stepped.elapsed_s
    # Changes short of a step are slewed in: 1 ms at each look at the clock.
    slewed_s = 0.001 * (1 + stepped.elapsed_s)
    within_s = interval_s + slewed_s + 0.004
    assert last.gap_s == expected.gap_s == 0.0
    assert last.integrated_s == pytest.approx(expected.integrated_s, abs=within_s)
    rounding_j = stepped.elapsed_s / 16
    assert last.nvml_joules == pytest.approx(expected.nvml_joules, abs=within_s * watts + rounding_j)
    for before, after in pairwise(shown):
        assert all(a <= b for a, b in zip(before.total, after.total, strict=True))
    stepped.check_history()


@given(st.lists(st.tuples(st.floats(0.5, 5.0), st.floats(0.0, 5.0), steps_s), min_size=1, max_size=5))
def test_gaps_never_exceed_the_time_that_passed(script: list[tuple[float, float, float]]) -> None:
    """A GPU cannot be read while the clock is set. Its gap is as long as that really took."""
    rig = SteppedGpu()
    apart_s = 0.0
    for seconds, silence_s, step_s in script:
        rig.run(seconds)
        last_s = rig.time.monotonic_s()
        rig.time.sleep(silence_s)
        rig.time.set_wall(step_s)
        rig.clock.observe()
        rig.tick()
        apart_s += rig.time.monotonic_s() - last_s
    shown = rig.run(1.0)
    assert shown.gap_s is not None
    assert shown.integrated_s is not None
    slewed_s = 0.001 * (len(script) + rig.elapsed_s)
    assert shown.gap_s <= apart_s + slewed_s
    assert shown.gap_s + shown.integrated_s == pytest.approx(rig.elapsed_s, abs=0.15 + slewed_s)
