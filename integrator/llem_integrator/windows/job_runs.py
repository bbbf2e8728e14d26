"""The stretches of a job that was requeued, moved or resized: where scrapes show that it ran."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Final

import numpy as np

from llem_integrator.series.samples import Times

SLACK_MS: Final = 120_000
"""Prologs and scrapes of a job's nodes are not at one time; so far apart they still begin or end together."""


@dataclass(frozen=True, slots=True)
class Run:
    """A GPU from the first scrape that saw the job on it to the last, none in between having seen it without.

    `free_before_ms` and `free_after_ms` are scrapes that did, further away than the slack.
    """

    uuid: str
    start_ms: int
    end_ms: int
    free_before_ms: float = -inf
    free_after_ms: float = inf


@dataclass(slots=True)
class Stretch:
    """Runs that are one stretch of a job: none of their GPUs is known to have been without it for long."""

    start_ms: int
    end_ms: int
    uuids: dict[str, None]
    free_before_ms: float
    free_after_ms: float

    def takes(self, run: Run) -> bool:
        """Whether the run was a part of it, which it then is."""
        start_ms, end_ms = min(self.start_ms, run.start_ms), max(self.end_ms, run.end_ms)
        before_ms = max(self.free_before_ms, run.free_before_ms)
        after_ms = min(self.free_after_ms, run.free_after_ms)
        if run.uuid in self.uuids or start_ms <= before_ms or end_ms >= after_ms:
            return False
        self.start_ms, self.end_ms = start_ms, end_ms
        self.free_before_ms, self.free_after_ms = before_ms, after_ms
        self.uuids[run.uuid] = None
        return True


def runs(uuid: str, seen_ms: Times, free_ms: Times) -> Iterator[Run]:
    """The runs of a GPU by the scrapes that saw the job on it, and those that saw it without; both ascend."""
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


def stretches(every: Iterable[Run]) -> Sequence[Stretch]:
    """The stretches that runs make up, in the order of their starts."""
    found: list[Stretch] = []
    for run in sorted(every, key=lambda run: (run.start_ms, run.uuid)):
        if not any(one.takes(run) for one in reversed(found)):
            found.append(
                Stretch(run.start_ms, run.end_ms, {run.uuid: None}, run.free_before_ms, run.free_after_ms)
            )
    return found
