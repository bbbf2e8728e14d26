"""The wall clock is set while the exporter runs: what a scraper gets, and the joules in it."""

from array import array
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.metrics import CLOCK_STEPS
from llem_exporter.collectors.gpu import LedgerCollector
from llem_integrator.joules import trapezoid
from llem_integrator.window import Window
from llem_measure.sampling.ledger import Page
from llem_measure.sampling.ring import Samples
from tests.llem_exporter.history.history_rig import INTERVAL_MS, Rig

MAX_GAP_MS = 3 * INTERVAL_MS
SCRAPE_TICKS = 150
HOUR_TICKS = 36_000


class Scraped(Rig):
    """A rig of one GPU that a scraper asks every 15 s on one connection; `watts` are by unix milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.times_ms = array("q")
        self.watts = array("d")
        self._connection = object()
        self._ticks = 0

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            super().tick()
            self._ticks += 1
            if self._ticks % SCRAPE_TICKS == 0:
                self.scrape()

    def scrape(self) -> None:
        """As /history answers it, all that there is."""
        trace = self.request("a", self._connection)
        self.times_ms += trace.times_ms
        self.watts += trace.watts

    def request(self, scraper: str, connection: object) -> Samples:
        """Return the samples of the response to a scraper."""
        (numbers,) = self.cursors.begin(scraper, "127.0.0.1", connection, None, 10**9)
        samples = self.ledgers[0].copy_samples(numbers)
        self.cursors.offer(scraper, [samples.numbers])
        return samples

    def page(self) -> Page:
        return self.ledgers[0].page(self.clock.now_ms(), self.time.monotonic_s())

    def steps(self) -> float:
        """llem_clock_steps_total."""
        families = LedgerCollector(self.sampler, "nvml", list).collect()
        (value,) = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == CLOCK_STEPS.name
        ]
        return value

    def agrees(self) -> None:
        """What was scraped ascends, and holds exactly the counters' joules, covered and gap seconds."""
        assert all(before < after for before, after in pairwise(self.times_ms))
        assert self.cursors.evicted_samples == 0
        first_ms, last_ms = self.times_ms[0], self.times_ms[-1]
        times, watts = np.array(self.times_ms), np.array(self.watts)
        whole = trapezoid(times, watts, Window(first_ms * 1000, last_ms * 1000), MAX_GAP_MS, None)
        page = self.page()
        assert page.samples == len(times)
        assert whole.joules == page.nvml_joules
        assert whole.covered_s == pytest.approx(page.integrated_s, abs=1e-9)
        assert whole.gap_s == pytest.approx(page.gap_s, abs=1e-9)


def test_without_steps_every_tick_is_scraped_once() -> None:
    """Without clock steps, a minute has all samples and no gap."""
    rig = Scraped()
    rig.tick(600)
    rig.scrape()
    rig.agrees()
    assert {after - before for before, after in pairwise(rig.times_ms)} == {INTERVAL_MS}
    assert (len(rig.times_ms), rig.steps(), rig.page().gap_s) == (600, 0, 0.0)


@pytest.mark.parametrize("step_s", [3, 3600])
def test_a_step_forward_is_a_gap(step_s: int) -> None:
    """A step forward is a gap of the same length. No sample is lost, and the step is counted once."""
    rig = Scraped()
    rig.tick(333)
    rig.time.set_wall(step_s)
    rig.tick(600)
    rig.scrape()
    rig.agrees()
    holes_ms = [after - before for before, after in pairwise(rig.times_ms) if after - before != INTERVAL_MS]
    assert holes_ms == [step_s * 1000 + INTERVAL_MS]
    assert (len(rig.times_ms), rig.steps()) == (933, 1)
    assert rig.page().gap_s == holes_ms[0] / 1000


@pytest.mark.parametrize("step_s", [-3, -3600])
def test_a_step_back_publishes_nothing_until_the_clock_has_passed(step_s: int) -> None:
    """After a step back, samples are dropped until the last time plus max_gap, which is a gap."""
    rig = Scraped()
    rig.tick(333)
    rig.time.set_wall(step_s)
    rig.tick(7)  # until the clock is looked at
    assert rig.page().sample_ms is not None
    paused_ticks = -step_s * 10 + MAX_GAP_MS // INTERVAL_MS
    for ticks in (1, paused_ticks // 2, paused_ticks - paused_ticks // 2 - 1):
        rig.tick(ticks)
        page = rig.page()
        assert (page.sample_ms, page.samples) == (None, 340)
        assert page.watts is not None, "the gauge, which carries no time, goes on"
        assert page.gap_s == (MAX_GAP_MS + 1) / 1000
    rig.tick(600)
    rig.scrape()
    rig.agrees()
    holes_ms = [after - before for before, after in pairwise(rig.times_ms) if after - before != INTERVAL_MS]
    assert holes_ms == [MAX_GAP_MS + INTERVAL_MS]
    assert rig.times_ms[339] + holes_ms[0] == rig.times_ms[340]
    assert (rig.steps(), rig.page().gap_s) == (1, holes_ms[0] / 1000)


@pytest.mark.parametrize("step_s", [3.0, -3.0, 3600.0, -3600.0])
def test_a_step_adds_no_joules(step_s: float) -> None:
    """No energy is integrated across a step."""
    rig = Scraped()
    rig.tick(339)
    before = rig.page().nvml_joules
    assert before is not None
    rig.time.set_wall(step_s)
    rig.tick(1)
    rig.tick(HOUR_TICKS + 10 if step_s == -3600 else 60)
    rig.scrape()
    after = rig.page().nvml_joules
    assert after is not None
    apart_ms = [later - earlier for earlier, later in pairwise(rig.times_ms)]
    sixteen_thousandths = [
        (p0 + p1) * dt_ms * 8
        for (p0, p1), dt_ms in zip(pairwise(rig.watts), apart_ms, strict=True)
        if dt_ms <= MAX_GAP_MS
    ]
    assert sum(dt_ms > MAX_GAP_MS for dt_ms in apart_ms) == 1
    assert sum(sixteen_thousandths[338:]) == round(16_000 * after) - round(16_000 * before)


def test_a_scraper_that_is_new_while_time_is_caught_up_gets_each_sample_once() -> None:
    """After a step back of 3 s, a new scraper also gets ascending times."""
    rig = Scraped()
    connection = object()
    rig.tick(6000)
    rig.time.set_wall(-3)
    rig.tick(10)
    got = array("q")
    for _ in range(20):
        trace = rig.request("late", connection)
        got += trace.times_ms
        rig.tick(7)
    assert len(got) > 50
    assert all(before < after for before, after in pairwise(got))
    rig.scrape()
    rig.agrees()


@given(st.lists(st.tuples(st.integers(1, 80), st.floats(-15, 15)), min_size=1, max_size=6))
def test_whatever_the_clock_does_the_scraped_trace_is_the_counter(script: list[tuple[int, float]]) -> None:
    """For any steps, published times ascend, and the joules of the trace equal the counter to the bit."""
    rig = Scraped()
    rig.tick(5)
    for ticks, step_s in script:
        rig.tick(ticks)
        rig.time.set_wall(step_s)
    rig.tick(1000)  # until the clock has passed whatever was published
    rig.scrape()
    rig.agrees()
