"""One question to a store, for many windows at once: its series go to the collectors that select them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from llem_integrator.series.matchers import Selector
from llem_integrator.series.routing import Routing
from llem_integrator.series.samples import Series
from llem_integrator.stores.base import Progress, Source
from llem_integrator.stores.fetch import combined, fetch, shown
from llem_integrator.windows.stretches import Stretch, overlapping, questions


class Collector(Protocol):
    """Keeps of samples what some windows need. They come in order of time, or were collected elsewhere."""

    def add(self, series: Sequence[Series]) -> None:
        """Add the samples that follow."""
        ...

    def extend(self, later: Self) -> None:
        """Add the samples that follow, which were collected elsewhere."""
        ...

    def fresh(self, stretch: Stretch) -> Self:
        """Return a collector of the same windows without samples, for a stretch of time."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one collector needs: series of any of the selectors, in stretches that ascend."""

    selectors: Sequence[Selector]
    stretches: Sequence[Stretch]
    collector: Collector


@dataclass(frozen=True, slots=True)
class Question:
    """Series of a metric, or of several, whose names are joined by "|", for some collectors.

    `selectors` ask for all that any collector needs, and maybe for more.
    """

    metric: str
    wanted: Sequence[Wanted]
    selectors: Sequence[Selector]

    def stretches(self) -> list[Stretch]:
        """Return the stretches to ask for, ascending."""
        return questions([stretch for one in self.wanted for stretch in one.stretches])

    def inside(self, stretch: Stretch) -> "Question":
        """Return the question for a stretch of time, with collectors that have no samples yet."""
        wanted = [
            replace(one, stretches=own, collector=one.collector.fresh(stretch))
            for one in self.wanted
            if (own := overlapping(one.stretches, *stretch))
        ]
        return Question(self.metric, wanted, self.selectors)

    def extend(self, answered: "Question", stretch: Stretch) -> None:
        """Add the samples of a stretch, which were collected elsewhere by `inside(stretch)`."""
        asked = [one for one in self.wanted if overlapping(one.stretches, *stretch)]
        for one, other in zip(asked, answered.wanted, strict=True):
            one.collector.extend(other.collector)


Reader = Callable[[Question, Progress], None]
"""Answers a question: all samples reach their collectors."""


def part(progress: Progress, done: float, share: float) -> Progress:
    """Return the progress of a part that is `share` of the whole and begins where `done` of it is done."""
    return lambda so_far: progress(done + share * so_far)


def read_here(source: Source, question: Question, progress: Progress) -> None:
    """Read the samples in this process, piece after piece."""
    asked, selectors = question.stretches(), combined(question.selectors)
    routing = Routing([one.selectors for one in question.wanted])
    total_ms, done_ms = sum(last + 1 - first for first, last in asked), 0
    for first, last in asked:
        pieces = fetch(source, question.metric, selectors, first, last)
        so_far = part(progress, done_ms / total_ms, (last + 1 - first) / total_ms)
        for piece in shown(pieces, first, last, so_far):
            _route(routing, question.wanted, piece.series, (piece.start_ms, piece.end_ms))
        done_ms += last + 1 - first
    progress(1.0)


def _route(routing: Routing, wanted: Sequence[Wanted], series: Sequence[Series], piece: Stretch) -> None:
    """Add the series of a piece to the collectors that need them, stretch after stretch."""
    parts: dict[tuple[int, Stretch], list[Series]] = {
        (number, stretch): []
        for number, one in enumerate(wanted)
        for stretch in overlapping(one.stretches, *piece)
    }
    by_number: dict[int, list[Stretch]] = {}
    for number, stretch in parts:
        by_number.setdefault(number, []).append(stretch)
    for one in series:
        for number in routing.groups_of(one.labels):
            for stretch in by_number.get(number, ()):
                inside = one.between(*stretch)
                if len(inside) or len(inside.bad_ms):
                    parts[number, stretch].append(inside)
    for (number, _), own in parts.items():
        if own:
            wanted[number].collector.add(own)
