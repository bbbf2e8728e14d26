"""Sums made elsewhere, put together: the same as if one program had seen all samples."""

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llem_integrator import Request, Source, Window
from llem_integrator.dask.tasks import Store, tasks
from llem_integrator.energy.power.running_sums import RunningSums
from llem_integrator.energy.window_energy import Integrals
from llem_integrator.integration import integrate
from llem_integrator.reading import Question, Reader, read_here
from llem_integrator.series.samples import Times, Values
from llem_integrator.series.spans import spans_of
from llem_integrator.stores import Progress
from llem_integrator.stores.fetch import quiet
from tests.llem_integrator.clusters import T0, intervals, store
from tests.llem_integrator.clusters import trace as noisy

MAX_GAP_MS = 300.0
LAST_MS = 20_000

steps = st.sampled_from([1, 50, 100, 100, 100, 300, 301, 2000])
instants_us = st.integers(0, LAST_MS * 1000) | st.integers(0, LAST_MS).map(lambda ms: ms * 1000)


@st.composite
def traces(draw: st.DrawFn) -> tuple[Times, Values]:
    """Times on and off the grid, with steps just as long as a gap and just longer; watts on the grid."""
    taken = draw(st.lists(steps, max_size=60))
    unix_ms = draw(st.integers(0, 3000)) + np.cumsum(np.array(taken, np.int64))
    eighths = draw(st.lists(st.integers(0, 5600), min_size=len(taken), max_size=len(taken)))
    return unix_ms, np.array(eighths, np.float64) / 8


@st.composite
def windows(draw: st.DrawFn) -> list[Window]:
    pairs = draw(st.lists(st.tuples(instants_us, instants_us), min_size=1, max_size=8))
    return [Window(min(pair), max(pair) + 1) for pair in pairs]


def parted(unix_ms: Times, watts: Values, edges_us: Times, cuts_ms: Sequence[int]) -> RunningSums:
    """The sums of stretches between cuts, each made with the edges inside it alone, put together."""
    total = RunningSums(edges_us)
    for first, stop in pairwise([0, *sorted(cuts_ms), LAST_MS * 2]):
        inside = slice(*np.searchsorted(unix_ms, [first, stop]).tolist())
        within = edges_us[(edges_us > first * 1000) & (edges_us < stop * 1000)]
        part = RunningSums(np.concatenate([[first * 1000], within]))
        for piece in np.array_split(np.arange(inside.start, inside.stop), 2):
            part.add(unix_ms[piece], watts[piece], MAX_GAP_MS)
        total.extend(part)
    return total


def columns(found: Integrals) -> dict[str, list[Any]]:
    return {field.name: getattr(found, field.name).tolist() for field in fields(found)}


@given(traces(), windows(), st.lists(st.integers(0, LAST_MS), max_size=6))
def test_any_split_by_time_gives_the_whole(
    trace: tuple[Times, Values], asked: list[Window], cuts_ms: list[int]
) -> None:
    """Joules, bounds, coverage, gaps, peaks and counts of every window are the same to the bit."""
    unix_ms, watts = trace
    spans = spans_of(asked)
    edges_us = spans.edges_us()
    whole = RunningSums(edges_us)
    whole.add(unix_ms, watts, MAX_GAP_MS)
    limits = np.full(len(spans), 700.0)
    found = parted(unix_ms, watts, edges_us, cuts_ms).integrals(spans, limits, 30_000)
    expected = columns(whole.integrals(spans, limits, 30_000))
    assert repr(columns(found)) == repr(expected)  # NaN is not equal to itself, its text is


def in_parts(source: Source, cuts_ms: Sequence[int], count: int) -> Reader:
    """Reads each stretch between cuts, and each share of the GPUs, by itself, as workers do."""

    def read(question: Question, _: Progress) -> None:
        for begin, end in question.stretches():
            inner = [cut for cut in sorted(set(cuts_ms)) if begin < cut <= end]
            for first, stop in pairwise([begin, *inner, end + 1]):
                for task in tasks(STORE, question, (first, stop - 1), count):
                    read_here(source, task.question, quiet)
                    question.extend(task.question, (first, stop - 1))

    return read


STORE = Store("not asked")
RNG = np.random.default_rng(3)
NODE = store(
    intervals(300),
    noisy(0, 300, RNG, holes=5),
    noisy(1, 90, RNG, holes=2, pod="a"),
    noisy(1, 300, RNG, holes=40, pod="b"),
    noisy(11, 300, RNG, holes=3),
)
half_minutes = st.integers(0, 290_000) | st.integers(0, 29).map(lambda tens: tens * 10_000)


@settings(max_examples=settings().max_examples // 2)
@given(
    st.lists(half_minutes.map(lambda ms: T0 + ms), max_size=8),
    st.integers(1, 16),
    st.lists(st.tuples(half_minutes, st.integers(1, 60_000)), min_size=1, max_size=20),
)
def test_any_split_by_time_and_series_gives_the_whole(
    cuts_ms: list[int], count: int, asked: list[tuple[int, int]]
) -> None:
    """This includes overlapping label sets, gaps and conflicts."""
    edges = [(0, 300_000), *((start, start + length) for start, length in asked)]
    windows = [Window((T0 + start) * 1000, (T0 + end) * 1000) for start, end in edges]
    whole = list(integrate(NODE, windows, Request()))
    assert list(integrate(NODE, windows, Request(), reader=in_parts(NODE, cuts_ms, count))) == whole
    assert [gpu.uuid for gpu in whole[0].gpus if gpu.joules] == ["GPU-0", "GPU-1", "GPU-11"]
