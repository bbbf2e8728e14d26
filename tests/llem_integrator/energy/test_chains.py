"""Which label sets of one GPU serve a window."""

from dataclasses import dataclass

import numpy as np

from llem_integrator.energy.chains import chains
from llem_integrator.series.samples import Floats, Times
from llem_integrator.series.spans import Index, Spans


@dataclass(frozen=True, eq=False)
class Readings:
    """Readings of one label set; a step of more than 50 ms is a gap."""

    name: str
    unix_ms: Times
    longest_ms: int = 50

    @property
    def covers_ms(self) -> Floats:
        steps_ms = np.diff(self.unix_ms, prepend=self.unix_ms[:1])
        return np.where(steps_ms <= self.longest_ms, steps_ms, 0).astype(np.float64)

    @property
    def skipped(self) -> Index:
        return np.zeros(len(self.unix_ms), np.int64)

    def part(self, first: int, stop: int) -> "Readings":
        return Readings(self.name, self.unix_ms[first:stop])


def readings(unix_ms: list[int], name: str) -> Readings:
    return Readings(name, np.array(unix_ms, np.int64))


def follow(every: list[Readings], start_ms: int, end_ms: int) -> list[Readings]:
    """The label sets of one window."""
    return chains(every, Spans(np.array([start_ms * 1000]), np.array([end_ms * 1000])))[0][1]


def test_label_sets_that_follow_each_other_are_joined() -> None:
    """A pod that moved leaves two label sets. Both are used, in order of time."""
    before, after = readings([0, 10], "a"), readings([20, 30], "b")
    assert shape(follow([after, before], 0, 30)) == [("a", [0, 10]), ("b", [20, 30])]


def shape(taken: list[Readings]) -> list[tuple[str, list[int]]]:
    """The name and the times of each label set."""
    return [(one.name, one.unix_ms.tolist()) for one in taken]


def test_of_overlapping_replicas_the_best_covered_is_used() -> None:
    """Overlapping HA replicas are not mixed. For equal coverage, the label decides."""
    long, short = readings([0, 50, 100], "b"), readings([10, 60], "a")
    assert shape(follow([short, long], 0, 100)) == [("b", [0, 50, 100])]


def test_coverage_is_what_steps_cover_not_how_far_they_reach() -> None:
    """A complete replica is preferred to one with a gap, or with only two samples."""
    whole = readings([*range(2, 120, 5)], "b")
    holed = readings([*range(0, 40, 5), *range(80, 121, 5)], "a")
    sparse = readings([0, 120], "c")
    assert ("b", whole.unix_ms.tolist()) in shape(follow([holed, sparse, whole], 43, 73))


def test_what_a_passed_over_set_has_beside_the_taken_ones_is_kept() -> None:
    """Label sets that overlap by one sample are both used. A replica adds samples before and after."""
    first, second = (
        readings([0, 10, 20], "a"),
        readings([20, 30, 40], "b"),
    )
    assert shape(follow([first, second], 0, 40)) == [("a", [0, 10, 20]), ("b", [30, 40])]
    around = readings([0, 50, 100, 150], "c")
    dense = readings([40, 60, 80, 100], "d")
    assert shape(follow([around, dense], 40, 100)) == [("c", [0]), ("d", [40, 60, 80, 100]), ("c", [150])]


@dataclass(frozen=True, eq=False)
class Hardware(Readings):
    """A hardware counter misses nothing between two readings."""

    @property
    def covers_ms(self) -> Floats:
        return np.diff(self.unix_ms, prepend=self.unix_ms[:1]).astype(np.float64)

    def part(self, first: int, stop: int) -> "Hardware":
        return Hardware(self.name, self.unix_ms[first:stop])


def test_a_step_that_is_too_long_to_be_cut_covers_no_part() -> None:
    """A replica that missed scrapes around a window's edge is not preferred to a complete one."""
    every = np.arange(0, 200_000, 5000)
    holed = Hardware("a", every[(every < 50_000) | (every > 80_000)])
    complete = Hardware("b", every + 7)
    spans = Spans(np.array([60_000_000]), np.array([150_000_000]))
    ((_, chain),) = chains([holed, complete], spans)
    assert [one.name for one in chain if int(one.unix_ms[0]) <= 60_000 <= int(one.unix_ms[-1])] == ["b"]
