"""Which labels a GPU has in each window, whether it is present, its power limit and its highest gauge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from llem_integrator.energy.power.traces import MARGIN_MS as TRACE_MARGIN_MS
from llem_integrator.energy.power.traces import Seen
from llem_integrator.energy.readings import GpuReadings, NodeReadings
from llem_integrator.series import scrapes
from llem_integrator.series.samples import Flags, Floats, Times
from llem_integrator.series.scrapes import MARGIN_MS, Presence
from llem_integrator.series.spans import Index, Spans, group_alike
from llem_integrator.series.table import LIMIT, PEAK, WATTS

_PEAK_MS: Final = 60_000
"""llem_gpu_power_peak_watts is the highest power of this time before the scrape."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The labels of a GPU in a window, those of each of its series, and the instances that publish it."""

    labels: Mapping[str, str]
    every: tuple[Mapping[str, str], ...]
    instances: tuple[str, ...]

    @property
    def node(self) -> str:
        return self.labels.get("instance", "")


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of a GPU in windows (w,).

    `identity` is the number of its identity, -1 where it is absent. Watts are NaN where they are not known.
    """

    uuid: str
    identities: Sequence[Identity]
    identity: Index
    limit_watts: Floats
    peak_watts: Floats

    def take(self, windows: Index) -> "Facts":
        """Return what is known in some of the windows."""
        limits, peaks = self.limit_watts[windows], self.peak_watts[windows]
        return replace(self, identity=self.identity[windows], limit_watts=limits, peak_watts=peaks)


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """The samples of a label set next to the edges of windows (w,).

    `before_end` are the times of the last sample at or before the ends, and `after_start` those of the first
    sample at or after the starts.
    """

    source: str
    labels: Mapping[str, str]
    before_end: Times
    after_start: Times
    margin_ms: int


def facts(gpu: GpuReadings, spans: Spans) -> Facts:
    """Return what is known of a GPU.

    It is present in a window if any of its series has samples in it, or on both sides of it.
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
            chosen = [labelled.labels for labelled, mask in zip(near, choice, strict=True) if mask[row]]
            own = near[newest[row]].labels if chosen else {}
            identities.append(_identity(own, chosen, shown, within))
    # In the first minute of the window, the peak gauge may show a peak from before the window.
    peaks = np.fmax(gpu.highest(WATTS, spans), gpu.highest(PEAK, spans, delay_ms=_PEAK_MS))
    limits = gpu.highest(LIMIT, spans, MARGIN_MS)
    return Facts(gpu.uuid, identities, identity, limits, peaks)


def divided(gpu: GpuReadings, spans: Spans) -> Flags:
    """Return whether the GPU had MIG slices in windows (w,): in them, or both shortly before and after."""
    flags = np.zeros(len(spans), np.bool_)
    for presence in gpu.slices:
        is_before = presence.reaches(spans.start_ms - MARGIN_MS, spans.start_ms)
        is_after = presence.reaches(spans.end_ms, spans.end_ms + MARGIN_MS)
        flags |= presence.reaches(spans.start_ms, spans.end_ms) | (is_before & is_after)
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


def _ends(near: _Near, spans: Spans) -> tuple[Flags, Flags]:
    """Return whether a near sample exists at or before the end, and one at or after the start (w,)."""
    return (
        near.before_end >= spans.start_ms - near.margin_ms,
        near.after_start <= spans.end_ms + near.margin_ms,
    )


def _reached(near: Sequence[_Near], spans: Spans) -> Flags:
    """Return the windows (w,) that the label sets of any one source, taken together, reach into or across."""
    by_source: dict[str, tuple[Flags, Flags]] = {}
    none = np.zeros(len(spans), np.bool_)
    for labelled in near:
        ends, others = _ends(labelled, spans), by_source.get(labelled.source, (none, none))
        by_source[labelled.source] = others[0] | ends[0], others[1] | ends[1]
    reached = none.copy()
    for before_end, after_start in by_source.values():
        reached |= before_end & after_start
    return reached


def _chosen(near: Sequence[_Near], spans: Spans, reached: Flags) -> tuple[list[Flags], Index]:
    """Return which label sets (n,) x (w,) identify the GPU, and the number (w,) of the newest of them."""
    if not near:
        return [], np.zeros(len(spans), np.int64)
    ends = [_ends(labelled, spans) for labelled in near]
    inside = np.stack([before_end & after_start for before_end, after_start in ends])
    some = np.stack([before_end | after_start for before_end, after_start in ends])
    choice = np.where(inside.any(axis=0), inside, some) & reached
    newest = np.stack(
        [
            np.where(before_end, labelled.before_end, labelled.after_start)
            for labelled, (before_end, _) in zip(near, ends, strict=True)
        ]
    )
    return list(choice), np.argmax(np.where(choice, newest, -(2**60)), axis=0)


def _identity(
    own: Mapping[str, str],
    chosen: Sequence[Mapping[str, str]],
    infos: Sequence[Presence],
    within: Sequence[Presence],
) -> Identity:
    """Return the identity by the labels of the samples and those of infos with the same index and instance.

    There are several infos if a GPU was renumbered or a pod moved. Those in the window come first.
    """
    labels = dict(own)
    for info in (*infos, *within):
        is_same = all(labels.get(name) in (None, info.labels.get(name)) for name in ("gpu", "instance"))
        labels = {**labels, **info.labels} if is_same else {**info.labels, **labels}
    every = (*chosen, *(info.labels for info in within))
    instances = {series_labels.get("instance", "") for series_labels in every}
    return Identity(labels, every or (labels,), tuple(sorted(instances - {""})))
