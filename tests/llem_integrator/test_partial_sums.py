"""Sums made elsewhere, put together: the same as if one program had seen all samples."""

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llem_integrator.integral import Integrals
from llem_integrator.joules import RunningSums
from llem_integrator.series import Times, Values
from llem_integrator.spans import spans_of
from llem_integrator.window import Window

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
    total = RunningSums(edges_us, MAX_GAP_MS)
    for first, stop in pairwise([0, *sorted(cuts_ms), LAST_MS * 2]):
        inside = slice(*np.searchsorted(unix_ms, [first, stop]).tolist())
        within = edges_us[(edges_us > first * 1000) & (edges_us < stop * 1000)]
        part = RunningSums(np.concatenate([[first * 1000], within]), MAX_GAP_MS)
        for piece in np.array_split(np.arange(inside.start, inside.stop), 2):
            part.add(unix_ms[piece], watts[piece])
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
    whole = RunningSums(edges_us, MAX_GAP_MS)
    whole.add(unix_ms, watts)
    limits = np.full(len(spans), 700.0)
    found = parted(unix_ms, watts, edges_us, cuts_ms).integrals(spans, limits, 30_000)
    expected = columns(whole.integrals(spans, limits, 30_000))
    assert repr(columns(found)) == repr(expected)  # NaN is not equal to itself, its text is
