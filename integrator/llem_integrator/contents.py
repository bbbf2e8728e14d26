"""What a source contains: its GPUs, the times of its first and last sample, and which metrics are missing."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from llem_core import metrics
from llem_core.errors import SourceError
from llem_core.metrics import Kind
from llem_integrator.results.fields import WindowResult
from llem_integrator.series.matchers import Selector
from llem_integrator.stores import Piece, Source
from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.windows.window import rfc3339

_SCRAPED: Final = tuple(spec.name for spec in metrics.METRICS_PAGE if spec.kind is not Kind.HISTOGRAM)
_TRACES: Final = (metrics.GPU_POWER_TRACE.name, metrics.GPU_ZEUS_TRACE.name)
_NEEDED: Final = (metrics.GPU_INFO, metrics.GPU_POWER, metrics.GPU_NVML_ENERGY, metrics.GPU_INTEGRATED)
"""Metrics that /metrics always has if there is a GPU."""

_OF_OTHERS: Final = (
    "DCGM_FI_DEV_POWER_USAGE",
    "nvidia_smi_power_draw_watts",
    "all_smi_gpu_utilization",
    "up",
)
"""Metrics of other programs. One of them is named if there are no metrics of llem-exporter."""

_LOOK_BACK_MS: Final = 400 * 86_400_000
_AHEAD_MS: Final = 600_000
"""Prometheus stores no sample that is further in the future."""

_NEWEST_MS: Final = 300_000
_END_MS: Final = 253_402_300_799_999
_MOST_INDICES: Final = 16
_MOST_INSTANCES: Final = 4
_MOST_CHECKS: Final = 20
"""Only so many windows and selectors are looked at, to limit the requests. Others get less detail."""
_MOST_PARTS: Final = 500
"""A search of 400 days takes about 10 queries, but 2 million if the server refuses more than 20 s.

500 queries take about 15 s, and suffice for 400 days if the server allows a day.
"""


@dataclass(frozen=True, slots=True)
class ListedGpu:
    """The labels of a GPU."""

    gpu: str
    uuid: str
    instance: str


@dataclass(frozen=True, slots=True)
class Contents:
    """The times of the first and last sample of llem-exporter in a source, in unix ms.

    `gpus` are those that have samples in the last 5 minutes before `last_ms`. `metrics` are the names of the
    metrics in that time.
    """

    first_ms: int
    last_ms: int
    gpus: tuple[ListedGpu, ...]
    metrics: tuple[str, ...]

    @property
    def instances(self) -> tuple[str, ...]:
        return tuple(sorted({gpu.instance for gpu in self.gpus}))

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the metrics that the source lacks. The traces of /history need no others."""
        if {*_TRACES} & {*self.metrics}:
            return ()
        return tuple(spec.name for spec in _NEEDED if spec.name not in self.metrics)

    def __str__(self) -> str:
        count, instances = len(self.gpus), self.instances
        gpus = "1 GPU" if count == 1 else f"{count} GPUs"
        if len(instances) == 1 and count <= _MOST_INDICES:
            gpus += f" ({'index' if count == 1 else 'indices'} {', '.join(gpu.gpu for gpu in self.gpus)})"
        nodes = ", ".join(instances[:_MOST_INSTANCES]) + (", ..." if len(instances) > _MOST_INSTANCES else "")
        first, last = rfc3339(self.first_ms * 1000), rfc3339(self.last_ms * 1000)
        missing = ", ".join(self.missing)
        lacking = f". These metrics are missing: {missing}. Check metric_relabel_configs." if missing else ""
        return f"{gpus}{f' on {nodes}' if nodes else ''}, with samples from {first} to {last}{lacking}"


def list_contents(
    source: Source,
    selectors: Sequence[Selector] = ((),),
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> Contents | None:
    """Return what a source contains between two times, or None if nothing matches any selector.

    By default, all samples of a file, or the last 400 days of a server. Raises SourceError, also if the
    search takes too many queries.
    """
    now_ms = time.time_ns() // 1_000_000
    is_file = isinstance(source, LoadedSource)
    if start_ms is None:
        start_ms = 0 if is_file else now_ms - _LOOK_BACK_MS
    if end_ms is None:
        end_ms = _END_MS if is_file else now_ms + _AHEAD_MS
    edges = [_edges(source, selector, start_ms, end_ms) for selector in selectors]
    found = [edge for edge in edges if edge is not None]
    if not found:
        return None
    first_ms, last_ms = min(first for first, _ in found), max(last for _, last in found)
    gpus: set[ListedGpu] = set()
    names: set[str] = set()
    for selector in selectors:
        newest = max(start_ms, last_ms - _NEWEST_MS), last_ms
        for piece in _pieces(source, (*_SCRAPED, *_TRACES), selector, *newest):
            for series in piece.series:
                names.add(series.metric)
                labels = series.labels
                if "uuid" in labels:
                    gpus.add(ListedGpu(labels.get("gpu", ""), labels["uuid"], labels.get("instance", "")))
    return Contents(first_ms, last_ms, tuple(sorted(gpus, key=_place)), tuple(sorted(names)))


def _place(gpu: ListedGpu) -> tuple[str, int, str]:
    return gpu.instance, int(gpu.gpu) if gpu.gpu.isdecimal() else -1, gpu.uuid


class Explainer:
    """Explains windows without data by the contents of the source, which are read once per selectors."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[Selector, ...], Contents | None] = {}
        self._checks = 0
        self._error = ""

    def explain(self, result: WindowResult, selectors: tuple[Selector, ...]) -> str:
        """Return a sentence on why a window has no data, and what the source contains.

        After an error, the source is not asked again: it would take as long for each window.
        """
        if not self._error:
            try:
                return self._explained(result, selectors)
            except SourceError as exc:
                self._error = f"the contents of the source cannot be listed: {exc}"
        return self._error

    def _explained(self, result: WindowResult, selectors: tuple[Selector, ...]) -> str:
        address = self._source.address
        everything = self._contents(((),))
        if everything is None:
            return f"{address} contains no metrics of llem-exporter{self._others()}"
        matching: Contents | None = everything
        if not _outside(result, everything) and len(self._known) < _MOST_CHECKS:
            matching = self._contents(selectors)
        if matching is None:
            matchers = " or ".join(f"{{{','.join(map(str, selector))}}}" for selector in selectors)
            return f"no series match {matchers}; without matchers, {address} contains {everything}"
        what = f"{address} contains {matching}"
        if outside := _outside(result, matching):
            return f"{outside}: {what}"
        return f"the window contains no samples: {what}" if self._is_empty(result, selectors) else what

    def _is_empty(self, result: WindowResult, selectors: tuple[Selector, ...]) -> bool:
        """Return whether a window has no samples at all. Only some windows are checked."""
        self._checks += 1
        start_ms, end_ms = round(result.start * 1000), round(result.end * 1000)
        return self._checks <= _MOST_CHECKS and not any(
            _edges(self._source, selector, start_ms, end_ms) for selector in selectors
        )

    def _contents(self, selectors: tuple[Selector, ...]) -> Contents | None:
        if selectors not in self._known:
            self._known[selectors] = list_contents(self._source, selectors)
        return self._known[selectors]

    def _others(self) -> str:
        if isinstance(self._source, LoadedSource):
            name = self._source.other_metric
        else:
            now_ms = time.time_ns() // 1_000_000
            pieces = _pieces(self._source, _OF_OTHERS, (), now_ms - _LOOK_BACK_MS, now_ms)
            name = next((min(series.metric for series in piece.series) for piece in pieces), "")
        return f", only metrics of other programs, for example {name}" if name else ""


def _outside(result: WindowResult, contents: Contents) -> str:
    """Return whether a window is before the first or after the last sample, or "" if it is neither."""
    if result.start * 1000 > contents.last_ms:
        return "the window begins after the last sample"
    return "the window ends before the first sample" if result.end * 1000 < contents.first_ms else ""


def _edges(source: Source, selector: Selector, start_ms: int, end_ms: int) -> tuple[int, int] | None:
    """Return the times of the first and last sample, or None.

    Traces have many samples, so they are only read before and after the scraped metrics.
    """
    first_ms = last_ms = None
    for names in (_SCRAPED, _TRACES):
        before_ms = end_ms if first_ms is None else first_ms - 1
        earlier_ms = _first_ms(source, names, selector, start_ms, before_ms)
        first_ms = first_ms if earlier_ms is None else earlier_ms
        if first_ms is not None:
            after_ms = first_ms if last_ms is None else last_ms + 1
            last_ms = _last_ms(source, names, selector, after_ms, end_ms) or last_ms
    return None if first_ms is None or last_ms is None else (first_ms, last_ms)


def _first_ms(
    source: Source, names: Sequence[str], selector: Selector, start_ms: int, end_ms: int
) -> int | None:
    """Return the time of the first sample, or None."""
    for piece in _pieces(source, names, selector, start_ms, end_ms):
        return min(int(series.unix_ms[0]) for series in piece.series)
    return None


def _last_ms(
    source: Source, names: Sequence[str], selector: Selector, start_ms: int, end_ms: int
) -> int | None:
    """Return the time of the last sample, or None.

    The stretch that can contain it is halved again and again, so that little of it is read. The newest part
    comes first, because most sources are live.
    """
    middle_ms = end_ms - _AHEAD_MS
    while end_ms - start_ms > _AHEAD_MS:
        later_ms = _first_ms(source, names, selector, middle_ms, end_ms)
        if later_ms is None:
            end_ms = middle_ms - 1
        else:
            start_ms = later_ms
        middle_ms = (start_ms + end_ms) // 2 + 1
    last_ms = None
    for piece in _pieces(source, names, selector, start_ms, end_ms):
        last_ms = max(int(series.unix_ms[-1]) for series in piece.series)
    return last_ms


def _pieces(
    source: Source, names: Sequence[str], selector: Selector, start_ms: int, end_ms: int
) -> Iterator[Piece]:
    """Yield the pieces that have samples; raises SourceError if there are too many, with or without any."""
    for number, piece in enumerate(source.pieces("|".join(names), selector, start_ms, end_ms)):
        if number == _MOST_PARTS:
            raise SourceError(
                f"the search was limited to {_MOST_PARTS} queries, because the server only answers short "
                "ones: raise its limits on the length and the samples of a query, or list a shorter time "
                "with --list and --window"
            )
        series = tuple(series for series in piece.series if len(series))
        if series:
            yield Piece(piece.start_ms, piece.end_ms, series)
