"""Many windows in one pass: each as if it were alone, in their order, as soon as it is over."""

import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llem_core.backend import Backend
from llem_core.measurement import WarningCode
from llem_integrator.energy.power.running_sums import RunningSums
from llem_integrator.integration import integrate
from llem_integrator.results.fields import GpuEnergy, WindowResult
from llem_integrator.results.request import Request
from llem_integrator.series import scrapes, table
from llem_integrator.series.samples import Series
from llem_integrator.series.spans import spans_of
from llem_integrator.stores import Matcher, Piece, Selector, parse_selector
from llem_integrator.stores.fetch import combined
from llem_integrator.windows.hosts import Hosts
from llem_integrator.windows.window import Window
from tests.llem_integrator.clusters import T0, PieceStore, intervals, labels, scraped, store, trace

POWER = "llem_gpu_power_trace_watts"
HOUR = 3600


def window(start_s: float, end_s: float, name: str | None = None, **more: Any) -> Window:
    start, end = (T0 * 1000 + round(second * 1e6) for second in (start_s, end_s))
    return Window(start, end, name, **more)


def windows_within(seconds: float, count: int, rng: np.random.Generator) -> list[Window]:
    """Random windows, some equal, nested, adjacent, or reaching beyond the data, in no order."""
    found = []
    for number in range(count):
        start = round(float(rng.uniform(-60, seconds)), 6)
        end = round(start + float(rng.choice([0.05, 3.3, 61.7, 600.0, 1800.0])), 6)
        found.append(window(start, end, f"w{number}"))
        if number % 5 == 0:
            found += [window(start, end, "equal"), window(end, end + 30, "next"), window(start - 5, end + 5)]
    rng.shuffle(found)
    return found


def cluster(rng: np.random.Generator) -> PieceStore:
    """An hour of four GPUs: traces with holes, replicas, a pod that moved, a reset, an exporter's restart."""
    return store(
        intervals(HOUR),
        trace(0, HOUR, rng, holes=4),
        trace(1, HOUR, rng, holes=40, replica="a"),
        scraped(0, 0, HOUR, rng),
        scraped(1, 0, HOUR, rng, resets_s=[1700], started_s=900, more={"replica": "a"}),
        scraped(1, 7, HOUR, rng, resets_s=[1700], started_s=900, more={"replica": "b"}, late_ms=90),
        scraped(2, 0, 1500, rng, scrape_s=5),
        scraped(2, 1510, HOUR, rng, scrape_s=5, started_s=1505, more={"instance": "n2:9955"}),
        {name: one for name, one in scraped(3, 0, HOUR, rng).items() if name in GAUGE_ONLY},
    )


GAUGE_ONLY = ("llem_gpu_info", "llem_gpu_power_watts")


def assert_same(one: WindowResult, other: WindowResult) -> None:
    """Equal in every field, figures to 1e-12."""
    left, right = asdict(one), asdict(other)
    for mine, theirs in zip(left.pop("gpus"), right.pop("gpus"), strict=True):
        for name, value, expected in zip(GpuEnergy._fields, mine, theirs, strict=True):
            assert value == near(expected), (one.name, name)
    for name in ("total_j", "per_gpu_j"):
        assert left.pop(name) == near(right.pop(name)), (one.name, name)
    assert left == right


def near(value: Any) -> Any:
    """Figures to 1e-12; anything else as it is."""
    if isinstance(value, dict):
        return {key: near(one) for key, one in value.items()}
    return pytest.approx(value, rel=1e-12, abs=1e-9) if isinstance(value, float) else value


def test_each_window_is_answered_as_if_it_were_alone() -> None:
    """Overlapping, nested, equal and adjacent windows give the same results as separate runs."""
    rng = np.random.default_rng(3)
    held = cluster(rng)
    windows = windows_within(HOUR, 30, rng)
    found = list(integrate(held, windows, Request()))
    assert [one.name for one in found] == [one.name for one in windows]
    backends = {gpu.backend for one in found for gpu in one.gpus if gpu.joules is not None}
    assert backends == {Backend.ZEUS, Backend.NVML}
    for one, asked in zip(found, windows, strict=True):
        (alone,) = integrate(held, [asked], Request())
        assert_same(one, alone)


@pytest.mark.parametrize("backend", [Backend.ZEUS, Backend.NVML])
def test_a_named_backend_is_the_same_for_many_windows(backend: Backend) -> None:
    """This holds for traces, counters with a trace at their edges, replicas and gauges."""
    rng = np.random.default_rng(4)
    held = cluster(rng)
    windows = windows_within(HOUR, 20, rng)
    for one, asked in zip(integrate(held, windows, Request(backend)), windows, strict=True):
        (alone,) = integrate(held, [asked], Request(backend))
        assert_same(one, alone)


@settings(max_examples=settings().max_examples // 4)
@given(st.integers(0, 2**32), st.lists(st.integers(0, HOUR * 1000), max_size=12))
def test_pieces_of_any_size_give_the_same_to_the_bit(seed: int, cuts_ms: list[int]) -> None:
    """The results do not depend on the pieces of the store. Samples in 1/8 W add up exactly."""
    rng = np.random.default_rng(seed)
    columns = intervals(HOUR), trace(0, 900, rng, holes=6)
    windows = windows_within(900, 6, rng)
    whole = list(integrate(store(*columns), windows, Request()))
    cut = store(*columns, cuts_ms=sorted({T0 + cut for cut in cuts_ms}))
    assert list(integrate(cut, windows, Request())) == whole


def test_a_gap_is_found_in_whichever_piece_it_lies() -> None:
    """The largest gap may be in a piece without an edge, at a cut, or next to an edge."""
    unix_ms = T0 + np.array([ms for ms in range(0, 60_000, 100) if not 30_000 < ms < 35_000])
    one = {"llem_gpu_power_trace_watts": [Series(labels(0), unix_ms, np.full(len(unix_ms), 100.0))]}
    for cuts_s in ((), (20, 50), (30,), (32,), (35,)):
        cut = store(intervals(60), one, cuts_ms=[T0 + second * 1000 for second in cuts_s])
        for span in ((10, 55), (30, 55), (10, 35)):
            (gpu,) = next(iter(integrate(cut, [window(*span)], Request()))).gpus
            assert (gpu.gap_s, gpu.largest_gap_s) == (5.0, 5.0), (cuts_s, span)


@settings(max_examples=settings().max_examples // 4)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 900_000_000), min_size=2, max_size=9, unique=True))
def test_windows_that_follow_each_other_add_up(seed: int, edges_us: list[int]) -> None:
    """Joules and covered seconds of adjacent windows add up to those of the whole."""
    held = store(intervals(900), trace(0, 900, np.random.default_rng(seed), holes=6))
    edges = [T0 * 1000 + edge for edge in sorted(edges_us)]
    parts = [Window(start, end) for start, end in pairwise(edges)]
    whole, *rest = integrate(held, [Window(edges[0], edges[-1]), *parts], Request())
    joules = math.fsum(joules_and_covered(one)[0] for one in rest)
    covered_s = math.fsum(joules_and_covered(one)[1] for one in rest)
    assert joules_and_covered(whole) == (near(joules), near(covered_s))


def joules_and_covered(found: WindowResult) -> tuple[float, float]:
    """Of the one GPU, which is not there in a window far from its samples."""
    assert all(gpu.covered_s + gpu.gap_s == near(found.duration_sec) for gpu in found.gpus)
    return sum(gpu.joules or 0.0 for gpu in found.gpus), sum(gpu.covered_s for gpu in found.gpus)


def test_a_short_window_after_a_year_is_as_exact_as_any() -> None:
    """Ten seconds at the end of a year: the running sums lose no precision."""
    rng = np.random.default_rng(5)
    unix_ms = T0 + np.arange(0, 365 * 86_400_000, 60_000)
    watts = rng.uniform(0, 700, len(unix_ms))
    last_ms = int(unix_ms[-1])
    asked = Window((last_ms - 65_000) * 1000, (last_ms - 55_000) * 1000)
    span = spans_of([asked])
    sums = RunningSums(span.edges_us())
    for first in range(0, len(unix_ms), 7919):
        sums.add(unix_ms[first : first + 7919], watts[first : first + 7919], 180_000.0)
    found = sums.integrals(span, np.array([700.0]), 300_000).row(0)
    before, middle, after = (Fraction(float(value)) for value in watts[-3:])
    at_start = before + (middle - before) * Fraction(55, 60)
    at_end = middle + (after - middle) * Fraction(5, 60)
    exact = ((at_start + middle) * 5 + (middle + at_end) * 5) / 2
    assert found.joules == pytest.approx(float(exact), rel=1e-12)


def test_results_stream() -> None:
    """The result of a window is available before the samples of windows hours later are read."""
    rng = np.random.default_rng(6)
    cuts = [T0 + minute * 60_000 for minute in range(0, 26 * 60, 10)]
    days = store(intervals(26 * HOUR), scraped(0, 0, 26 * HOUR, rng), cuts_ms=cuts)
    hours = [window(hour * HOUR, hour * HOUR + 3590, f"h{hour}") for hour in range(0, 26, 5)]
    results = integrate(days, hours, Request())
    assert next(results).name == "h0"
    read = days.pieces_read
    assert [one.name for one in results] == [f"h{hour}" for hour in range(5, 26, 5)]
    assert read < days.pieces_read


class Endless:
    """A store of one GPU's 10 Hz trace that makes its samples as they are asked for."""

    address = "memory"
    warnings: tuple[str, ...] = ()

    def pieces(self, metric: str, _selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        for first in range(start_ms, end_ms + 1, 3_600_000):
            last = min(first + 3_600_000 - 1, end_ms)
            unix_ms = np.arange(-(-first // 100) * 100, last + 1, 100)
            watts = (unix_ms // 100 % 4800) / 8
            found = (Series(labels(0), unix_ms, watts, metric=POWER),) if POWER in metric else ()
            yield Piece(first, last, found)

    def may_have(self, *_: object) -> bool:
        return True

    def timeless(self, _: object) -> Iterator[Series]:
        return iter(())


def test_memory_does_not_grow_with_the_windows_length() -> None:
    """Ten days of a trace need no more memory than six hours."""
    peaks = []
    for hours in (6, 240):
        tracemalloc.start()
        (found,) = integrate(Endless(), [window(0, hours * HOUR)], Request())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.gpus[0].sample_count == hours * HOUR * 10 + 1
        assert found.gpus[0].coverage == 1.0
    assert peaks[1] < 1.2 * peaks[0]


def days_of_counters(rng: np.random.Generator, resets: bool) -> PieceStore:
    """A day and a half of three GPUs: two replicas of one, one that restarts, one whose pod moves."""
    half_day = 12 * HOUR
    return store(
        intervals(3 * half_day),
        scraped(0, 0, 3 * half_day, rng, more={"replica": "a"}),
        scraped(0, 7, 3 * half_day, rng, more={"replica": "b"}, late_ms=90),
        scraped(1, 0, 3 * half_day, rng, resets_s=[half_day + 4321] if resets else []),
        scraped(2, 0, 2 * half_day if resets else 3 * half_day, rng),
        *(
            [scraped(2, 2 * half_day + 20, 3 * half_day, rng, started_s=2 * half_day + 18, more={"pod": "b"})]
            if resets
            else []
        ),
    )


def by_uuid(found: WindowResult) -> dict[str, GpuEnergy]:
    return {gpu.uuid: gpu for gpu in found.gpus}


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("backend", [Backend.ZEUS, Backend.NVML])
def test_thinned_scrapes_say_what_all_of_them_say(
    resets: bool, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of over a day has the same result, to the bit, whether or not all scrapes are kept."""
    held = days_of_counters(np.random.default_rng(8), resets)
    asked = window(2 * HOUR + 3.3, 34 * HOUR + 1.1)
    (every,) = integrate(held, [asked], Request(backend))
    monkeypatch.setattr(table, "MOST_ROWS", 500)
    (thinned,) = integrate(held, [asked], Request(backend))
    assert every.valid
    assert list(thinned.gpus) == list(every.gpus)
    assert thinned == every
    assert sum(gpu.resets for gpu in every.gpus) == (1 if resets else 0)


def test_of_a_month_of_scrapes_few_are_kept() -> None:
    """Of 30 days, those near the edges of an hour inside are kept, and sums of the others."""
    held = store(scraped(0, 0, 30 * 86_400, np.random.default_rng(9)))
    edges_ms = T0 + 1000 * np.array([20 * 86_400, 20 * 86_400 + HOUR])
    gathered = scrapes.Scrapes(edges_ms)
    for piece in held.pieces("|".join(scrapes.METRICS), (), T0, T0 + 30 * 86_400_000):
        gathered.add(piece.series)
    (kept,) = (table.thinned(growing.whole(), edges_ms) for growing in gathered.gpus.values())
    assert len(kept) < 500
    assert len(kept) + int(kept.skipped.sum()) > 100_000


def test_a_fall_in_a_trace_without_a_scraped_counter_is_found() -> None:
    """With only zeus's trace, a reset between the edges of a window is found."""
    unix_ms = T0 + np.arange(0, 6 * HOUR * 1000, 100)
    joules = np.linspace(1e6, 1e6 + (len(unix_ms) - 1) * 25.0, len(unix_ms)).astype(np.float64)
    fell = 3 * HOUR * 10 + 77
    joules[fell:] -= joules[fell] - 5.0
    one = {"llem_gpu_zeus_energy_trace_joules_total": [Series(labels(0), unix_ms, joules)]}
    held = store(intervals(6 * HOUR), one)
    (found,) = integrate(held, [window(600, 5.5 * HOUR)], Request())
    gpu = found.gpus[0]
    steps = (5.5 * HOUR - 600) * 10 - 1
    assert (gpu.joules, gpu.resets, gpu.coverage) == (steps * 25.0 + 5.0, 1, 1.0)


def test_a_window_has_its_own_gpus_and_matchers() -> None:
    """Matchers and GPUs of a window override those of the request, in a single pass."""
    rng = np.random.default_rng(10)
    held = store(
        *(scraped(gpu, 0, HOUR, rng, more={"instance": f"n{gpu // 2}:9955"}) for gpu in range(4)),
    )
    second = (parse_selector('instance="n1:9955"'),)
    windows = [
        window(600, 700, selectors=second),
        window(650, 750, gpus=("GPU-0", "3")),
        window(660, 760),
        window(660, 760, selectors=second, gpus=("2",)),
    ]
    found = list(integrate(held, windows, Request()))
    assert [sorted(one.per_gpu_j) for one in found] == [
        ["GPU-2", "GPU-3"],
        ["GPU-0", "GPU-3"],
        ["GPU-0", "GPU-1", "GPU-2", "GPU-3"],
        ["GPU-2"],
    ]
    assert all(one.valid for one in found)
    for one, asked in zip(found, windows, strict=True):
        assert_same(one, next(iter(integrate(held, [asked], Request()))))


def test_series_that_only_other_windows_select_are_in_no_result() -> None:
    """A GPU that moved, with one or both label sets, gives the same results as separate runs."""
    rng = np.random.default_rng(13)
    held = store(
        scraped(0, 0, 1500, rng, scrape_s=5),
        scraped(0, 1510, HOUR, rng, scrape_s=5, started_s=1505, more={"instance": "n2:9955"}),
        trace(0, HOUR, rng, holes=4, replica="a"),
    )
    before, after = ((parse_selector(f'instance="n{number}:9955"'),) for number in (1, 2))
    asked = [
        window(1200, 1800, selectors=before),
        window(1200, 1800, selectors=after),
        window(1200, 1800, selectors=(*before, *after)),
        window(1300, 1400, selectors=(parse_selector('replica=""'),)),
        window(1200, 1800),
    ]
    found = list(integrate(held, asked, Request()))
    for one, each in zip(found, asked, strict=True):
        assert_same(one, next(iter(integrate(held, [each], Request()))))
    assert [one.valid for one in found[:3]] == [False, False, True]


def test_a_job_with_some_of_the_gpus_has_no_joules() -> None:
    """More GPUs than the job had gives gpus_unknown, fewer no_data. The same number is valid."""
    rng = np.random.default_rng(11)
    held = store(*(scraped(gpu, 0, HOUR, rng) for gpu in range(4)))
    fewer, equal, more = (window(600, 700, gpu_count=count) for count in (2, 4, 5))
    unknown, known, missing = integrate(held, [fewer, equal, more], Request())
    assert (unknown.reasons, unknown.total_j, set(unknown.per_gpu_j.values())) == (
        ("gpus_unknown",),
        None,
        {None},
    )
    assert unknown.warnings[0].code is WarningCode.ENERGY_UNAVAILABLE
    assert "2 of the 4 GPUs of its hosts; sacct does not say which" in unknown.warnings[0].message
    (slices,) = integrate(held, [window(600, 700, gpus_unknown="the job had slices")], Request())
    assert (slices.reasons, slices.total_j) == (("gpus_unknown",), None)
    assert [warning.message for warning in slices.warnings] == ["the job had slices"]
    # Which GPUs are shown says nothing of which the job had.
    some, guess = integrate(held, [equal, fewer], Request(gpus=("0", "1")))
    assert (some.valid, list(some.per_gpu_j)) == (True, ["GPU-0", "GPU-1"])
    assert guess.reasons == ("gpus_unknown",)
    assert known.valid
    assert known.total_j == pytest.approx(sum(joules or 0 for joules in known.per_gpu_j.values()))
    assert (missing.reasons, missing.total_j) == (("no_data",), None)
    assert "the job had 5 GPUs, but the source has only 4 on its hosts" in missing.warnings[0].message


def test_a_job_of_whose_hosts_one_is_not_seen_has_no_joules() -> None:
    """A job had two of four GPUs on each of two hosts. Four GPUs of one host are not its GPUs."""
    rng = np.random.default_rng(11)
    held = store(*(scraped(gpu, 0, HOUR, rng, more={"instance": "n1.lan:9955"}) for gpu in range(4)))
    lost, most, seen = (
        Hosts("instance", names) for names in (("n1", "n2"), ("n1", "n2", "n3", "n4"), ("n1",))
    )
    guess, fewer, known = integrate(
        held,
        [
            window(600, 700, gpu_count=4, hosts=lost),
            window(600, 700, gpu_count=5, hosts=most),
            window(600, 700, gpu_count=4, hosts=seen),
        ],
        Request(),
    )
    assert (guess.reasons, guess.total_j, set(guess.per_gpu_j.values())) == (
        ("gpus_unknown", "no_data"),
        None,
        {None},
    )
    texts = [warning.message for warning in guess.warnings]
    assert texts[0].startswith(
        "the source has no GPU of n2, so the job's GPUs cannot be distinguished (check "
    )
    assert "no samples of n2 in the window (check --node-label)" in texts
    assert (fewer.reasons, fewer.total_j) == (("no_data",), None)
    assert [warning.message for warning in fewer.warnings] == [
        "no samples of n2 and 2 more hosts in the window (check --node-label)",
        "the job had 5 GPUs, but the source has only 4 on its hosts, so there is no total "
        "(is every host scraped, and does --match exclude some?)",
    ]
    assert known.valid


def test_selectors_of_one_label_become_one_pattern() -> None:
    """Thousands of nodes give few queries. Special characters in names are escaped."""
    names = [f"node{number}.example(a|b):9955" for number in range(500)]
    found = combined([(Matcher("instance", "=", name),) for name in names])
    assert len(found) < 10
    for name in names:
        assert any(all(matcher({"instance": name}) for matcher in one) for one in found)
    assert not any(all(matcher({"instance": "node1xexample"}) for matcher in one) for one in found)
    assert combined([(Matcher("a", "=", "x"),), ()]) == ((),)
    both = (Matcher("a", "=", "x"), Matcher("b", "=", "y"))
    assert combined([both, (Matcher("a", "=", "x"),)]) == (both, (Matcher("a", "=", "x"),))


def test_overlapping_matchers_read_a_trace_once_again() -> None:
    """For the edges of a counter, the trace is read again. Overlapping matchers change nothing."""
    rng = np.random.default_rng(12)
    held = store(intervals(HOUR), trace(0, HOUR, rng, holes=30), scraped(0, 0, HOUR, rng))
    asked = window(1000.3, 1900.7)
    (one,) = integrate(held, [asked], Request(Backend.NVML))
    both = tuple(parse_selector(text) for text in ('instance="n1:9955",gpu="0"', 'gpu=~"0|1"'))
    (same,) = integrate(held, [asked], Request(Backend.NVML, selectors=both))
    assert one.gpus[0].method == "counter"
    assert_same(same, one)
