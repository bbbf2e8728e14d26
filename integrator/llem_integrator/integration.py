"""From a source and windows to joules: scrapes first, then traces at edges, in whole where they decide."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.backend import Backend
from llem_integrator.energy.group import POWER_TRACE, ZEUS_TRACE, Group
from llem_integrator.reading import Question, Reader, Wanted, part, read_here
from llem_integrator.results.assembly import assemble, without_backend, zeus_is_short
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from llem_integrator.series import scrapes
from llem_integrator.series.matchers import Selector
from llem_integrator.series.routing import of_exporters
from llem_integrator.series.samples import Flags
from llem_integrator.stores.base import Progress, Source
from llem_integrator.stores.fetch import combined, quiet
from llem_integrator.windows.hosts import common_selectors
from llem_integrator.windows.window import Window

_SHARES: Final = (0.2, 0.1, 0.35, 0.35)
"""Of the work: scrapes, zeus's traces, power traces, and power traces in whole."""


def integrate(
    source: Source,
    windows: Iterable[Window],
    request: Request,
    progress: Progress = quiet,
    reader: Reader | None = None,
) -> Iterator[WindowResult]:
    """Yield the energy of each window, in their order, each as soon as it is known.

    Raises SourceError. `progress` is called with the number of windows that are done, which may be a
    fraction. `reader` reads the samples, if that is not done in this process.
    """
    every = list(windows)
    if request.backend is Backend.NONE:
        yield from (without_backend(window, request) for window in every)
        return
    waiting: dict[int, WindowResult] = {}
    given = done = 0
    for numbers in _clusters(every, request):
        run = _Run(source, every, numbers, request, reader or partial(read_here, source))
        waiting |= dict(run.results(part(progress, done, len(numbers))))
        done += len(numbers)
        progress(done)
        while given in waiting:
            yield waiting.pop(given)
            given += 1


def _clusters(windows: Sequence[Window], request: Request) -> Iterator[list[int]]:
    """Yield the numbers of windows for which the same scrapes are read, in order of time."""
    around_us = 2000 * max(scrapes.READ_MS, int(request.max_gap_ms or 0))
    cluster: list[int] = []
    end_us = 0
    for number in sorted(range(len(windows)), key=lambda number: windows[number].start_us):
        window = windows[number]
        if cluster and window.start_us > end_us + around_us:
            yield cluster
            cluster, end_us = [], 0
        cluster.append(number)
        end_us = max(end_us, window.end_us)
    if cluster:
        yield cluster


@dataclass(slots=True)
class _Run:
    """One pass over a source for some windows."""

    source: Source
    windows: Sequence[Window]
    numbers: list[int]
    request: Request
    reader: Reader
    groups: list[Group] = field(default_factory=list)
    selectors: tuple[Selector, ...] = ()
    """Of all that any group needs: the hosts of a job list become one regular expression."""

    def results(self, progress: Progress) -> Iterator[tuple[int, WindowResult]]:
        """Yield the result of each window and its number."""
        windows = [self.windows[number] for number in self.numbers]
        self.selectors = common_selectors(windows, self.request.selectors)
        by_selectors: dict[tuple[Selector, ...], list[int]] = {}
        for number in self.numbers:
            selectors = self.windows[number].selectors or self.request.selectors
            by_selectors.setdefault(selectors, []).append(number)
        self.groups = [
            Group(selectors, rows, [self.windows[row] for row in rows], self.request.max_gap_ms)
            for selectors, rows in by_selectors.items()
        ]
        shares = np.cumsum([0.0, *_SHARES])
        steps = [part(progress, begin, share) for begin, share in zip(shares.tolist(), _SHARES, strict=False)]
        self._read_scrapes(steps[0])
        self._read_zeus(steps[1])
        self._read_power(self.groups, steps[2])
        for group in self.groups:
            group.settle_traces()
        for group in self._with_whole_traces(steps[3]):
            warnings = dict.fromkeys([*self.source.warnings, *getattr(self.reader, "warnings", ())])
            yield from zip(group.rows, assemble(group, self.request, tuple(warnings)), strict=True)

    def _read_scrapes(self, progress: Progress) -> None:
        interval = metrics.SAMPLER_INTERVAL.name
        names = [name for name in scrapes.METRICS if name != interval]
        stretches = [group.scraped_stretches() for group in self.groups]
        of_gpus = [Wanted(g.selectors, own, g.scrapes) for g, own in zip(self.groups, stretches, strict=True)]
        of_exporter = [
            Wanted(of_exporters(g.selectors), own, g.scrapes)
            for g, own in zip(self.groups, stretches, strict=True)
        ]
        if [one.selectors for one in of_gpus] == [one.selectors for one in of_exporter]:
            names.append(interval)
        else:
            self.reader(Question(interval, of_exporter, of_exporters(self.selectors)), quiet)
        self.reader(Question("|".join(names), of_gpus, self.selectors), progress)
        for group in self.groups:
            group.scrapes.add_timeless(self.source.timeless(group.selectors))
            group.settle_scrapes(self.request.backend)

    def _may_have(self, metric: str) -> bool:
        """Return whether the source may have a trace in the time of the windows."""
        start_ms = min(int(group.spans.start_ms.min()) for group in self.groups)
        end_ms = max(int(group.spans.end_ms.max()) for group in self.groups)
        return any(self.source.may_have(metric, one, start_ms, end_ms) for one in combined(self.selectors))

    def _read_zeus(self, progress: Progress) -> None:
        """Around edges, and in whole where nothing was scraped that shows a reset between them."""
        if self.request.backend is Backend.CODECARBON or not self._may_have(ZEUS_TRACE):
            return
        alone = [group.without_counter() for group in self.groups]
        self._read_zeus_traces(self.groups, alone, progress)
        again = [
            (group, windows | group.traced_alone())
            for group, windows in zip(self.groups, alone, strict=True)
            if np.any(group.traced_alone() & ~windows)
        ]
        if again:
            for group, _ in again:
                group.restart_zeus()
            self._read_zeus_traces([group for group, _ in again], [windows for _, windows in again], quiet)

    def _read_zeus_traces(self, groups: Sequence[Group], alone: Sequence[Flags], progress: Progress) -> None:
        """Read zeus's traces at edges; in the whole of windows in which they are alone, with the power."""
        wanted = [
            Wanted(group.selectors, group.trace_stretches(windows), group.zeus)
            for group, windows in zip(groups, alone, strict=True)
        ]
        metric = f"{ZEUS_TRACE}|{POWER_TRACE}" if any(windows.any() for windows in alone) else ZEUS_TRACE
        self.reader(Question(metric, wanted, self.selectors), progress)

    def _read_power(self, groups: Sequence[Group], progress: Progress) -> None:
        if not self._may_have(POWER_TRACE):
            return
        for group in groups:
            group.prepare_power()
        wanted = [
            Wanted(group.selectors, group.trace_stretches(group.is_whole), group.power) for group in groups
        ]
        self.reader(Question(POWER_TRACE, wanted, self.selectors), progress)

    def _with_whole_traces(self, progress: Progress) -> Iterator[Group]:
        """Yield the groups; windows in which zeus covers too little have their power traces read in whole."""
        again: list[Group] = []
        for group in self.groups:
            short = np.zeros(len(group.rows), np.bool_)
            if self.request.backend is None:
                short = zeus_is_short(group, self.request) & ~group.is_whole
            if short.any():
                again.append(group.part(np.flatnonzero(short), with_power=False))
                again[-1].is_whole[:] = True
            if not short.all():
                yield group.part(np.flatnonzero(~short), with_power=True) if short.any() else group
        if again:
            self._read_power(again, progress)
            for group in again:
                group.settle_traces()
                yield group
