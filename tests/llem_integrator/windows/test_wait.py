"""--wait: until a store has what follows a window's end, by a clock of the test's own."""

from collections.abc import Callable

import pytest

from llem_integrator.stores import Source, parse_selector
from llem_integrator.windows.wait import BEFORE_MS, wait_for_samples
from tests.llem_integrator.pages import T0, page, parse, series, trace

END_US = (T0 + 60_000) * 1000


class Clock:
    """Seconds after T0, which only sleep() moves; a store opened then has the samples up to then."""

    def __init__(self, now_s: float, shown: Callable[[float], list[str]]) -> None:
        self.now_s, self.opened, self._shown = now_s, 0, shown

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def open(self) -> Source:
        self.opened += 1
        return parse(page(self._shown(self.now_s)), "page", maybe_empty=True)

    def wait(self, wait_s: float, match: str = "") -> bool:
        selectors = (parse_selector(match) if match else (),)
        return wait_for_samples(
            self.open, END_US, wait_s, selectors, monotonic_s=lambda: self.now_s, sleep=self.sleep
        )


def scraped(gpu: int, every_s: int, until_s: float) -> list[str]:
    """A counter as scraped up to a time."""
    labels = {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "instance": f"n{gpu}:9955"}
    times = range(0, int(until_s) + 1, every_s)
    return series("llem_gpu_zeus_energy_joules_total", labels, [(s * 1000, 100.0 * s) for s in times])


def test_it_ends_with_the_first_scrape_after_the_end() -> None:
    """The wait ends with the first scrape that is later than the end plus the lag of the sensor."""
    clock = Clock(60.0, lambda now_s: scraped(0, 15, now_s))
    assert clock.wait(30)
    assert clock.now_s == 75
    clock = Clock(200.0, lambda now_s: scraped(0, 15, now_s))
    assert clock.wait(30)
    assert (clock.now_s, clock.opened) == (200, 1)


def test_it_gives_up_in_time() -> None:
    """The wait ends at its timeout, even if series are incomplete."""
    clock = Clock(60.0, lambda now_s: scraped(0, 15, now_s))
    assert not clock.wait(7.5)
    assert clock.now_s == pytest.approx(67.5)


def test_every_series_that_reaches_the_end_is_waited_for() -> None:
    """The wait ends with the slowest of the selected series."""

    def shown(now_s: float) -> list[str]:
        samples = [(ms, 100.0) for ms in range(0, int(now_s * 1000), 100)]
        return [*scraped(0, 15, now_s), *scraped(1, 40, now_s), *trace(0, samples)]

    for match, ended_s in (("", 80), ('instance="n0:9955"', 75), ('instance="n1:9955"', 80)):
        clock = Clock(60.0, shown)
        assert clock.wait(60, match)
        assert clock.now_s == ended_s


def test_a_node_that_was_gone_before_is_not_waited_for() -> None:
    """There is no wait for a node that was gone earlier, or if the store has no series."""
    gone_s = 60 - BEFORE_MS / 1000 - 1
    early = series("llem_gpu_zeus_energy_joules_total", {"uuid": "GPU-0"}, [(round(gone_s * 1000), 1.0)])
    for clock in (Clock(60.0, lambda _: early), Clock(60.0, lambda _: [])):
        assert clock.wait(30)
        assert clock.opened == 1
