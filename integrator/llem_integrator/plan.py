"""Which stretches of plain series are read for windows, and which the store only looks into."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from llem_integrator.series.samples import Times
from llem_integrator.windows.spans import distinct

Stretch = tuple[int, int]
"""The first and the last millisecond."""

_SHORTEST_SKIP_MS: Final = 2 * 3_600_000
"""What is shorter between two edges is read: that costs less than asking the store about it."""

_MOST_SKIPS: Final = 64


def around(edges_us: Times, margin_ms: int, shortest_skip_ms: int = _SHORTEST_SKIP_MS) -> list[Stretch]:
    """The stretches around edges, ascending and apart; only the longest holes between them are left out."""
    edges_ms = distinct(edges_us // 1000)
    starts, ends = np.maximum(edges_ms - margin_ms, 0), edges_ms + 1 + margin_ms
    holes = starts[1:] - ends[:-1]
    wide = np.flatnonzero(holes >= shortest_skip_ms)
    if len(wide) > _MOST_SKIPS:
        wide = np.sort(wide[np.argsort(-holes[wide], kind="stable")[:_MOST_SKIPS]])
    firsts, lasts = np.concatenate([[0], wide + 1]), np.append(wide, len(edges_ms) - 1)
    return list(zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True))


def between(stretches: Sequence[Stretch]) -> list[Stretch]:
    """What lies between stretches that ascend."""
    return [(one[1] + 1, other[0] - 1) for one, other in pairwise(stretches) if one[1] + 1 < other[0]]


def joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """The same milliseconds in as few stretches as can be, ascending."""
    found: list[Stretch] = []
    for first, last in sorted(stretches):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def length_ms(stretches: Sequence[Stretch]) -> int:
    return sum(last - first + 1 for first, last in stretches)
