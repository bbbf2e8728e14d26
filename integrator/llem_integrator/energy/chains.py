"""Which label sets of one GPU serve a window: those that follow each other; of replicas the best covered."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Protocol, TypeVar

import numpy as np

from llem_integrator.energy.gaps import local_gaps_ms, may_be_gaps
from llem_integrator.series.intervals import CONTEXT_MS
from llem_integrator.series.samples import STALE_MS, Floats, Times
from llem_integrator.series.spans import Index, Spans

_ROUNDING_MS: Final = 1000
"""What an exporter covered is known to about a second: it may have been read between two samples."""


class Readings(Protocol):
    """Readings (n,) of one label set, ascending in time."""

    @property
    def unix_ms(self) -> Times:
        """When each was read."""
        ...

    @property
    def covers_ms(self) -> Floats:
        """What the step that ends at each covers (n,)."""
        ...

    @property
    def skipped(self) -> Index:
        """How many readings since the one before are not held (n,)."""
        ...

    @property
    def name(self) -> str:
        """Tells label sets apart."""
        ...

    def part(self: "R", first: int, stop: int) -> "R":
        """Return the readings [first, stop)."""
        ...


R = TypeVar("R", bound=Readings)


def chains(readings: Iterable[R], spans: Spans) -> list[tuple[Index, list[R]]]:
    """Return for each window the label sets that follow each other in time; of those that overlap, the best.

    The best is the one whose steps cover most of the window. Of a set that is passed over, what lies before
    or after those taken is kept. Windows for which the choice is the same share a chain, which ascends in
    time.
    """
    parts = sorted(
        (part for one in readings if len(one.unix_ms) for part in _unbroken(one)),
        key=lambda part: int(part.unix_ms[0]),
    )
    rivals = _overlapping(parts)
    alone = [part for part in parts if part not in rivals]
    if not rivals:
        return [(np.arange(len(spans)), alone)]
    result: list[tuple[Index, list[R]]] = []
    orders, group = np.unique(_orders(rivals, spans), axis=1, return_inverse=True)
    for number, order in enumerate(orders.T.tolist()):
        taken = alone
        for rank in order:
            taken = sorted([*taken, *_beside(rivals[rank], taken)], key=lambda part: int(part.unix_ms[0]))
        result.append((np.flatnonzero(group.reshape(-1) == number), taken))
    return result


def _unbroken(one: R) -> list[R]:
    """Return a label set's stretches between silences that it does not cover itself."""
    steps_ms = np.diff(one.unix_ms)
    silent = (steps_ms > STALE_MS) & (one.covers_ms[1:] < steps_ms - _ROUNDING_MS)
    # What lies beyond an hour was not read for every window.
    silent |= (steps_ms > CONTEXT_MS) & (one.skipped[1:] == 0)
    cuts = [0, *(np.flatnonzero(silent) + 1).tolist(), len(one.unix_ms)]
    return [one.part(first, stop) for first, stop in pairwise(cuts)]


def _overlapping(parts: Sequence[R]) -> list[R]:
    """Return those, of parts in the order of their first readings, that overlap with another in time."""
    rivals: dict[int, R] = {}
    longest: R | None = None
    at = -1
    for number, part in enumerate(parts):
        if longest is not None and int(part.unix_ms[0]) <= int(longest.unix_ms[-1]):
            rivals[at] = longest
            rivals[number] = part
        if longest is None or int(part.unix_ms[-1]) > int(longest.unix_ms[-1]):
            longest, at = part, number
    return [rivals[number] for number in sorted(rivals)]


def _orders(rivals: Sequence[R], spans: Spans) -> Index:
    """Return the ranks (f, w) of label sets in each window: by coverage, by readings, by name."""
    names = sorted(range(len(rivals)), key=lambda number: rivals[number].name)
    by_name = np.argsort(names, kind="stable")
    start_ms, end_ms = spans.start_ms, spans.end_ms
    covered = np.stack([_covered_ms(one, start_ms, end_ms) for one in rivals])
    counts = np.stack([_distinct(one.unix_ms, start_ms, end_ms) for one in rivals])
    by_name = np.broadcast_to(by_name[:, None], covered.shape)
    order: Index = np.lexsort((by_name, -counts, -covered), axis=0)
    return order


def _covered_ms(one: R, start_ms: Times, end_ms: Times) -> Floats:
    """Return what the steps of a label set cover of each window (w,).

    A step that an edge cuts counts in part, unless it is too long to be cut.
    """
    times = one.unix_ms
    if len(times) < 2:
        return np.zeros(len(start_ms))
    steps, covers = np.diff(times), one.covers_ms[1:]
    cut, maybe = covers.copy(), may_be_gaps(times)
    cut[maybe - 1] *= steps[maybe - 1] <= local_gaps_ms(times, maybe)
    running = np.concatenate([[0.0], np.cumsum(covers)])

    def at(edge_ms: Times) -> tuple[Index, Floats]:
        """The step that holds each edge, and how far through it the edge lies."""
        edge_ms = np.clip(edge_ms, times[0], times[-1])
        step = np.minimum(np.searchsorted(times, edge_ms, "right") - 1, len(steps) - 1)
        return step, (edge_ms - times[step]) / steps[step]

    (first, after_first), (last, before_last) = at(start_ms), at(end_ms)
    head = np.where(after_first == 0, covers[first], (1 - after_first) * cut[first])
    tail = np.where(before_last == 1, covers[last], before_last * cut[last])
    inside = running[last] - running[np.minimum(first + 1, last)]
    whole = (after_first == 0) & (before_last == 1)
    same = np.where(whole, covers[first], (before_last - after_first) * cut[first])
    covered: Floats = np.where(first == last, same, head + inside + tail)
    return np.round(covered, 3)


def _distinct(times: Times, start_ms: Times, end_ms: Times) -> Index:
    """Return how many different times (w,) of a label set are left, clipped to each window."""
    after = np.searchsorted(times, start_ms, "right")
    before = np.searchsorted(times, end_ms, "left")
    ends = (after > 0).astype(np.int64) + (before < len(times))
    count: Index = np.maximum(before - after, 0) + ends
    return count


def _beside(one: R, taken: Sequence[R]) -> list[R]:
    """Return the stretches of a label set before, between and after those taken, which ascend in time."""
    edges = [edge for other in taken for edge in (int(other.unix_ms[0]), int(other.unix_ms[-1]) + 1)]
    cuts = [0, *np.searchsorted(one.unix_ms, edges).tolist(), len(one.unix_ms)]
    stretches = zip(cuts[::2], cuts[1::2], strict=True)
    return [one.part(first, stop) for first, stop in stretches if first < stop]
