"""A source whose samples were all loaded at first: those of a file or of an exporter's history."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.metrics import SAMPLER_INTERVAL
from llem_integrator.series.matchers import Selector
from llem_integrator.series.routing import of_exporters, selects
from llem_integrator.series.samples import Series, joined, make_series
from llem_integrator.stores.base import Piece
from llem_integrator.stores.spool import Spool

_PIECE_SAMPLES: Final = 1_000_000
"""16 MB as arrays."""


class LoadedSource:
    """A source of spooled samples.

    `facts` are the series without timestamps. They hold for any window, but are not samples of it.
    `other_metric` is a metric of the source that is not loaded, or "" if there is none.
    """

    def __init__(
        self, address: str, spool: Spool, facts: Sequence[Series] = (), other_metric: str = ""
    ) -> None:
        self.address, self.other_metric = address, other_metric
        self.warnings: tuple[str, ...] = ()
        self._spool, self._facts = spool, facts

    def pieces(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        """Yield every sample in [start_ms, end_ms], in pieces of about a million samples."""
        spool, chunks = self._spool, self._spool.chunks(metric, selector)
        for first, last in _slabs(chunks, start_ms, end_ms):
            inside = chunks[(chunks["last_ms"] >= first) & (chunks["first_ms"] <= last)]
            series: list[Series] = []
            for number, rows in groupby(inside.tolist(), itemgetter(0)):
                labels = spool.labels[number]
                parts = [
                    make_series(labels, *spool.read(start, count), within_ms=(first, last))
                    for _, start, count, *_ in rows
                ]
                series.append(joined(labels, parts, spool.metrics[number]))
            yield Piece(first, last, tuple(one for one in series if len(one) or one.bad))

    def may_have(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> bool:
        """Return whether any block of such series reaches into [start_ms, end_ms]."""
        chunks = self._spool.chunks(metric, selector)
        return bool(np.any((chunks["last_ms"] >= start_ms) & (chunks["first_ms"] <= end_ms)))

    def timeless(self, selectors: Sequence[Selector]) -> Iterator[Series]:
        """Yield the facts that match any of the selectors, each as one sample at time 0."""
        of_exporters_only = of_exporters(selectors)
        for fact in self._facts:
            own = of_exporters_only if fact.metric == SAMPLER_INTERVAL.name else selectors
            if selects(own, fact.labels):
                yield fact


def _slabs(chunks: NDArray[np.void], start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
    """Yield [start_ms, end_ms] in ascending slabs of about a million samples at most."""
    while start_ms <= end_ms:
        last = end_ms
        while last > start_ms and _expected(chunks, start_ms, last) > _PIECE_SAMPLES:
            last = start_ms + (last - start_ms) // 2
        yield start_ms, last
        start_ms = last + 1


def _expected(chunks: NDArray[np.void], start_ms: int, end_ms: int) -> float:
    """Estimate the number of samples in [start_ms, end_ms], taking those of each chunk as evenly spaced."""
    firsts, lasts = chunks["first_ms"], chunks["last_ms"]
    inside = np.minimum(lasts, end_ms) - np.maximum(firsts, start_ms) + 1
    return float(np.sum(chunks["count"] * np.clip(inside / (lasts - firsts + 1), 0.0, 1.0)))
