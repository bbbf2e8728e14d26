"""What a GPU is called in each window, whether it is there at all, and its limit and highest gauge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from llem_integrator.energy.readings import GpuReadings, NodeReadings
from llem_integrator.energy.traces import MARGIN_MS as TRACE_MARGIN_MS
from llem_integrator.energy.traces import Seen
from llem_integrator.series import scrapes
from llem_integrator.series.samples import Flags, Floats, Times
from llem_integrator.series.scrapes import MARGIN_MS, Presence
from llem_integrator.series.spans import Index, Spans, group_alike

_PEAK_MS: Final = 60_000
"""How far llem_gpu_power_peak_watts looks back."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A GPU's labels, those of all its series, and the instances that show it, in a window."""

    labels: Mapping[str, str]
    every: tuple[Mapping[str, str], ...]
    instances: tuple[str, ...]

    @property
    def node(self) -> str:
        return self.labels.get("instance", "")


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """One GPU in windows (w,): the number of its identity, -1 where it is not there; watts, NaN unknown."""

    uuid: str
    identities: Sequence[Identity]
    identity: Index
    limit_watts: Floats
    peak_watts: Floats

    def take(self, windows: Index) -> "Facts":
        """Return the same for some of the windows."""
        limits, peaks = self.limit_watts[windows], self.peak_watts[windows]
        return replace(self, identity=self.identity[windows], limit_watts=limits, peak_watts=peaks)


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """The samples of a label set by windows (w,), in ms: the last to the end, the first from the start."""

    source: str
    labels: Mapping[str, str]
    before_end: Times
    after_start: Times
    margin_ms: int


def facts(gpu: GpuReadings, spans: Spans) -> Facts:
    """Return what is known of a GPU.

    It is there where any per-GPU series reaches into a window or across it, or llem_gpu_info does.
    """
    near = list(_near(gpu, spans))
    reached = _reached(near, spans)
    around_ms = spans.start_ms - MARGIN_MS, spans.end_ms + MARGIN_MS
    around = [info.reaches(*around_ms) for info in gpu.infos]
    inside = [info.reaches(spans.start_ms, spans.end_ms) for info in gpu.infos]
    present = reached.copy()
    for mask in inside:
        present |= mask
    identity = np.full(len(spans), -1)
    identities: list[Identity] = []
    rows = np.flatnonzero(present)
    if len(rows):
        choice, newest = _chosen(near, spans, reached)
        examples, kind = group_alike([column[rows] for column in (*choice, *around, *inside, newest)])
        identity[rows] = kind
        for row in rows[examples].tolist():
            shown = [info for info, mask in zip(gpu.infos, around, strict=True) if mask[row]]
            within = [info for info, mask in zip(gpu.infos, inside, strict=True) if mask[row]]
            chosen = [one.labels for one, mask in zip(near, choice, strict=True) if mask[row]]
            own = near[newest[row]].labels if chosen else {}
            identities.append(_identity(own, chosen, shown, within))
    # The peak gauge looks back: in the window's first minute it may show a peak of before.
    peaks = np.fmax(gpu.highest(scrapes.WATTS, spans), gpu.highest(scrapes.PEAK, spans, delay_ms=_PEAK_MS))
    limits = gpu.highest(scrapes.LIMIT, spans, MARGIN_MS)
    return Facts(gpu.uuid, identities, identity, limits, peaks)


def divided(gpu: GpuReadings, spans: Spans) -> Flags:
    """Return whether the GPU had MIG slices in windows (w,)."""
    flags = np.zeros(len(spans), np.bool_)
    for presence in gpu.slices:
        flags |= presence.reaches(spans.start_ms - MARGIN_MS, spans.end_ms + MARGIN_MS)
    return flags


def node_shown(node: NodeReadings, spans: Spans) -> Flags:
    """Return whether CodeCarbon's series of a node reach into windows (w,)."""
    near = [_scraped("", table.labels, table.unix_ms, spans) for table in node.tables]
    return _reached(near, spans)


def _near(gpu: GpuReadings, spans: Spans) -> Iterator[_Near]:
    for seen in gpu.power.seen.values() if gpu.power else ():
        yield _traced("power", seen, spans)
    for seen in gpu.zeus.seen.values() if gpu.zeus else ():
        yield _traced("zeus", seen, spans)
    for table in gpu.tables:
        showing = np.zeros(len(table), np.bool_)
        for column in scrapes.SHOWING:
            showing |= table.has(column)
        yield _scraped("scrapes", table.labels, table.unix_ms[showing], spans)


def _traced(source: str, seen: Seen, spans: Spans) -> _Near:
    before_us, after_us = seen.at(spans.end_us)[0], seen.at(spans.start_us)[1]
    return _Near(source, seen.labels, before_us // 1000, after_us // 1000, TRACE_MARGIN_MS)


def _scraped(source: str, labels: Mapping[str, str], unix_ms: Times, spans: Spans) -> _Near:
    before = np.searchsorted(unix_ms, spans.end_ms, "right") - 1
    after = np.searchsorted(unix_ms, spans.start_ms)
    times = np.concatenate([[-(2**52)], unix_ms, [2**52]])
    return _Near(source, labels, times[before + 1], times[after + 1], MARGIN_MS)


def _ends(one: _Near, spans: Spans) -> tuple[Flags, Flags]:
    """Whether there is a sample up to the end that is near enough, and one from the start on."""
    return (
        one.before_end >= spans.start_ms - one.margin_ms,
        one.after_start <= spans.end_ms + one.margin_ms,
    )


def _reached(near: Sequence[_Near], spans: Spans) -> Flags:
    """Where the label sets of any one metric, taken together, reach into the window or across it."""
    either: dict[str, tuple[Flags, Flags]] = {}
    none = np.zeros(len(spans), np.bool_)
    for one in near:
        ends, before = _ends(one, spans), either.get(one.source, (none, none))
        either[one.source] = before[0] | ends[0], before[1] | ends[1]
    found = none.copy()
    for first, last in either.values():
        found |= first & last
    return found


def _chosen(near: Sequence[_Near], spans: Spans, reached: Flags) -> tuple[list[Flags], Index]:
    """Which label sets (n,) x (w,) speak for the GPU, and which of them has the newest sample."""
    if not near:
        return [], np.zeros(len(spans), np.int64)
    ends = [_ends(one, spans) for one in near]
    inside = np.stack([one[0] & one[1] for one in ends])
    some = np.stack([one[0] | one[1] for one in ends])
    choice = np.where(inside.any(axis=0), inside, some) & reached
    newest = np.stack(
        [np.where(end[0], one.before_end, one.after_start) for one, end in zip(near, ends, strict=True)]
    )
    return list(choice), np.argmax(np.where(choice, newest, -(2**60)), axis=0)


def _identity(
    own: Mapping[str, str],
    chosen: Sequence[Mapping[str, str]],
    infos: Sequence[Presence],
    within: Sequence[Presence],
) -> Identity:
    """Of several infos (a card that was renumbered, a pod that moved) the one that goes with the samples says
    name and scope; what lies in the window comes first.
    """
    labels = dict(own)
    for one in (*infos, *within):
        same = all(labels.get(name) in (None, one.labels.get(name)) for name in ("gpu", "instance"))
        labels = {**labels, **one.labels} if same else {**one.labels, **labels}
    every = (*chosen, *(one.labels for one in within))
    instances = {one.get("instance", "") for one in every}
    return Identity(labels, every or (labels,), tuple(sorted(instances - {""})))
