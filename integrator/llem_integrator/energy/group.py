"""Windows that select their series by the same matchers: what was read for them, and what measures them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from llem_core import metrics
from llem_core.backend import Backend
from llem_integrator.energy.backends import counter_edges_us
from llem_integrator.energy.counters.traces import CounterTraces
from llem_integrator.energy.power.traces import READ_MS as TRACE_READ_MS
from llem_integrator.energy.power.traces import MaxGaps, PowerTraces
from llem_integrator.energy.readings import GpuReadings, NodeReadings
from llem_integrator.series import scrapes
from llem_integrator.series.ceiling import PowerCeiling, ceiling_of
from llem_integrator.series.intervals import Intervals
from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Flags, Times
from llem_integrator.series.scrapes import Scrapes
from llem_integrator.series.spans import Index, Spans, distinct, spans_of
from llem_integrator.series.table import NVML, ZEUS
from llem_integrator.windows.stretches import Stretch, union
from llem_integrator.windows.window import Window

ZEUS_TRACE = metrics.GPU_ZEUS_TRACE.name
POWER_TRACE = metrics.GPU_POWER_TRACE.name


@dataclass(slots=True)
class Group:
    """Windows with the same `selectors`, their numbers `rows` (w,) in the list, and what was read for them.

    Nothing that other windows select, or that lies further from these windows than they may look, is in it.
    """

    selectors: tuple[Selector, ...]
    rows: list[int]
    windows: list[Window]
    max_gap_ms: float | None
    spans: Spans = field(init=False)
    scrapes: Scrapes = field(init=False)
    power: PowerTraces = field(init=False)
    zeus: CounterTraces = field(init=False)
    gpus: dict[str, GpuReadings] = field(default_factory=dict)
    nodes: dict[str, NodeReadings] = field(default_factory=dict)
    intervals: dict[str, Intervals] = field(default_factory=dict)
    is_whole: Flags = field(init=False)
    """Whether the power trace was read in whole for each window (w,), not only around its edges."""

    _ceilings: dict[str, PowerCeiling] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spans = spans_of(self.windows)
        reach_ms = max(scrapes.MARGIN_MS, int(self.max_gap_ms or 0))
        edges_ms = distinct(np.concatenate([self.spans.start_ms, self.spans.end_ms]))
        self.scrapes = Scrapes(distinct(np.concatenate([edges_ms, edges_ms - reach_ms, edges_ms + reach_ms])))
        self.is_whole = np.zeros(len(self.windows), np.bool_)

    def scraped_stretches(self) -> list[Stretch]:
        """Return where scrapes are needed: in the windows, and an hour around."""
        around_ms = max(scrapes.READ_MS, int(self.max_gap_ms or 0))
        return union(self.spans.start_ms - around_ms, self.spans.end_ms + around_ms)

    def trace_stretches(self, is_whole: Flags) -> list[Stretch]:
        """Return where traces are needed: in the whole of some windows (w,), at the edges of others."""
        around_ms = max(TRACE_READ_MS, int(self.max_gap_ms or 0))
        whole, others = self.spans.take(np.flatnonzero(is_whole)), self.spans.take(np.flatnonzero(~is_whole))
        first_ms = np.concatenate([whole.start_ms, others.start_ms, others.end_ms])
        last_ms = np.concatenate([whole.end_ms, others.start_ms, others.end_ms])
        return union(first_ms - around_ms, last_ms + around_ms)

    def settle_scrapes(self, backend: Backend | None) -> None:
        """Arrange what was scraped, all of it, by GPU and by node, and decide which traces are needed."""
        self.intervals = self.scrapes.intervals()
        for table in self.scrapes.gpus.values():
            found = table.whole()
            self.gpu(found.labels["uuid"]).tables.append(found)
        for spec, name in (
            (metrics.GPU_INFO, "infos"),
            (metrics.GPU_MIG_INFO, "slices"),
            (metrics.GPU_JOB_INFO, "jobs"),
        ):
            for presence in self.scrapes.of(spec):
                getattr(self.gpu(presence.labels["uuid"]), name).append(presence)
        for table in self.scrapes.nodes.values():
            found = table.whole()
            name = found.labels.get("instance", "")
            self.nodes.setdefault(name, NodeReadings(name)).tables.append(found)
        for uuid, gpu in self.gpus.items():
            gpu.faults += self.scrapes.faults.get(uuid, [])
            self._ceilings[uuid] = ceiling_of(gpu.tables)
        if backend in (None, Backend.NVML):
            counted = self._has_counter(ZEUS) if backend is None else np.zeros(len(self.windows), np.bool_)
            self.is_whole = ~counted
        self.restart_zeus()
        self.power = self._power_traces({})

    def prepare_power(self) -> None:
        """Begin with power traces, with edges also at the counter readings next to a window's edges."""
        more_us = {uuid: counter_edges_us(gpu, self.spans) for uuid, gpu in self.gpus.items()}
        self.power = self._power_traces(more_us)

    def without_counter(self) -> Flags:
        """Return the windows (w,) for which no energy counter was scraped: traces must show all."""
        return ~(self._has_counter(ZEUS) | self._has_counter(NVML))

    def _has_counter(self, column: str) -> Flags:
        """Return the windows (w,) in which every GPU that was scraped has a counter, and there is one."""
        every, some = np.ones(len(self.windows), np.bool_), np.zeros(len(self.windows), np.bool_)
        for gpu in self.gpus.values():
            counted = self._is_scraped(gpu, column)
            every &= counted | ~self._is_scraped(gpu)
            some |= counted
        return every & some

    def _is_scraped(self, gpu: GpuReadings, column: str | None = None) -> Flags:
        """Return the windows (w,) in or around which a GPU was scraped, with a value of a metric if given."""
        scraped = np.zeros(len(self.windows), np.bool_)
        for table in gpu.tables:
            unix_ms = table.unix_ms if column is None else table.unix_ms[table.has(column)]
            first = np.searchsorted(unix_ms, self.spans.start_ms - scrapes.MARGIN_MS)
            scraped |= np.searchsorted(unix_ms, self.spans.end_ms + scrapes.MARGIN_MS, "right") > first
        return scraped

    def traced_alone(self) -> Flags:
        """Return the windows (w,) in which zeus's trace shows a GPU whose counter was not scraped."""
        alone = np.zeros(len(self.windows), np.bool_)
        for uuid, trace in self.zeus.by_uuid.items():
            alone |= trace.near(self.spans) & ~self._is_scraped(self.gpu(uuid), ZEUS)
        return alone

    def restart_zeus(self) -> None:
        """Begin anew with zeus's traces."""
        self.zeus = CounterTraces(self.spans.edges_us(), self._ceilings)

    def is_read_whole(self) -> Flags:
        """Return whether the power trace was read in the whole of each window (w,): short ones always are."""
        return self.is_whole | (self.spans.duration_ms <= 2 * TRACE_READ_MS)

    def gpu(self, uuid: str) -> GpuReadings:
        """Return what is known of a GPU, nothing yet if it is new."""
        return self.gpus.setdefault(uuid, GpuReadings(uuid))

    def settle_traces(self) -> None:
        """Arrange what was read of traces, all of it, by GPU."""
        self.power.finish()
        for uuid, trace in self.power.by_uuid.items():
            self.gpu(uuid).power = trace
        for uuid, counter in self.zeus.by_uuid.items():
            self.gpu(uuid).zeus = counter

    def part(self, index: Index, *, with_power: bool) -> "Group":
        """Return some of the windows as a group of their own, with what was read, or without power traces."""
        part = Group(
            self.selectors,
            [self.rows[at] for at in index.tolist()],
            [self.windows[at] for at in index.tolist()],
            self.max_gap_ms,
        )
        part.scrapes, part.zeus, part.nodes = self.scrapes, self.zeus, self.nodes
        part.gpus = {
            uuid: replace(gpu, power=gpu.power if with_power else None, zeus_risen=None)
            for uuid, gpu in self.gpus.items()
        }
        part.intervals, part._ceilings = self.intervals, self._ceilings
        part.is_whole = self.is_whole[index]
        part.power = part._power_traces({})
        return part

    def _power_traces(self, more_us: Mapping[str, Times]) -> PowerTraces:
        max_gaps = MaxGaps(self.max_gap_ms, self.intervals)
        return PowerTraces(self.spans.edges_us(), max_gaps, more_us, self._ceilings)
