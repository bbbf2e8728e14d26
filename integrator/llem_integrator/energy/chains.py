"""Which label sets of one GPU serve a window: those that follow each other; of replicas the best covered."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from llem_core.energy import GAP_INTERVALS
from llem_integrator.series.samples import STALE_MS, Series, Times, auto_max_gap_ms
from llem_integrator.windows.spans import Index, Spans


def follow(series: Iterable[Series], start_ms: int, end_ms: int) -> list[Series]:
    """The chain of one window; see `chains`."""
    spans = Spans(np.array([start_ms * 1000]), np.array([end_ms * 1000]))
    return chains(series, spans)[0][1]


def chains(series: Iterable[Series], spans: Spans) -> list[tuple[Index, list[Series]]]:
    """For each window the label sets that follow each other in time; of those that overlap, the best covered.

    Coverage is what a set's steps cover of the window, by the max_gap of the densest set. Of a set that is
    passed over, what lies before or after those taken is kept. Windows for which the choice is the same share
    a chain, which ascends in time.
    """
    whole = [one for one in series if len(one)]
    gaps = [gap for one in whole if (gap := auto_max_gap_ms(one.unix_ms)) is not None]
    parts = sorted((part for one in whole for part in _unbroken(one)), key=lambda part: int(part.unix_ms[0]))
    rivals = _overlapping(parts)
    alone = [part for part in parts if part not in rivals]
    if not rivals:
        return [(np.arange(len(spans)), alone)]
    orders = _orders(rivals, spans, min(gaps, default=0.0))
    found, group = np.unique(orders, axis=1, return_inverse=True)
    result: list[tuple[Index, list[Series]]] = []
    for number, order in enumerate(found.T.tolist()):
        taken = alone
        for rank in order:
            taken = sorted([*taken, *_beside(rivals[rank], taken)], key=lambda part: int(part.unix_ms[0]))
        result.append((np.flatnonzero(group.reshape(-1) == number), taken))
    return result


def _unbroken(one: Series) -> list[Series]:
    """A label set's stretches between silences; what only the store looked at is none."""
    silent = np.diff(one.unix_ms) > STALE_MS
    if one.unread is not None:
        silent &= one.unread[1:] == 0
    cuts = [0, *(np.flatnonzero(silent) + 1).tolist(), len(one)]
    return [one.part(first, stop) for first, stop in pairwise(cuts)]


def _overlapping(parts: Sequence[Series]) -> list[Series]:
    """Those, of parts in the order of their first samples, that overlap with another in time."""
    rivals: dict[int, Series] = {}
    longest: Series | None = None
    for number, part in enumerate(parts):
        if longest is not None and int(part.unix_ms[0]) <= int(longest.unix_ms[-1]):
            rivals[parts.index(longest)] = longest
            rivals[number] = part
        if longest is None or int(part.unix_ms[-1]) > int(longest.unix_ms[-1]):
            longest = part
    return [rivals[number] for number in sorted(rivals)]


def _orders(rivals: Sequence[Series], spans: Spans, max_gap_ms: float) -> Index:
    """The ranks (f, w) of label sets in each window: by coverage, by samples, by name."""
    names = sorted(range(len(rivals)), key=lambda number: sorted(rivals[number].labels.items()))
    by_name = np.argsort(names, kind="stable")
    start_ms, end_ms = spans.start_ms, spans.end_ms
    covered = np.stack([_covered_ms(one, start_ms, end_ms, max_gap_ms) for one in rivals])
    counts = np.stack([_distinct(one.unix_ms, start_ms, end_ms) for one in rivals])
    by_name = np.broadcast_to(by_name[:, None], covered.shape)
    order: Index = np.lexsort((by_name, -counts, -covered), axis=0)
    return order


def _covered_ms(one: Series, start_ms: Times, end_ms: Times, max_gap_ms: float) -> NDArray[np.float64]:
    """What the steps of a label set cover of each window (w,)."""
    times = one.unix_ms
    steps = np.diff(times)
    covers = np.where(steps <= max_gap_ms, steps, 0).astype(np.float64)
    if one.unread is not None:
        counted = one.unread[1:] * (max_gap_ms / GAP_INTERVALS)
        covers = np.where(one.unread[1:] > 0, np.minimum(steps, counted), covers)
    running = np.concatenate([[0.0], np.cumsum(covers)])

    def up_to(edge_ms: Times) -> NDArray[np.float64]:
        edge_ms = np.clip(edge_ms, times[0], times[-1])
        step = np.minimum(np.searchsorted(times, edge_ms, "right") - 1, max(0, len(steps) - 1))
        share = (edge_ms - times[step]) / steps[step] if len(steps) else np.zeros(len(edge_ms))
        return running[step] + (covers[step] if len(steps) else 0.0) * share

    covered: NDArray[np.float64] = up_to(end_ms) - up_to(start_ms)
    return np.round(covered, 3)


def _distinct(times: Times, start_ms: Times, end_ms: Times) -> Index:
    """How many different times (w,) are left of those of a label set when they are clipped to each window."""
    after = np.searchsorted(times, start_ms, "right")
    before = np.searchsorted(times, end_ms, "left")
    ends = (after > 0).astype(np.int64) + (before < len(times))
    count: Index = np.maximum(before - after, 0) + ends
    return count


def _beside(one: Series, taken: Sequence[Series]) -> list[Series]:
    """The stretches of a series that lie before, between and after those taken, which ascend in time."""
    edges = [edge for other in taken for edge in (int(other.unix_ms[0]), int(other.unix_ms[-1]) + 1)]
    cuts = [0, *np.searchsorted(one.unix_ms, edges).tolist(), len(one)]
    stretches = zip(cuts[::2], cuts[1::2], strict=True)
    return [one.part(first, stop) for first, stop in stretches if first < stop]
