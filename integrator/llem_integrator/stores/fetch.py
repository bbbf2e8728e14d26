"""Reads the series of several selectors from a store, each series once."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from llem_integrator.series.matchers import Matcher, Selector, any_of
from llem_integrator.series.samples import Key, Series
from llem_integrator.stores.base import Piece, Progress, Source, whole

_SLICE_MS: Final = 3_600_000
"""The length of time for which several selectors are read, one after the other."""


def quiet(_: float) -> None:
    """Show no progress."""


def combined(selectors: Sequence[Selector]) -> tuple[Selector, ...]:
    """Return fewer selectors of the same series: values of one label become a regular expression."""
    values: dict[str, dict[str, None]] = {}
    others: dict[Selector, None] = {}
    for selector in selectors:
        if not selector:
            return ((),)
        if len(selector) == 1 and selector[0].operator == "=" and selector[0].value:
            values.setdefault(selector[0].label, {})[selector[0].value] = None
        else:
            others[selector] = None
    for label, own in values.items():
        matchers = [Matcher(label, "=", *own)] if len(own) == 1 else any_of(label, own)
        others |= {(matcher,): None for matcher in matchers}
    return tuple(others)


def shown(pieces: Iterable[Piece], start_ms: int, end_ms: int, progress: Progress) -> Iterator[Piece]:
    """Yield the pieces of [start_ms, end_ms], and report the progress after each."""
    for piece in pieces:
        yield piece
        progress((piece.end_ms + 1 - start_ms) / (end_ms + 1 - start_ms))


def fetch(
    source: Source,
    metric: str,
    selectors: Sequence[Selector],
    start_ms: int,
    end_ms: int,
) -> Iterator[Piece]:
    """Yield every sample of any selector in [start_ms, end_ms], each series once.

    `metric` is the name of a metric, or several names joined by "|".
    """
    if len(selectors) == 1:
        yield from source.pieces(metric, selectors[0], start_ms, end_ms)
        return
    for first in range(start_ms, end_ms + 1, _SLICE_MS):
        last = min(first + _SLICE_MS - 1, end_ms)
        series: dict[tuple[str, Key], Series] = {}
        for selector in selectors:
            for one in whole(source.pieces(metric, selector, first, last)):
                series.setdefault((one.metric, one.key), one)
        yield Piece(first, last, tuple(series.values()))
