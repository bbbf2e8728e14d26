"""Stretches of time: what is read for windows."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from llem_integrator.series.samples import Times

Stretch = tuple[int, int]
"""The first and the last millisecond."""

_APART_MS: Final = 600_000
"""What lies closer together is read in one piece: another question costs more than its samples."""


def union(first_ms: Times, last_ms: Times, apart_ms: int = 0) -> list[Stretch]:
    """Return the stretches [first, last] (n,) as few, ascending and apart by more than `apart_ms`."""
    order = np.argsort(first_ms, kind="stable")
    first_ms, last_ms = np.maximum(first_ms[order], 0), np.maximum.accumulate(last_ms[order])
    starts = np.flatnonzero(np.append(True, first_ms[1:] > last_ms[:-1] + 1 + apart_ms)[: len(first_ms)])
    ends = np.append(starts[1:], len(first_ms)) - 1
    return list(zip(first_ms[starts].tolist(), last_ms[ends].tolist(), strict=True))


def questions(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Return the stretches to ask for: those that are close together are one."""
    edges = np.array(stretches, np.int64).reshape(-1, 2)
    return union(edges[:, 0], edges[:, 1], _APART_MS)


def overlapping(stretches: Sequence[Stretch], first_ms: int, last_ms: int) -> list[Stretch]:
    """Return the parts of ascending stretches that lie in [first, last]."""
    begin = int(np.searchsorted([stretch[1] for stretch in stretches], first_ms))
    found: list[Stretch] = []
    for first, last in stretches[begin:]:
        if first > last_ms:
            break
        found.append((max(first, first_ms), min(last, last_ms)))
    return found
