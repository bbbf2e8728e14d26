"""Cleaning, merging and joining of series."""

import numpy as np

from llem_integrator.energy.chains import follow
from llem_integrator.series.samples import Series, auto_max_gap_ms, make_series, merge

STALE = np.array([0x7FF0000000000002], np.uint64).view(np.float64)[0]


def series(times: list[int], values: list[float], **labels: str) -> Series:
    return make_series(labels, np.array(times, np.int64), np.array(values, np.float64))


def test_readings_that_are_no_samples_are_left_out_and_counted() -> None:
    """NaN, infinite and negative readings are counted as bad. Stale markers are skipped."""
    clean = series([5, 4, 3, 2, 1], [STALE, np.nan, np.inf, -1.0, 7.0])
    assert (clean.unix_ms.tolist(), clean.values.tolist(), clean.bad) == ([1], [7.0], 3)


def test_samples_are_sorted_and_the_larger_of_equal_times_is_kept() -> None:
    """Different values at the same time are counted as conflicts. Equal values are not."""
    clean = series([20, 10, 20, 10], [3.0, 1.0, 2.0, 1.0])
    assert (clean.unix_ms.tolist(), clean.values.tolist(), clean.conflicts) == ([10, 20], [1.0, 3.0], 1)


def test_an_empty_series_stays_empty() -> None:
    """An empty series has no samples."""
    assert len(series([], [])) == 0
    assert merge([]) is None


def test_merging_replicas_gives_each_sample_once() -> None:
    """Two overlapping halves of a trace from two servers give the whole trace."""
    merged = merge(
        [series([10, 20, 30], [1, 2, 3], replica="a"), series([20, 30, 40], [2, 3, 4], replica="b")]
    )
    assert merged is not None
    assert (merged.unix_ms.tolist(), merged.values.tolist(), merged.conflicts) == (
        [10, 20, 30, 40],
        [1, 2, 3, 4],
        0,
    )
    assert merged.labels == {"replica": "b"}


def test_label_sets_that_follow_each_other_are_joined() -> None:
    """A pod that moved leaves two label sets. Both are used, in order of time."""
    before, after = series([0, 10], [1, 2], instance="a"), series([20, 30], [3, 4], instance="b")
    assert shape(follow([after, before], 0, 30)) == [("a", [0, 10]), ("b", [20, 30])]


def shape(taken: list[Series]) -> list[tuple[str, list[int]]]:
    """The one label and the times of each series."""
    return [(next(iter(one.labels.values())), one.unix_ms.tolist()) for one in taken]


def test_of_overlapping_replicas_the_best_covered_is_used() -> None:
    """Overlapping HA replicas are not mixed. For equal coverage, the label decides."""
    long, short = series([0, 50, 100], [1, 2, 3], replica="b"), series([10, 60], [1, 2], replica="a")
    assert shape(follow([short, long], 0, 100)) == [("b", [0, 50, 100])]


def test_coverage_is_what_steps_cover_not_how_far_they_reach() -> None:
    """A complete replica is preferred to one with a gap, or with only two samples."""
    whole = series([*range(2, 120, 5)], [1.0] * 24, replica="b")
    holed = series([*range(0, 40, 5), *range(80, 121, 5)], [1.0] * 17, replica="a")
    sparse = series([0, 120], [1.0, 1.0], replica="c")
    assert ("b", whole.unix_ms.tolist()) in shape(follow([holed, sparse, whole], 43, 73))


def test_what_a_passed_over_set_has_beside_the_taken_ones_is_kept() -> None:
    """Label sets that overlap by one sample are both used. A replica adds samples before and after."""
    first, second = (
        series([0, 10, 20], [1, 2, 3], instance="a"),
        series([20, 30, 40], [3, 4, 5], instance="b"),
    )
    assert shape(follow([first, second], 0, 40)) == [("a", [0, 10, 20]), ("b", [30, 40])]
    around = series([0, 50, 100, 150], [1, 2, 3, 4], replica="c")
    dense = series([40, 60, 80, 100], [1, 2, 3, 4], replica="d")
    assert shape(follow([around, dense], 40, 100)) == [("c", [0]), ("d", [40, 60, 80, 100]), ("c", [150])]


def test_auto_max_gap_is_three_times_the_median_of_the_first_hundred_steps() -> None:
    """Later, coarser steps do not change it."""
    times = np.concatenate([np.arange(101) * 10, 1000 + np.arange(1, 500) * 1000]).astype(np.int64)
    assert auto_max_gap_ms(times) == 30
    assert auto_max_gap_ms(times[:1]) is None
