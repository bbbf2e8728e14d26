"""From the source to the plot: each piece of samples is reduced at once and then freed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.metrics import MetricSpec
from llem_integrator.plot.gathered import Gathered, PlottedGpu, Span, merged
from llem_integrator.plot.grid import Envelope, Grid
from llem_integrator.series.samples import Series, Times, Values, auto_max_gap_ms, merge
from llem_integrator.stores import Piece, Selector, Source
from llem_integrator.windows.window import Window

MARGIN_MS: Final = 30_000
"""So much around a window is read, and at most that much of it shown."""

_SHOWN_AROUND: Final = 0.04
_FEWEST_COLUMNS: Final = 200
"""However many GPUs there are."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The source, the windows, what selects series where a window does not, and --max-gap in ms, if given."""

    source: Source
    windows: Sequence[Window]
    selectors: tuple[Selector, ...]
    max_gap_ms: float | None


def grid_of(gathered: Gathered, points: int, most_columns: int) -> Grid:
    """A grid over all windows and a little around, with about so many points over all GPUs."""
    start = min(window.start_ms for window in gathered.windows)
    end = max(window.end_ms for window in gathered.windows)
    around = min(MARGIN_MS, _SHOWN_AROUND * (end - start))
    columns = points // max(1, len(gathered.gpus))
    return Grid(start - around, end + around, max(_FEWEST_COLUMNS, min(most_columns, columns)))


def read(asked: Asked, gathered: Gathered, grid: Grid) -> dict[str, Envelope]:
    """Each GPU's envelope: of its trace, else of the scraped gauge; raises SourceError."""
    envelopes: dict[str, Envelope] = {}
    for spec in (metrics.GPU_POWER_TRACE, metrics.GPU_POWER):
        wanted = {uuid: gpu for uuid, gpu in gathered.gpus.items() if uuid not in envelopes}
        found = _Reading(asked, spec, wanted, grid)
        for selectors, spans in _groups(asked):
            for span in spans:
                found.add(selectors, span)
        envelopes |= found.finished()
    for uuid, gpu in gathered.gpus.items():
        if uuid not in envelopes:
            envelopes[uuid] = Envelope(grid)
            for start_ms, end_ms in merged(gpu.spans):
                envelopes[uuid].gap_ms += grid.overlap_ms(start_ms, end_ms)
    return envelopes


def _groups(asked: Asked) -> Iterator[tuple[tuple[Selector, ...], list[Span]]]:
    """Windows that share their selectors, as stretches to read that do not overlap."""
    groups: defaultdict[tuple[Selector, ...], list[Span]] = defaultdict(list)
    for window in asked.windows:
        edges = window.start_us / 1000 - MARGIN_MS, window.end_us / 1000 + MARGIN_MS
        groups[window.selectors or asked.selectors].append(edges)
    return ((selectors, merged(spans)) for selectors, spans in groups.items())


class _Reading:
    """The samples of one metric, as far as they have come."""

    def __init__(self, asked: Asked, spec: MetricSpec, wanted: dict[str, PlottedGpu], grid: Grid) -> None:
        self.envelopes: dict[str, Envelope] = {}
        self._asked = asked
        self._spec = spec
        self._wanted = wanted
        self._grid = grid
        self._max_gap_ms: dict[str, float] = {}
        self._missed: defaultdict[str, list[Span]] = defaultdict(list)

    def add(self, selectors: Iterable[Selector], span: Span) -> None:
        """The samples of one stretch; what none of the selectors shows of a GPU is its gap."""
        gaps: defaultdict[str, list[Values]] = defaultdict(list)
        seen: set[frozenset[tuple[str, str]]] = set()
        for selector in selectors if self._wanted else ():
            strands: dict[str, _Strand] = {}
            shown: set[frozenset[tuple[str, str]]] = set()
            first_ms, last_ms = max(0, int(span[0])), -int(-span[1] // 1)
            for piece in self._asked.source.pieces(self._spec.name, selector, first_ms, last_ms):
                for uuid, unix_ms, watts in self._samples(piece, seen, shown):
                    if uuid not in strands:
                        strands[uuid] = self._strand(uuid, unix_ms, span)
                    strands[uuid].add(unix_ms, watts)
            seen |= shown
            for uuid, strand in strands.items():
                gaps[uuid].append(strand.finished(span[1]))
        for uuid, found in gaps.items():
            self.envelopes[uuid].gap_ms += np.minimum.reduce(found)
        for uuid, gpu in self._wanted.items():
            if uuid not in gaps:
                self._missed[uuid] += gpu.clipped(*span)

    def finished(self) -> dict[str, Envelope]:
        """The envelopes of the GPUs that have samples anywhere; stretches without any are gaps."""
        for uuid, envelope in self.envelopes.items():
            for start_ms, end_ms in merged(self._missed[uuid]):
                envelope.gap_ms += self._grid.overlap_ms(start_ms, end_ms)
        return self.envelopes

    def _samples(
        self, piece: Piece, seen: set[frozenset[tuple[str, str]]], shown: set[frozenset[tuple[str, str]]]
    ) -> Iterator[tuple[str, Times, Values]]:
        """The samples of a piece by GPU, label sets put together; those `seen` before are left out."""
        by_gpu: defaultdict[str, list[Series]] = defaultdict(list)
        for one in piece.series:
            key = frozenset(one.labels.items())
            uuid = one.labels.get("uuid", "")
            if uuid in self._wanted and key not in seen and len(one):
                shown.add(key)
                by_gpu[uuid].append(one)
        for uuid, series in by_gpu.items():
            # Readings of one sensor are drawn together, even if several jobs scraped them.
            whole = merge(series)
            if whole is not None:
                yield uuid, whole.unix_ms, whole.values

    def _strand(self, uuid: str, unix_ms: Times, span: Span) -> "_Strand":
        if uuid not in self._max_gap_ms:
            self._max_gap_ms[uuid] = self._settled_ms(uuid, unix_ms)
        envelope = self.envelopes.setdefault(uuid, Envelope(self._grid))
        return _Strand(envelope, self._wanted[uuid], self._max_gap_ms[uuid], span[0])

    def _settled_ms(self, uuid: str, unix_ms: Times) -> float:
        """The longest step that is no gap: as given, as the joules were integrated, or by the samples."""
        if self._asked.max_gap_ms is not None:
            return self._asked.max_gap_ms
        one = self._wanted[uuid].newest
        if self._spec is metrics.GPU_POWER_TRACE and one.method == "trapezoid" and one.max_gap_s is not None:
            return one.max_gap_s * 1000
        return auto_max_gap_ms(unix_ms) or 0.0


class _Strand:
    """One GPU's samples along one stretch, and the gaps between them."""

    def __init__(self, envelope: Envelope, gpu: PlottedGpu, max_gap_ms: float, start_ms: float) -> None:
        self._envelope = envelope
        self._gpu = gpu
        self._max_gap_ms = max_gap_ms
        self._start_ms = start_ms
        self._newest: int | None = None
        self._gap_ms = np.zeros(envelope.grid.columns)

    def add(self, unix_ms: Times, watts: Values) -> None:
        self._envelope.add(unix_ms, watts)
        if self._newest is None:
            self._gap(self._start_ms, float(unix_ms[0]))
            joined = unix_ms
        else:
            joined = np.concatenate([[self._newest], unix_ms])
        far = np.flatnonzero(np.diff(joined) > self._max_gap_ms)
        self._envelope.end_after(joined[far])
        for index in far.tolist():
            self._gap(float(joined[index]), float(joined[index + 1]))
        self._newest = int(unix_ms[-1])

    def finished(self, end_ms: float) -> Values:
        """The gaps by column, the last one included."""
        if self._newest is not None:
            self._envelope.end_after(np.array([self._newest]))
            self._gap(float(self._newest), end_ms)
        return self._gap_ms

    def _gap(self, start_ms: float, end_ms: float) -> None:
        for start, end in self._gpu.clipped(start_ms, end_ms):
            if end > start:
                self._gap_ms += self._envelope.grid.overlap_ms(start, end)
