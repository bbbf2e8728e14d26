"""From what was read for a group of windows to the result of each window."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from llem_core import metrics
from llem_core.backend import Backend
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.energy import codecarbon
from llem_integrator.energy.backends import measure, measure_zeus
from llem_integrator.energy.group import Group
from llem_integrator.energy.identity import Facts, Identity, divided, facts, node_shown
from llem_integrator.energy.measuring import GpuMeasuring
from llem_integrator.energy.readings import NodeReadings
from llem_integrator.energy.window_energy import Integrals
from llem_integrator.results import nodes
from llem_integrator.results.choice import considered
from llem_integrator.results.fields import GpuEnergy, WindowResult
from llem_integrator.results.gpu_rows import MeasuredGpu
from llem_integrator.results.nodes import NodeResult
from llem_integrator.results.request import Request
from llem_integrator.results.selection import Selection, selection_of
from llem_integrator.series.samples import Flags
from llem_integrator.series.spans import Index, Spans, group_alike
from llem_integrator.windows.window import Window

_GPU_LABELS = frozenset(metrics.GPU_INFO.labels)
_DIVIDED = "a GPU on the hosts of the job was divided into MIG slices, whose energy is not measured"


def zeus_is_short(group: Group, request: Request) -> Flags:
    """Return the windows (w,) in which zeus covers too little of any GPU, so that nvml may be chosen."""
    short = np.zeros(len(group.rows), np.bool_)
    for gpu in group.gpus.values():
        known = facts(gpu, group.spans)
        rows = np.flatnonzero(known.identity >= 0)
        if len(rows):
            energy = measure_zeus(_measuring(group, known, request).take(rows))
            coverage = np.zeros(len(rows)) if energy is None else energy.coverage
            short[rows] |= coverage < request.min_coverage
    return short


def _measuring(group: Group, known: Facts, request: Request) -> GpuMeasuring:
    return GpuMeasuring(
        group.gpus[known.uuid],
        known,
        group.spans,
        group.is_read_whole(),
        group.intervals,
        request.max_gap_ms,
        request.min_coverage,
    )


def assemble(group: Group, request: Request, source_warnings: Sequence[str]) -> list[WindowResult]:
    """Return the result of each window of a group, in their order.

    Windows with the same GPUs, nodes and selection are assembled together.
    """
    every = [facts(gpu, group.spans) for gpu in group.gpus.values()]
    present = [known for known in every if np.any(known.identity >= 0)]
    by_uuid = {known.uuid: measure(_measuring(group, known, request)) for known in present}
    shown = {name: node_shown(node, group.spans) for name, node in group.nodes.items()}
    selections = [selection_of(window, request) for window in group.windows]
    numbers = {selection: number for number, selection in enumerate(dict.fromkeys(selections))}
    selected = np.array([numbers[selection] for selection in selections])
    examples, kind = group_alike([selected, *(known.identity for known in present), *shown.values()])
    results: dict[int, WindowResult] = {}
    for number, example in enumerate(examples.tolist()):
        rows = np.flatnonzero(kind == number)
        gpus = {
            known.uuid: known.identities[int(known.identity[example])]
            for known in present
            if known.identity[example] >= 0
        }
        node_names = [name for name, is_shown in shown.items() if is_shown[example]]
        selections[example].check(gpus)
        alike = _AlikeWindows(group, request, selections[example], rows, gpus, node_names)
        results |= alike.results(present, by_uuid, source_warnings)
    return [results[row] for row in range(len(group.windows))]


@dataclass(frozen=True, slots=True)
class _AlikeWindows:
    """Windows `rows` (w,) of a group with the same GPUs under the same names, nodes, and selection."""

    group: Group
    request: Request
    selection: Selection
    rows: Index
    gpus: Mapping[str, Identity]
    node_names: Sequence[str]

    @property
    def spans(self) -> Spans:
        return self.group.spans.take(self.rows)

    def results(
        self,
        present: Sequence[Facts],
        by_uuid: Mapping[str, Mapping[Backend, Integrals]],
        source_warnings: Sequence[str],
    ) -> Iterator[tuple[int, WindowResult]]:
        """Yield the number and the result of each window."""
        gpu_count = self.selection.gpu_count
        missing = self.selection.missing(self.gpus)
        is_complete = not missing and (gpu_count is None or len(self.gpus) >= gpu_count)
        if gpu_count is not None and 0 < len(self.gpus) < gpu_count:
            missing.append(
                f"the job had {gpu_count} GPUs, but the source has only {len(self.gpus)} on its hosts, so "
                "there is no total (is every host scraped, and does --match exclude some?)"
            )
        warnings = [MeasurementWarning(WarningCode.SOURCE_WARNING, text) for text in source_warnings]
        warnings += [MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, text) for text in missing]
        unknown = self.selection.why_unknown(self.gpus)
        in_slices = self._in_slices()
        by_node = self._node_results(present, by_uuid)
        by_window = zip(*by_node, strict=True) if by_node else repeat(())
        for row, is_sliced, of_nodes in zip(self.rows.tolist(), in_slices, by_window, strict=False):
            result = _window_result(
                self.group.windows[row], of_nodes, warnings, self.request, is_complete=is_complete
            )
            reason = unknown or (_DIVIDED if is_sliced else None)
            yield row, result if reason is None else _gpus_unknown(result, reason)

    def _in_slices(self) -> Flags:
        """Return the windows (w,) of a job on GPUs of which any had MIG slices."""
        flags = np.zeros(len(self.rows), np.bool_)
        if self.selection.gpu_count is not None:
            for uuid in self.gpus:
                flags |= divided(self.group.gpus[uuid], self.spans)
        return flags

    def _node_results(
        self, present: Sequence[Facts], by_uuid: Mapping[str, Mapping[Backend, Integrals]]
    ) -> list[list[NodeResult]]:
        """Return the results of each node with selected GPUs, or of nodes without GPUs if there is no GPU."""
        by_node: defaultdict[str, list[str]] = defaultdict(list)
        for uuid in sorted(self.gpus, key=self._place):
            by_node[self.gpus[uuid].node].append(uuid)
        if by_node or self.selection.tokens:
            known = {facts.uuid: facts for facts in present}
            results = (self._of_gpus(name, uuids, known, by_uuid) for name, uuids in by_node.items())
            return [of_node for of_node in results if of_node]
        unlimited = np.full(len(self.rows), np.nan)
        max_gap_ms = self.request.max_gap_ms
        return [
            nodes.without_gpus(
                codecarbon.measure(self.group.nodes[name], self.spans, max_gap_ms, unlimited),
                self.spans,
                self.request,
            )
            for name in sorted(self.node_names)
        ]

    def _place(self, uuid: str) -> tuple[str, int, str]:
        index = self.gpus[uuid].labels.get("gpu", "")
        return self.gpus[uuid].node, int(index) if index.isdecimal() else 0, uuid

    def _of_gpus(
        self,
        name: str,
        uuids: Sequence[str],
        known: Mapping[str, Facts],
        by_uuid: Mapping[str, Mapping[Backend, Integrals]],
    ) -> list[NodeResult]:
        """Return the results of a node, none if none of its GPUs is selected."""
        selected = [uuid for uuid in uuids if self.selection.selects(uuid, self.gpus[uuid])]
        if not selected:
            return []
        limit_watts = np.sum([known[uuid].limit_watts[self.rows] for uuid in uuids], axis=0)
        readings = self.group.nodes.get(name, NodeReadings(name))
        carbon = codecarbon.measure(readings, self.spans, self.request.max_gap_ms, limit_watts)
        # If matchers select by GPU, the node may have others.
        every = not any(each.label in _GPU_LABELS for selector in self.group.selectors for each in selector)
        only_gpu = carbon.gpu if len(uuids) == 1 and every else None
        gpus = [self._measured(known[uuid], by_uuid[uuid], only_gpu) for uuid in selected]
        are_all = every and len(selected) == len(uuids)
        return nodes.of_gpus(gpus, carbon, self.spans, self.request, are_all=are_all)

    def _measured(
        self, known: Facts, by_backend: Mapping[Backend, Integrals], carbon: Integrals | None
    ) -> MeasuredGpu:
        """Return what was measured of a GPU; `carbon` is that of CodeCarbon if it concerns only this GPU."""
        uuid, is_all = known.uuid, len(self.rows) == len(self.group.spans)
        energies = {
            backend: energy if is_all else energy.take(self.rows) for backend, energy in by_backend.items()
        }
        if carbon is not None:
            energies[Backend.CODECARBON] = carbon
        bad, conflicts = self.group.gpus[uuid].fault_counts(self.spans)
        peak_watts = known.peak_watts[self.rows]
        return MeasuredGpu(uuid, self.gpus[uuid], energies, peak_watts, bad, conflicts)


def without_backend(window: Window, request: Request) -> WindowResult:
    """Return the result for `--backend none`: it has no joules, and is valid."""
    result = _window_result(window, [], [], request, is_complete=True)
    return replace(result, valid=True, reasons=())


def _window_result(
    window: Window,
    of_nodes: Sequence[NodeResult],
    warnings: Sequence[MeasurementWarning],
    request: Request,
    *,
    is_complete: bool,
) -> WindowResult:
    """Return the result of a window as the sum over its nodes."""
    choices = [node.choice for node in of_nodes]
    backends = {choice.backend for choice in choices} or {Backend.NONE}
    joules = [node.joules for node in of_nodes if node.joules is not None]
    is_known = is_complete and bool(of_nodes) and len(joules) == len(of_nodes)
    gpus = tuple([gpu for node in of_nodes for gpu in node.gpus])
    reasons = [reason for node in of_nodes for reason in node.reasons]
    if not (of_nodes and is_complete):
        reasons.append("no_data")
    return WindowResult(
        name=window.name,
        start=window.start_us / 1e6,
        end=window.end_us / 1e6,
        duration_sec=window.duration_s,
        valid=not reasons,
        reasons=tuple(dict.fromkeys(reasons)),
        backend=str(backends.pop()) if len(backends) == 1 else "mixed",
        # Nodes without GPUs have results only if no node has a GPU.
        scope=of_nodes[0].scope if of_nodes else "gpu",
        total_j=math.fsum(joules) if is_known else None,
        per_gpu_j={gpu.uuid: gpu.joules for gpu in gpus},
        gpus=gpus,
        considered=considered(choices, request.min_coverage),
        warnings=(*window.warnings, *warnings, *(warning for node in of_nodes for warning in node.warnings)),
    )


def _gpus_unknown(result: WindowResult, reason: str) -> WindowResult:
    """Return the result without joules, because nobody knows which GPUs the job had."""
    return replace(
        result,
        valid=False,
        reasons=("gpus_unknown", *result.reasons),
        total_j=None,
        per_gpu_j=dict.fromkeys(result.per_gpu_j),
        gpus=tuple(_without_joules(gpu) for gpu in result.gpus),
        warnings=(MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, reason), *result.warnings),
    )


def _without_joules(gpu: GpuEnergy) -> GpuEnergy:
    return gpu._replace(
        joules=None,
        joules_low=None,
        joules_high=None,
        mean_watts=None,
        joules_by_backend={},
        emissions_g=None,
    )
