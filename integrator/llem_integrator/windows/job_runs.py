"""The stretches of a job that was requeued, moved or resized, by the scrapes that saw it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Final

import numpy as np

from llem_integrator.series.samples import Times

SLACK_MS: Final = 120_000
"""The prologs and scrapes of a job's nodes are not simultaneous. Runs this close together are one stretch."""


@dataclass(frozen=True, slots=True)
class Run:
    """A job on one GPU, from the first scrape that saw it to the last, with no scrape between that did not.

    `free_before_ms` and `free_after_ms` are the nearest scrapes without the job, further away than the slack.
    """

    uuid: str
    start_ms: int
    end_ms: int
    free_before_ms: float = -inf
    free_after_ms: float = inf


@dataclass(slots=True)
class Stretch:
    """Runs of a job that belong together: none of their GPUs was without the job for long."""

    start_ms: int
    end_ms: int
    free_before_ms: float
    free_after_ms: float
    runs: dict[str, Run] = field(default_factory=dict)
    """By UUID."""

    @classmethod
    def of(cls, run: Run) -> "Stretch":
        return cls(run.start_ms, run.end_ms, run.free_before_ms, run.free_after_ms, {run.uuid: run})

    def takes(self, run: Run) -> bool:
        """Return whether the run belongs to the stretch, and add it if so."""
        start_ms, end_ms = min(self.start_ms, run.start_ms), max(self.end_ms, run.end_ms)
        before_ms = max(self.free_before_ms, run.free_before_ms)
        after_ms = min(self.free_after_ms, run.free_after_ms)
        if run.uuid in self.runs or start_ms <= before_ms or end_ms >= after_ms:
            return False
        self.start_ms, self.end_ms = start_ms, end_ms
        self.free_before_ms, self.free_after_ms = before_ms, after_ms
        self.runs[run.uuid] = run
        return True


def runs(uuid: str, seen_ms: Times, free_ms: Times) -> Iterator[Run]:
    """Yield the runs of a job on a GPU.

    `seen_ms` are the scrapes that saw the job on it, and `free_ms` those that saw the GPU without the job.
    Both are ascending.
    """
    breaks = np.flatnonzero(np.diff(np.searchsorted(free_ms, seen_ms))) + 1
    for first, stop in pairwise([0, *breaks.tolist(), len(seen_ms)]):
        start_ms, end_ms = int(seen_ms[first]), int(seen_ms[stop - 1])
        before, after = np.searchsorted(free_ms, [start_ms - SLACK_MS, end_ms + SLACK_MS]).tolist()
        yield Run(
            uuid,
            start_ms,
            end_ms,
            float(free_ms[before - 1]) if before else -inf,
            float(free_ms[after]) if after < len(free_ms) else inf,
        )


def stretches(job_runs: Iterable[Run]) -> Sequence[Stretch]:
    """Return the stretches of a job in the order of their starts."""
    ordered: list[Stretch] = []
    for run in sorted(job_runs, key=lambda run: (run.start_ms, run.uuid)):
        if not any(stretch.takes(run) for stretch in reversed(ordered)):
            ordered.append(Stretch.of(run))
    return ordered
