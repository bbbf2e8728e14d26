"""What a soak must show, each as a figure that holds or does not."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core import metrics
from llem_core.energy import COUNTER_UNITS_PER_JOULE, GAP_INTERVALS, STEPS_PER_WATT
from tests.bench.soak_faults import Episode
from tests.bench.soak_scrapers import (
    SCRAPE_SECONDS,
    GpuState,
    HistoryScraper,
    MetricsScraper,
    Scraper,
    Trace,
)
from tests.servers import Prometheus

INTERVAL_MS: Final = 100
ONSET_MS: Final = 500
STALE_SECONDS: Final = 1.0
PAGE_SECONDS: Final = 0.3
"""A page may be this much younger than its request."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a soak may show at most.

    `late_s` bounds the 99th percentile, and `lost_ticks` is a share of all.
    """

    growth: float = 0.02
    late_s: float = 0.005  # while histories are rendered, which the slow readers ask for all the time
    lost_ticks: float = 0.0001
    scrape_s: float = SCRAPE_SECONDS
    unaccounted_s: float = INTERVAL_MS / 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the result."""

    name: str
    value: str
    holds: bool

    def __str__(self) -> str:
        return f"{'met   ' if self.holds else 'MISSED'} {self.name:<28}{self.value}"


@dataclass(frozen=True, slots=True)
class Rest:
    """The exporter's memory and descriptors at a moment when nobody attacks."""

    unix_s: float
    own_bytes: int
    rss_bytes: int
    descriptors: int


def at_rest(pid: int, unix_s: float) -> Rest:
    """As soon as no more descriptors are closed. Source: proc(5), smaps_rollup and fd."""
    before = math.inf
    while (now := len(list(Path(f"/proc/{pid}/fd").iterdir()))) < before:
        before = now
        time.sleep(1.0)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.endswith("kB")
    }
    return Rest(unix_s, sizes["Anonymous"], sizes["Rss"], len(list(Path(f"/proc/{pid}/fd").iterdir())))


def of_scrapes(scraper: Scraper, name: str) -> Figure:
    slowest_ms = 1000 * max(scraper.seconds, default=math.nan)
    p99_ms = 1000 * float(np.quantile(scraper.seconds, 0.99)) if scraper.seconds else math.nan
    value = (
        f"{len(scraper.missed)} missed of {len(scraper.seconds)}; p99 {p99_ms:.0f} ms, "
        f"slowest {slowest_ms:.0f} ms, {scraper.reconnections} asked again {'; '.join(scraper.missed[:3])}"
    )
    return Figure(name, value, bool(scraper.seconds) and not scraper.missed)


def of_prometheus(prometheus: Prometheus, seconds: float) -> Figure:
    """Whether each of its scrapes succeeded."""
    span = f"[{math.ceil(seconds)}s]"
    scrapes = prometheus.value(f"sum(count_over_time(up{span}))")
    failed = scrapes - prometheus.value(f"sum(sum_over_time(up{span}))")
    return Figure("Prometheus' scrapes", f"{failed:.0f} missed of {scrapes:.0f}", failed == 0 < scrapes)


def of_repetition(history: HistoryScraper) -> Figure:
    count = sum(len(times_ms) for times_ms, _ in history.traces.values())
    return Figure(
        "samples had by ID", f"{count}, {history.repeated} of them twice", history.repeated == 0 < count
    )


def of_seconds(scraper: MetricsScraper, limits: Limits) -> Figure:
    """Whether integrated and gap seconds are all that passed since the first sample, on every page.

    Up to the newest sample that is; or where that is old, up to now, but for a step that may yet be covered.
    """
    worst_s, pages = 0.0, 0
    for states in scraper.states.values():
        begins_s: float | None = None
        for state in states:
            if state.integrated_s is None or state.gap_s is None:
                continue
            known_s = state.integrated_s + state.gap_s
            if begins_s is None:
                begins_s = None if state.sample_s is None else state.sample_s - known_s
                continue
            least_s = state.unix_s - (GAP_INTERVALS + 1) * INTERVAL_MS / 1000
            if state.sample_s is not None and state.watts is not None:
                least_s = state.sample_s
            most_s = max(least_s, state.came_s)
            ends_s = begins_s + known_s
            worst_s = max(worst_s, least_s - ends_s, ends_s - most_s)
            pages += 1
    gaps_s = sum(states[-1].gap_s or 0.0 for states in scraper.states.values() if states)
    value = (
        f"at most {1000 * worst_s:.0f} ms unaccounted for on {pages} pages; {gaps_s:.0f} gap seconds in all"
    )
    return Figure("integrated + gap = elapsed", value, worst_s <= limits.unaccounted_s and pages > 0 < gaps_s)


def of_joules(scraper: MetricsScraper, history: HistoryScraper) -> Figure:
    """Whether the counter rose by the trapezoid of the samples that were handed over, to the bit."""
    wrong, compared = [], 0
    for gpu, states in scraper.states.items():
        first, last = _ends(states)
        rise = round(COUNTER_UNITS_PER_JOULE * (last[1] - first[1]))
        times_ms, watts = _arrays(history.traces[metrics.GPU_POWER_TRACE.name, gpu])
        inside = (times_ms >= first[0]) & (times_ms <= last[0])
        steps = np.diff(times_ms[inside]) * (np.diff(times_ms[inside]) <= GAP_INTERVALS * INTERVAL_MS)
        eighths = np.rint(watts[inside] * STEPS_PER_WATT).astype(np.int64)
        trapezoid = int(np.sum((eighths[:-1] + eighths[1:]) * steps))  # 1/16000 J = 1/8 W x 1 ms / 2
        compared += len(steps)
        if trapezoid != rise:
            wrong.append(f"GPU {gpu}: {(trapezoid - rise) / COUNTER_UNITS_PER_JOULE:+.6f} J")
    value = f"{len(wrong)} of {len(scraper.states)} GPUs differ over {compared} pairs {'; '.join(wrong[:3])}"
    return Figure("counter = trapezoid, to bits", value, not wrong and compared > 0)


def of_stale_gauges(scraper: MetricsScraper, episodes: Sequence[Episode]) -> Figure:
    """Whether power was published of a GPU that had not been read for a second."""
    silent = stale = 0
    for gpu, states in scraper.states.items():
        for state in states:
            after_s = STALE_SECONDS + PAGE_SECONDS
            if any(episode.silences(gpu, state.unix_s, state.came_s, after_s) for episode in episodes):
                silent += 1
                stale += state.watts is not None
    return Figure("stale gauges", f"{stale} of {silent}", stale == 0 < silent)


def of_recovery(scraper: MetricsScraper) -> Figure:
    silent = [gpu for gpu, states in scraper.states.items() if not states or states[-1].watts is None]
    return Figure("GPUs that came back", f"all but {silent or 'none'}", not silent)


def of_ticks(
    history: HistoryScraper, episodes: Sequence[Episode], limits: Limits, bare_timer: Sequence[float]
) -> Iterator[Figure]:
    """How late the samples of well GPUs came, and how many of their ticks have none.

    All GPUs are read by one thread, so a GPU whose calls begin to hang or to be slow delays the others once.
    Such moments are counted apart. Beside it is the lateness of a timer in a process of its own.
    """
    late_ms: list[NDArray[np.int64]] = []
    missed = ticks = missed_at_onsets = onsets = longest_ms = 0
    for (name, gpu), trace in history.traces.items():
        if name != metrics.GPU_POWER_TRACE.name:
            continue
        times_ms, _ = _arrays(trace)
        well, calm = _well(times_ms, gpu, episodes), _calm(times_ms, episodes)
        late_ms.append((times_ms % INTERVAL_MS)[well & calm])
        grid = np.arange(times_ms[0] // INTERVAL_MS, times_ms[-1] // INTERVAL_MS + 1)
        grid = grid[_well(grid * INTERVAL_MS, gpu, episodes)]
        calm = _calm(grid * INTERVAL_MS, episodes)
        lost = ~np.isin(grid, times_ms // INTERVAL_MS)
        ticks += int(np.count_nonzero(calm))
        missed += int(np.count_nonzero(lost & calm))
        missed_at_onsets += int(np.count_nonzero(lost & ~calm))
        onsets += sum(episode.delays_others and gpu not in episode.gpus for episode in episodes)
        apart_ms = np.diff(times_ms)[well[1:] & well[:-1]]
        longest_ms = max(longest_ms, int(apart_ms.max(initial=0)))
    every = np.concatenate(late_ms)
    p99_ms = float(np.quantile(every, 0.99))
    # A read at most 2 ms late is on its tick.
    p99 = "<= 2 ms" if p99_ms == 0 else f"{p99_ms:.0f} ms"
    bare_ms = 1000 * np.array(bare_timer)
    value = (
        f"p99 {p99} (target {1000 * limits.late_s:.0f} ms) over {len(every)} samples, "
        f"{float(np.mean(every > 0)):.2%} more than 2 ms late, at most {int(np.max(every))} ms; "
        f"a bare timer's p99 {np.quantile(bare_ms, 0.99):.1f} ms, at most {np.max(bare_ms):.0f} ms"
    )
    stalled = float(np.mean(bare_ms > INTERVAL_MS / 2))
    yield Figure("lateness of well GPUs", value, p99_ms <= 1000 * limits.late_s)
    value = (
        f"{missed} of {ticks} without a sample (target {limits.lost_ticks:.2%}); "
        f"{stalled:.2%} of the bare timer's late by half a tick"
    )
    yield Figure("ticks of well GPUs", value, missed <= limits.lost_ticks * ticks)
    value = (
        f"{missed_at_onsets} ticks lost by others in {onsets} onsets of a hang (target: at most 2 each), "
        f"samples of well GPUs at most {longest_ms} ms apart"
    )
    yield Figure("GPUs beside a hang", value, missed_at_onsets <= 2 * onsets)


def of_growth(rests: Sequence[Rest], span_s: tuple[float, float], most: float) -> Iterator[Figure]:
    """Medians of the third and the last quarter.

    Not of PSS: that grows when another process that uses the same libraries ends.
    """
    start_s, end_s = span_s
    quarter_s = (end_s - start_s) / 4
    third = [rest for rest in rests if end_s - 2 * quarter_s <= rest.unix_s < end_s - quarter_s]
    last = [rest for rest in rests if rest.unix_s >= end_s - quarter_s]
    for name, field in (("memory (own)", "own_bytes"), ("memory (RSS)", "rss_bytes")):
        before, after = (median(getattr(rest, field) for rest in part) for part in (third, last))
        value = f"{before / 1e6:.1f} MB, then {after / 1e6:.1f} MB ({after / before - 1:+.2%})"
        yield Figure(name, value, after <= (1 + most) * before)
    before, after = (median(rest.descriptors for rest in part) for part in (third, last))
    highest = max(rest.descriptors for rest in rests)
    yield Figure("descriptors at rest", f"{before:g}, then {after:g}; at most {highest}", after <= before)


def _ends(states: Iterable[GpuState]) -> tuple[tuple[int, float], tuple[int, float]]:
    """Milliseconds and joules of the first and the last page that tell both."""
    known = [
        (round(1000 * state.sample_s), state.joules)
        for state in states
        if state.sample_s is not None and state.joules is not None and state.watts is not None
    ]
    return known[0], known[-1]


def _arrays(trace: Trace) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.frombuffer(trace[0], np.int64), np.frombuffer(trace[1], np.float64)


def _calm(times_ms: NDArray[np.int64], episodes: Iterable[Episode]) -> NDArray[np.bool_]:
    """Which instants do not follow the start of a hang or of slow calls, of whatever GPU."""
    calm = np.ones(len(times_ms), bool)
    for episode in episodes:
        if episode.delays_others:
            start_ms = 1000 * episode.start_s
            calm &= (times_ms < start_ms - INTERVAL_MS) | (times_ms > start_ms + ONSET_MS)
    return calm


def _well(times_ms: NDArray[np.int64], gpu: int, episodes: Iterable[Episode]) -> NDArray[np.bool_]:
    """Which instants no fault of this GPU has to do with."""
    well = np.ones(len(times_ms), bool)
    for episode in episodes:
        if gpu in episode.gpus:
            begins_ms, ends_ms = episode.concerned_ms
            well &= (times_ms < begins_ms) | (times_ms > ends_ms)
    return well
