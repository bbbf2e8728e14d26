"""Who reads the power traces: this program, piece after piece, or others whose sums are put together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llem_core import metrics
from llem_integrator.fetch import fetch
from llem_integrator.plan import Stretch
from llem_integrator.stores import Progress, Selector, Source
from llem_integrator.traces import PowerTraces


@dataclass(frozen=True, slots=True)
class Read:
    """Power traces have been read up to `end_ms`, and so many samples came since the last such word.

    `warnings` are what stores said that others asked.
    """

    end_ms: int
    samples: int
    warnings: tuple[str, ...] = ()


Reader = Callable[[Sequence[Selector], Stretch, PowerTraces, Progress], Iterator[Read]]
"""Reads a stretch of power traces into their sums."""


def reader(source: Source) -> Reader:
    """Reads from a source, piece after piece."""

    def read(
        selectors: Sequence[Selector], stretch: Stretch, power: PowerTraces, progress: Progress
    ) -> Iterator[Read]:
        for piece in fetch(source, metrics.GPU_POWER_TRACE, selectors, *stretch, progress):
            yield Read(piece.end_ms, power.add(piece))

    return read
