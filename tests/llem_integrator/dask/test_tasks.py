"""How the work is cut: every sample in just one task."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_integrator.dask.tasks import LONGEST_MS, Store, shares, stretches
from llem_integrator.energy.power.traces import edges_inside
from llem_integrator.http.access import HttpConfig


@given(st.integers(0, 2**41), st.integers(0, 2**36), st.integers(1, 500))
def test_stretches_are_the_whole_and_no_millisecond_twice(first: int, length: int, wanted: int) -> None:
    """The parts cover the whole range without overlap. None is longer than a block."""
    found = stretches((first, first + length), wanted)
    assert found[0][0] == first
    assert found[-1][1] == first + length
    assert all(one[1] + 1 == other[0] for one, other in pairwise(found))
    assert all(0 <= last - begin < LONGEST_MS for begin, last in found)


def test_a_day_is_cut_where_blocks_are() -> None:
    """Parts of six hours begin at multiples of six hours. A minute is not divided."""
    day = stretches((5_000, 5_000 + 86_400_000), 4)
    assert [begin % LONGEST_MS for begin, _ in day[1:]] == [0] * 4
    assert stretches((0, 59_999), 16) == [(0, 59_999)]
    assert len(stretches((0, 3_600_000), 16)) >= 16


@given(st.integers(1, 40), st.text(max_size=40))
def test_every_gpu_has_one_share(count: int, uuid: str) -> None:
    """A series with any uuid, or without one, is in exactly one share."""
    found = shares(count)
    assert len(found) == min(count, 16)
    for labels in ({"uuid": uuid}, {}):
        assert sum(all(matcher(labels) for matcher in share) for share in found) == 1


def test_real_uuids_are_shared_out_evenly() -> None:
    """Of 160 GPUs with evenly distributed last digits, each of 4 shares has a quarter."""
    found = [0] * 4
    for number in range(160):
        labels = {"uuid": f"GPU-5a2f8c1e-0000-4000-8000-{number:012x}"}
        for place, share in enumerate(shares(4)):
            found[place] += all(matcher(labels) for matcher in share)
    assert found == [40] * 4


@pytest.mark.parametrize(
    ("stretch", "expected"),
    [((1, 3), [1000, 1001, 3999]), ((0, 0), [0, 999]), ((4, 9), [4000]), ((2, 2), [2000])],
)
def test_a_task_has_the_edges_inside_it(stretch: tuple[int, int], expected: list[int]) -> None:
    """A task also has an edge at its beginning."""
    edges_us = np.array([0, 999, 1000, 1001, 3999, 4000])
    assert edges_inside(edges_us, stretch).tolist() == expected


def test_a_store_travels_with_its_secrets_and_shows_none() -> None:
    """A pickled store is complete. Its repr contains neither its address nor its headers."""
    store = Store("http://me:hidden@db:9090", HttpConfig(headers=(("Authorization", "Bearer hidden"),)))
    assert pickle.loads(pickle.dumps(store)) == store  # noqa: S301 (its own)
    assert "hidden" not in repr(store)
