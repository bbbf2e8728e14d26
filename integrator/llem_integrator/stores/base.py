"""What a store of samples is to the integrator."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Series

Progress = Callable[[float], None]
"""Told the share of a fetch that is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Piece:
    """All samples in [start_ms, end_ms] of the series that were asked for, one clean Series a label set.

    The pieces of an answer follow each other in time, and none holds more than fits in memory with ease.
    """

    start_ms: int
    end_ms: int
    series: tuple[Series, ...]


class Summary(StrEnum):
    """One value of a series' samples, computed by the store where it can; a fall of a counter is a reset."""

    LAST = "last"
    MAX = "max"
    COUNT = "count"
    RESETS = "resets"


class Source(Protocol):
    """A store of samples. Both methods raise SourceError, and return nothing for what is not there.

    One thread may ask at a time; where a source has a number `at_once`, so many may what is soon answered,
    beside one that reads pieces.
    """

    @property
    def address(self) -> str:
        """Where it is, without secrets."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the store itself said of its answers so far."""
        ...

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterable[Piece]:
        """Yield every sample in [start_ms, end_ms], in pieces that ascend and do not overlap.

        `metric` is the name of a metric, or several names joined by "|".
        """
        ...

    def timeless(self, selectors: Sequence[Selector], /) -> Iterable[Series]:
        """Return values without a time that match any of the selectors, each as one sample at time 0."""
        ...

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterable[Series]:
        """One value a label set that has samples in [start_ms, end_ms]."""
        ...


def whole(pieces: Iterable[Piece]) -> Iterator[Series]:
    """The series of all pieces, each in one; for what is known to be small."""
    parts: dict[tuple[str, tuple[tuple[str, str], ...]], list[Series]] = {}
    for piece in pieces:
        for one in piece.series:
            parts.setdefault((one.metric, tuple(sorted(one.labels.items()))), []).append(one)
    return (_joined(found) for found in parts.values())


def _joined(parts: list[Series]) -> Series:
    """Parts of one label set, which follow each other, as one series."""
    if len(parts) == 1:
        return parts[0]
    return Series(
        parts[0].labels,
        np.concatenate([part.unix_ms for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.bad_ms for part in parts]),
        np.concatenate([part.conflict_ms for part in parts]),
        metric=parts[0].metric,
    )
