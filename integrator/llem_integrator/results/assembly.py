"""From what was read of GPUs and nodes to the windows' results."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from llem_core import metrics
from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.energy import codecarbon
from llem_integrator.energy.backends import GpuMeasuring, measure, measure_zeus
from llem_integrator.energy.group import Group
from llem_integrator.energy.identity import Facts, Identity, divided, facts, node_shown
from llem_integrator.energy.integral import Integrals
from llem_integrator.energy.readings import NodeReadings
from llem_integrator.results import nodes as node
from llem_integrator.results.fields import Considered, GpuEnergy, WindowResult
from llem_integrator.results.gpu_rows import Measured
from llem_integrator.results.nodes import NodeAnswer
from llem_integrator.results.request import Request
from llem_integrator.series.samples import Flags
from llem_integrator.series.spans import Index, group_alike
from llem_integrator.windows.hosts import Hosts
from llem_integrator.windows.window import Window

_OF_GPUS = frozenset(metrics.GPU_INFO.labels)
_DIVIDED = "a GPU on the job's hosts was divided into MIG slices, and nothing measures a slice"

_Options = tuple[tuple[str, ...], int | None, Hosts | None, str | None]


def zeus_is_short(group: Group, request: Request) -> Flags:
    """Return the windows (w,) in which zeus covers too little of any GPU, so that nvml may be chosen."""
    short = np.zeros(len(group.rows), np.bool_)
    for gpu in group.gpus.values():
        known = facts(gpu, group.spans)
        rows = np.flatnonzero(known.identity >= 0)
        if len(rows):
            found = measure_zeus(measuring(group, known, request).take(rows))
            coverage = np.zeros(len(rows)) if found is None else found.coverage
            short[rows] |= coverage < request.min_coverage
    return short


def measuring(group: Group, known: Facts, request: Request) -> GpuMeasuring:
    """Return what is known to measure a GPU by."""
    gpu = group.gpus[known.uuid]
    return GpuMeasuring(
        gpu,
        known,
        group.spans,
        group.is_read_whole(),
        group.intervals,
        request.max_gap_ms,
        request.min_coverage,
    )


@dataclass(frozen=True, slots=True)
class Answers:
    """The windows of a group. Those with the same GPUs and the same wishes go together."""

    group: Group
    request: Request
    source_warnings: Sequence[str]

    def results(self) -> list[WindowResult]:
        """Return one a window, in their order."""
        group, request = self.group, self.request
        every = [facts(gpu, group.spans) for gpu in group.gpus.values()]
        by_uuid = {
            known.uuid: measure(measuring(group, known, request))
            for known in every
            if np.any(known.identity >= 0)
        }
        shown = {name: node_shown(node, group.spans) for name, node in group.nodes.items()}
        options = [self._options(window) for window in group.windows]
        numbers = {option: number for number, option in enumerate(dict.fromkeys(options))}
        wishes = np.array([numbers[option] for option in options])
        examples, kind = group_alike([wishes, *(known.identity for known in every), *shown.values()])
        found: list[WindowResult | None] = [None] * len(group.windows)
        for number, row in enumerate(examples.tolist()):
            rows = np.flatnonzero(kind == number)
            there = {
                known.uuid: known.identities[int(known.identity[row])]
                for known in every
                if known.identity[row] >= 0
            }
            nodes = [name for name, mask in shown.items() if mask[row]]
            alike = _Alike(self, rows, options[row], every, by_uuid)
            for place, result in zip(rows.tolist(), alike.results(there, nodes), strict=True):
                found[place] = result
        return [result for result in found if result is not None]

    def _options(self, window: Window) -> _Options:
        gpus = self.request.gpus if window.gpus is None else window.gpus
        return gpus, window.gpu_count, window.hosts, window.gpus_unknown


@dataclass(frozen=True, slots=True)
class _Alike:
    """Windows in which the same GPUs and nodes are there, under the same names, and the same is asked."""

    answers: Answers
    rows: Index
    options: _Options
    facts: Sequence[Facts]
    by_uuid: dict[str, dict[Backend, Integrals]]

    def results(self, gpus: dict[str, Identity], nodes: Sequence[str]) -> Iterator[WindowResult]:
        tokens, count, hosts, unknown = self.options
        _check(tokens, gpus)
        warnings = [
            MeasurementWarning(WarningCode.SOURCE_WARNING, text) for text in self.answers.source_warnings
        ]
        missing = [
            f"GPU {token}" for token in tokens if not any(_is_asked(*one, (token,)) for one in gpus.items())
        ]
        unseen = hosts.unseen(labels for one in gpus.values() for labels in one.every) if hosts else []
        if unseen:
            more = f" and {len(unseen) - 1} more hosts" if len(unseen) > 1 else ""
            missing.append(f"GPU of {unseen[0]}{more}")
        texts = [f"no {what} in the window" for what in missing]
        if count is not None and 0 < len(gpus) < count:
            texts.append(f"the job had {count} GPUs, and the source shows {len(gpus)} on its hosts")
        warnings += [MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, text) for text in texts]
        by_node = self._nodes(gpus, tokens, nodes)
        complete = not missing and (count is None or len(gpus) >= count)
        # As many as it had are not those it had, if a host of it shows none.
        if unknown is None and count is not None and len(gpus) >= count + (not unseen):
            unknown = f"the job had {count} of these {len(gpus)} GPUs, and nothing says which"
        in_slices = self._divided(gpus) if count is not None else np.zeros(len(self.rows), np.bool_)
        considered = _Considering(self.answers.request)
        by_window = zip(*by_node, strict=True) if by_node else repeat(())
        for row, sliced, nodes_answers in zip(self.rows.tolist(), in_slices, by_window, strict=False):
            result = _result(
                self.answers.group.windows[row],
                nodes_answers,
                considered.of(nodes_answers),
                warnings,
                complete,
            )
            reason = _DIVIDED if sliced and unknown is None else unknown
            yield _unknown(result, reason) if reason is not None else result

    def _divided(self, uuids: Iterable[str]) -> Flags:
        """Return whether any of the GPUs had MIG slices in each window (w,)."""
        group = self.answers.group
        spans = group.spans.take(self.rows)
        flags = np.zeros(len(spans), np.bool_)
        for uuid in uuids:
            flags |= divided(group.gpus[uuid], spans)
        return flags

    def _nodes(
        self, gpus: dict[str, Identity], tokens: tuple[str, ...], nodes: Sequence[str]
    ) -> list[list[NodeAnswer]]:
        """The answers of each node with GPUs asked for, or where there is no GPU at all, CodeCarbon's."""
        by_node: defaultdict[str, list[str]] = defaultdict(list)
        for uuid in sorted(gpus, key=lambda uuid: _place(uuid, gpus[uuid])):
            by_node[gpus[uuid].node].append(uuid)
        found = []
        for name, uuids in by_node.items():
            asked = [uuid for uuid in uuids if _is_asked(uuid, gpus[uuid], tokens)]
            if asked:
                found.append(self._node(name, uuids, asked, gpus))
        if by_node or tokens:
            return found
        group, request = self.answers.group, self.answers.request
        spans = group.spans.take(self.rows)
        unknown = np.full(len(spans), np.nan)
        for name in sorted(nodes):
            carbon = codecarbon.measure(group.nodes[name], spans, request.max_gap_ms, unknown)
            found.append(node.without_gpus(carbon, spans, request))
        return found

    def _node(
        self, name: str, uuids: Sequence[str], asked: Sequence[str], gpus: dict[str, Identity]
    ) -> list[NodeAnswer]:
        group, request, rows = self.answers.group, self.answers.request, self.rows
        spans = group.spans.take(rows)
        limits = np.sum([one.limit_watts[rows] for one in self.facts if one.uuid in uuids], axis=0)
        readings = group.nodes.get(name, NodeReadings(name))
        carbon = codecarbon.measure(readings, spans, request.max_gap_ms, limits)
        # Matchers of GPUs leave others of the node unseen.
        every = not any(one.label in _OF_GPUS for selector in group.selectors for one in selector)
        measured = []
        for one in sorted(
            (one for one in self.facts if one.uuid in asked), key=lambda one: asked.index(one.uuid)
        ):
            by_backend = dict(self.by_uuid[one.uuid])
            if len(rows) < len(group.spans):
                by_backend = {backend: found.take(rows) for backend, found in by_backend.items()}
            if len(uuids) == 1 and every and carbon.gpu is not None:  # it is all that CodeCarbon counted
                by_backend[Backend.CODECARBON] = carbon.gpu
            bad, conflicts = group.gpus[one.uuid].fault_counts(spans)
            measured.append(
                Measured(one.uuid, gpus[one.uuid], by_backend, one.peak_watts[rows], bad, conflicts)
            )
        whole = len(asked) == len(uuids) and every
        return node.of_gpus(measured, carbon, spans, request, whole=whole)


def _is_asked(uuid: str, identity: Identity, tokens: Sequence[str]) -> bool:
    """Whether a token is the GPU's index, its UUID or the start of its UUID, or there are no tokens."""
    by_uuid = any(uuid.startswith(token) for token in tokens if not token.isdecimal())
    return not tokens or by_uuid or identity.labels.get("gpu") in tokens


def _check(tokens: Sequence[str], uuids: Collection[str]) -> None:
    """Raise ConfigError if a token is the start of several UUIDs."""
    for token in tokens:
        matches = sorted(uuid for uuid in uuids if uuid.startswith(token))
        if len(matches) > 1 and token not in uuids and not token.isdecimal():
            raise ConfigError(f"--gpus: {token!r} matches several GPUs: {', '.join(matches)}")


def _place(uuid: str, identity: Identity) -> tuple[str, int, str]:
    index = identity.labels.get("gpu", "")
    return identity.node, int(index) if index.isdecimal() else 0, uuid


def nothing_asked(window: Window) -> WindowResult:
    """The result of `--backend none`: no joules, and nothing wrong."""
    return replace(_result(window, [], (), [], complete=True), valid=True, reasons=())


def _result(
    window: Window,
    answers: Sequence[NodeAnswer],
    considered: tuple[Considered, ...],
    warnings: Sequence[MeasurementWarning],
    complete: bool,
) -> WindowResult:
    whole = answers[0] if len(answers) == 1 else _together(answers)
    reasons = whole.reasons
    if not (answers and complete):
        reasons = tuple(dict.fromkeys((*reasons, "no_data")))
    return WindowResult(
        name=window.name,
        start=window.start_us / 1e6,
        end=window.end_us / 1e6,
        duration_sec=window.duration_s,
        valid=not reasons,
        reasons=reasons,
        backend=str(whole.backend),
        scope=whole.scope,
        total_j=whole.joules if complete else None,
        per_gpu_j=dict(whole.per_gpu_j),
        gpus=whole.gpus,
        considered=considered,
        warnings=(*window.warnings, *warnings, *whole.warnings),
    )


def _together(answers: Sequence[NodeAnswer]) -> NodeAnswer:
    """Several nodes' answers, or none, as one."""
    joules = [answer.joules for answer in answers if answer.joules is not None]
    backends = {answer.backend for answer in answers} or {Backend.NONE}
    return NodeAnswer(
        backend=backends.pop() if len(backends) == 1 else "mixed",
        scope=answers[0].scope if answers else "gpu",  # there are nodes without GPUs only if no node has one
        joules=math.fsum(joules) if answers and len(joules) == len(answers) else None,
        candidates=(),
        per_gpu_j={uuid: joules for answer in answers for uuid, joules in answer.per_gpu_j.items()},
        gpus=tuple([gpu for answer in answers for gpu in answer.gpus]),
        reasons=tuple(dict.fromkeys([reason for answer in answers for reason in answer.reasons])),
        warnings=tuple([warning for answer in answers for warning in answer.warnings]),
    )


def _unknown(result: WindowResult, reason: str) -> WindowResult:
    """Return the result without joules, because nobody knows which GPUs the job had."""
    said = MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, reason)
    return replace(
        result,
        valid=False,
        reasons=("gpus_unknown", *result.reasons),
        total_j=None,
        per_gpu_j=dict.fromkeys(result.per_gpu_j),
        gpus=tuple(_without_joules(gpu) for gpu in result.gpus),
        warnings=(said, *result.warnings),
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


class _Considering:
    """What is said of the backends: one line each, that of the node where it covers least."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._known: dict[tuple[tuple[int, str], ...], tuple[Considered, ...]] = {}

    def of(self, answers: Sequence[NodeAnswer]) -> tuple[Considered, ...]:
        key = tuple([(id(answer.candidates), answer.backend) for answer in answers])
        if key not in self._known:
            self._known[key] = tuple(self._considered(answers))
        return self._known[key]

    def _considered(self, answers: Sequence[NodeAnswer]) -> Iterator[Considered]:
        by_backend: defaultdict[Backend, list[Candidate]] = defaultdict(list)
        for answer in answers:
            for candidate in answer.candidates:
                by_backend[candidate.backend].append(candidate)
        chosen = {answer.backend for answer in answers}
        for backend, candidates in by_backend.items():
            worst = min(candidates, key=lambda candidate: candidate.coverage)
            reason, usable = worst.reason, worst.coverage > 0
            if usable and backend not in chosen:
                short = worst.coverage < self._request.min_coverage
                reason += ": less than another" if short else ": passed over for one of higher priority"
            yield Considered(backend, usable, reason)
