"""Cleaning, merging and joining of series."""

import numpy as np

from llem_integrator.series.samples import Series, auto_max_gap_ms, joined, make_series, merge

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


def test_parts_may_overlap_and_be_in_any_order() -> None:
    """Each sample, invalid reading and conflict is counted once, however a series was divided."""
    times, values = [10, 20, 30, 30, 40, 50], [1, np.nan, 3, 4, -1, 6]
    expected = series(times, values)
    for first, second in ((slice(0, 3), slice(1, 6)), (slice(2, 6), slice(0, 5)), (slice(0, 6), slice(0, 6))):
        found = joined({}, [series(times[part], values[part]) for part in (first, second)], "m")
        for name in ("unix_ms", "values", "bad_ms", "conflict_ms"):
            assert getattr(found, name).tolist() == getattr(expected, name).tolist()
        assert found.metric == "m"


def test_auto_max_gap_is_three_times_the_median_of_the_first_hundred_steps() -> None:
    """Later, coarser steps do not change it."""
    times = np.concatenate([np.arange(101) * 10, 1000 + np.arange(1, 500) * 1000]).astype(np.int64)
    assert auto_max_gap_ms(times) == 30
    assert auto_max_gap_ms(times[:1]) is None
