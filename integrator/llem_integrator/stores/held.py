"""A source that holds all its samples itself: what a file or an exporter's page said."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Series, Values, make_series
from llem_integrator.stores.base import Piece, Progress, Summary
from llem_integrator.stores.columns import Columns, Index

_PIECE_SAMPLES: Final = 1_000_000
"""16 MB as arrays."""

Facts = Mapping[str, list[Series]]


class HeldSource:
    """Series answered from columns.

    `plain` are those whose samples carry no timestamp, by metric, the facts beside a trace: they hold
    for any window, and are no samples of it.
    """

    def __init__(self, address: str, columns: Columns, plain: Facts | None = None) -> None:
        self.address = address
        self.warnings: tuple[str, ...] = ()
        self._columns = columns
        self._plain = plain or {}

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        columns = self._columns
        wanted = [
            number
            for name in metric.split("|")
            for number in columns.series_of(name)
            if all(matcher(columns.labels[number]) for matcher in selector)
        ]
        chunks = columns.chunks(wanted)
        for first, last in _slabs(chunks, start_ms, end_ms):
            parts = columns.parts(chunks, first, last)
            series = (columns.series(number, found) for number, found in parts)
            yield Piece(first, last, tuple(one for one in series if len(one) or one.bad))
            progress((last + 1 - start_ms) / (end_ms + 1 - start_ms))

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        found: dict[int, _Summed] = {}
        for piece in self.pieces(metric, selector, start_ms, end_ms, lambda _: None):
            for one in piece.series:
                if len(one):
                    # The labels of a series are one object for all pieces.
                    found.setdefault(id(one.labels), _Summed(one.labels)).add(one)
        for summed in found.values():
            yield Series(summed.labels, np.array([summed.last_ms]), np.array([summed.value(kind)]))
        if kind in (Summary.LAST, Summary.MAX):
            for one in self._plain.get(metric, []):
                if all(matcher(one.labels) for matcher in selector):
                    yield one


@dataclass(slots=True)
class _Summed:
    """What is known of a series' samples so far."""

    labels: Mapping[str, str]
    last_ms: int = 0
    last: float = 0.0
    highest: float = -np.inf
    count: int = 0
    resets: int = 0

    def add(self, one: Series) -> None:
        """The samples that follow."""
        values: Values = one.values
        fell_before = self.count > 0 and values[0] < self.last
        self.resets += int(np.count_nonzero(values[1:] < values[:-1])) + int(fell_before)
        self.last_ms, self.last = int(one.unix_ms[-1]), float(values[-1])
        self.highest = max(self.highest, float(values.max()))
        self.count += len(values)

    def value(self, kind: Summary) -> float:
        match kind:
            case Summary.LAST:
                return self.last
            case Summary.MAX:
                return self.highest
            case Summary.COUNT:
                return float(self.count)
            case Summary.RESETS:
                return float(self.resets)


def _slabs(chunks: Index, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
    """[start_ms, end_ms] in stretches that ascend, each of about a million samples at the most."""
    while start_ms <= end_ms:
        last = end_ms
        while last > start_ms and _expected(chunks, start_ms, last) > _PIECE_SAMPLES:
            last = start_ms + (last - start_ms) // 2
        yield start_ms, last
        start_ms = last + 1


def _expected(chunks: Index, start_ms: int, end_ms: int) -> float:
    """About how many samples lie in [start_ms, end_ms], if those of each chunk are spread evenly."""
    counts, firsts, lasts = chunks[:, 2], chunks[:, 3], chunks[:, 4]
    inside = np.minimum(lasts, end_ms) - np.maximum(firsts, start_ms) + 1
    return float(np.sum(counts * np.clip(inside / (lasts - firsts + 1), 0.0, 1.0)))


def fact(labels: Mapping[str, str], value: float) -> Series:
    """A value without a time, as one sample at 0; of no samples if it is none."""
    return make_series(labels, np.zeros(1, np.int64), np.array([value]))


def held(address: str, found: Mapping[str, Iterable[Series]]) -> HeldSource:
    """The source of series by metric."""
    columns = Columns(address)
    for metric, every in found.items():
        for one in every:
            columns.add(columns.number(metric, one.labels), one.unix_ms, one.values)
    columns.close()
    return HeldSource(address, columns)
