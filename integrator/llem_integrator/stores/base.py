"""The protocol that every store of samples implements."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Key, Series, joined

Progress = Callable[[float], None]
"""Called with the fraction of a fetch that is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Piece:
    """All samples in [start_ms, end_ms] of the requested series, one clean Series per label set."""

    start_ms: int
    end_ms: int
    series: tuple[Series, ...]


class Source(Protocol):
    """A store of samples, which one thread at a time reads. Its methods raise SourceError."""

    @property
    def address(self) -> str:
        """The URL or path, without secrets."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings in the store's answers so far."""
        ...

    def pieces(self, metric: str, selector: Selector, start_ms: int, end_ms: int, /) -> Iterable[Piece]:
        """Yield every sample in [start_ms, end_ms], in pieces of bounded size that ascend and do not overlap.

        `metric` is the name of a metric, or several names joined by "|".
        """
        ...

    def may_have(self, metric: str, selector: Selector, start_ms: int, end_ms: int, /) -> bool:
        """Return False if there is certainly no such sample in [start_ms, end_ms], without reading any."""
        ...

    def timeless(self, selectors: Sequence[Selector], /) -> Iterable[Series]:
        """Return values without a time that match any of the selectors, each as one sample at time 0."""
        ...


def whole(pieces: Iterable[Piece]) -> Iterator[Series]:
    """Yield each series of the pieces as a whole. The samples must fit into memory."""
    parts: dict[tuple[str, Key], list[Series]] = {}
    for piece in pieces:
        for series in piece.series:
            parts.setdefault((series.metric, series.key), []).append(series)
    for (metric, _), own in parts.items():
        yield joined(own[0].labels, own, metric)
