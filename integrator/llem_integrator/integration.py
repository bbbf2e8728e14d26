"""From a source and windows to joules: one pass over the samples, for however many windows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.backend import Backend
from llem_integrator import plain, plan, traces
from llem_integrator.asking import begun
from llem_integrator.energy.answers import Answers, nothing_asked
from llem_integrator.energy.backends import Again
from llem_integrator.energy.gaps import Gaps
from llem_integrator.energy.joules import RunningSums
from llem_integrator.energy.readings import arranged
from llem_integrator.energy.request import Request
from llem_integrator.energy.result import WindowResult
from llem_integrator.fetch import combined, fetch, quiet, summary
from llem_integrator.power import Reader
from llem_integrator.power import reader as power_reader
from llem_integrator.series.samples import Series, Times
from llem_integrator.stores import Matcher, Progress, Selector, Source, Summary, whole
from llem_integrator.traces import PowerTraces
from llem_integrator.windows.spans import Spans, spans_of
from llem_integrator.windows.window import Window

_APART_MS: Final = 600_000
"""Windows further apart than this are read apart."""

_BATCH_MS: Final = 25 * 3_600_000
"""Windows are answered as soon as the plain series of so much time are wanted for those that are over,"""

_BATCH_SAMPLES: Final = 20_000_000
"""or so many samples of traces have come since the last answer."""


def integrate(
    source: Source,
    windows: Iterable[Window],
    request: Request,
    progress: Progress = quiet,
    reader: Reader | None = None,
) -> Iterator[WindowResult]:
    """The energy of each window, in their order, each as soon as it is known; raises SourceError.

    `progress` is called with the number of windows that are done, which may be a fraction. The samples of all
    windows are read once.
    `reader` reads the power traces, where that is not done here.
    """
    every = list(windows)
    if request.backend is Backend.NONE:
        yield from (nothing_asked(window) for window in every)
        return
    run = _Run(
        source,
        request,
        combined(_selectors(every, request)),
        Gaps(request.max_gap_ms),
        every,
        spans_of(every),
        reader or power_reader(source),
        len({window.selectors or request.selectors for window in every}) > 1,
    )
    waiting: dict[int, WindowResult] = {}
    for number, result in run.results(progress):
        waiting[number] = result
        while run.given in waiting:
            yield waiting.pop(run.given)
            run.given += 1


def _selectors(windows: Sequence[Window], request: Request) -> list[Selector]:
    """All that any window asks for."""
    asked = dict.fromkeys(window.selectors or request.selectors for window in windows)
    return list(dict.fromkeys(selector for selectors in asked for selector in selectors))


def _stretches(windows: Sequence[Window]) -> Iterator[list[int]]:
    """The numbers of windows that overlap or are near each other, in order of time."""
    group: list[int] = []
    end_us = 0
    for number in sorted(range(len(windows)), key=lambda number: windows[number].start_us):
        window = windows[number]
        if group and window.start_us > end_us + _APART_MS * 1000:
            yield group
            group = []
        group.append(number)
        end_us = max(end_us, window.end_us) if len(group) > 1 else window.end_us
    if group:
        yield group


@dataclass(slots=True)
class _Run:
    """One pass over a source."""

    source: Source
    request: Request
    selectors: tuple[Selector, ...]
    gaps: Gaps
    windows: list[Window]
    spans: Spans
    reader: Reader
    mixed: bool
    """Whether windows select differently: what one selects may be in no other's result."""

    given: int = 0
    said: dict[str, None] = field(default_factory=dict)

    @property
    def _margin_ms(self) -> int:
        return max(traces.MARGIN_MS, int(self.gaps.given_ms or 0))

    def results(self, progress: Progress) -> Iterator[tuple[int, WindowResult]]:
        done = 0
        for stretch in _stretches(self.windows):
            yield from self._stretch(stretch, _part(progress, done, len(stretch)))
            done += len(stretch)
            progress(done)

    def _stretch(self, numbers: list[int], progress: Progress) -> Iterator[tuple[int, WindowResult]]:
        """The windows of one stretch as they are over; the power traces are read piece by piece."""
        spans = self.spans.take(np.array(numbers))
        start_ms = max(0, int(spans.start_ms.min()) - self._margin_ms)
        end_ms = int(spans.end_ms.max()) + self._margin_ms
        self._learn_intervals(int(spans.start_ms.min()), int(spans.end_ms.max()))
        power = PowerTraces(spans.edges_us(), self.gaps)
        by_end = sorted(numbers, key=lambda number: self.windows[number].end_us)
        ready_ms = self.spans.take(np.array(by_end)).end_ms + self._margin_ms
        early = None if self._is_much(numbers) else begun(self.source, partial(self._plain, numbers))
        first, over, samples = 0, 0, 0
        for read in self.reader(self.selectors, (start_ms, end_ms), power, progress):
            samples += read.samples
            self.said |= dict.fromkeys(read.warnings)
            before = over
            over = int(np.searchsorted(ready_ms, read.end_ms, "right"))
            many = samples > _BATCH_SAMPLES or (over > before and self._is_much(by_end[first:over]))
            if many and over > first:
                yield from self._answers(
                    by_end[first:over], power, early if over - first == len(by_end) else None
                )
                first, samples = over, 0
        yield from self._answers(by_end[first:], power, None if first else early)

    def _is_much(self, numbers: Sequence[int]) -> bool:
        spans = self.spans.take(np.array(numbers))
        if int(spans.end_ms.max() - spans.start_ms.min()) + 2 * plain.MARGIN_MS < _BATCH_MS:
            return False  # whatever lies between them
        edges_us = spans.edges_us()
        return plan.length_ms(plan.around(edges_us, plain.MARGIN_MS)) > _BATCH_MS

    def _answers(
        self, numbers: list[int], power: PowerTraces, early: Callable[[], plain.Plain] | None
    ) -> Iterator[tuple[int, WindowResult]]:
        """In batches, of which none needs the plain series of more than a day, if it has many windows.

        `early` gives the plain series for all of these windows, if they are being read already.
        """
        while numbers:
            size = len(numbers)
            while size > 1 and self._is_much(numbers[:size]):
                size //= 2
            found = early() if early else self._plain(numbers[:size])
            yield from self._batch(numbers[:size], power, found)
            numbers = numbers[size:]

    def _plain(self, numbers: list[int]) -> plain.Plain:
        """The plain series for these windows."""
        margin_ms = max(plain.MARGIN_MS, int(self.gaps.given_ms or 0))
        edges_us = self.spans.take(np.array(numbers)).edges_us()
        return plain.read(self.source, self.selectors, edges_us, margin_ms)

    def _batch(
        self, numbers: list[int], power: PowerTraces, found: plain.Plain
    ) -> Iterator[tuple[int, WindowResult]]:
        numbers = sorted(numbers, key=lambda number: self.windows[number].start_us)
        windows = [self.windows[number] for number in numbers]
        spans = self.spans.take(np.array(numbers))
        edges_us = spans.edges_us()
        zeus = self._zeus_traces(found, edges_us)
        readings = arranged(found, power.by_uuid, zeus)
        again = Again(self._trace_again, self._gauge_again if found.skipped else None)
        said = tuple(self.said | dict.fromkeys(self.source.warnings))
        answers = Answers(readings, windows, spans, self.request, self.gaps, again, said)
        results = answers.results()
        if self.mixed:
            for rows in answers.mixed.values():
                alone = integrate(
                    self.source, [windows[row] for row in rows], self.request, reader=self.reader
                )
                for row, result in zip(rows, alone, strict=True):
                    results[row] = result
        yield from zip(numbers, results, strict=True)

    def _zeus_traces(self, found: plain.Plain, edges_us: Times) -> dict[str, traces.CounterTrace]:
        """Around edges and falls; where no scraped counter tells of falls, the store is asked about these."""
        asked = self.source, self.selectors, edges_us
        zeus = traces.counter_traces(*asked, found.restless, self.gaps)
        scraped = {one.labels.get("uuid") for one in found.of(metrics.GPU_ZEUS_ENERGY)}
        if zeus.keys() - scraped and (falls := traces.restless(*asked, found.restless)):
            return traces.counter_traces(*asked, [*found.restless, *falls], self.gaps)
        return zeus

    def _learn_intervals(self, start_ms: int, end_ms: int) -> None:
        """What the exporters' sample intervals are at the start, or where nothing is known then, at all."""
        near = max(0, start_ms - plain.MARGIN_MS), start_ms + plain.MARGIN_MS
        # An exporter's own series know no GPU.
        of_nodes = combined(
            [tuple(one for one in selector if one.label not in metrics.GPU) for selector in self.selectors]
        )
        for stretch in (near, (near[0], end_ms + plain.MARGIN_MS)):
            for one in summary(
                self.source, metrics.SAMPLER_INTERVAL, of_nodes, *stretch, Summary.LAST
            ).values():
                instance = one.labels.get("instance", "")
                self.gaps.interval_ms.setdefault(instance, float(one.values[-1]) * 1000)
            if self.gaps.interval_ms:
                return

    def _trace_again(self, uuid: str, spans: Spans) -> RunningSums | None:
        """One GPU's power trace, summed up between other edges."""
        edges_us = spans.edges_us()
        power = PowerTraces(edges_us, self.gaps)
        for stretch in plan.around(edges_us, self._margin_ms, 2 * self._margin_ms):
            for piece in fetch(self.source, metrics.GPU_POWER_TRACE, self._of(uuid), *stretch, quiet):
                power.add(piece)
        return power.by_uuid[uuid].sums

    def _gauge_again(self, uuid: str, spans: Spans) -> list[Series]:
        """One GPU's gauge in the whole of the windows."""
        stretch = int(spans.start_ms.min()) - plain.MARGIN_MS, int(spans.end_ms.max()) + plain.MARGIN_MS
        pieces = fetch(self.source, metrics.GPU_POWER, self._of(uuid), max(0, stretch[0]), stretch[1], quiet)
        return list(whole(pieces))

    def _of(self, uuid: str) -> list[Selector]:
        """What is asked for, of one GPU alone."""
        return [(*selector, Matcher("uuid", "=", uuid)) for selector in self.selectors]


def _part(progress: Progress, done: int, share: int) -> Progress:
    """The progress of a part that is `share` of the whole and begins where `done` of it is done."""
    return lambda part: progress(done + share * part)
