"""The backends in order of priority, and the choice among them, for live and for stored data."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Backend(StrEnum):
    """The backends that measure energy, in order of priority."""

    ZEUS = "zeus"
    NVML = "nvml"
    CODECARBON = "codecarbon"
    NONE = "none"


PRIORITY: tuple[Backend, ...] = tuple(Backend)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one backend can measure of the requested GPUs.

    `coverage` is the lowest coverage of any GPU, from 0 to 1. `mean_coverage` is the mean over all GPUs; None
    means that it equals `coverage`. Live, a backend that works has coverage 1. `reason` says what the backend
    measures, or why it cannot be used.
    """

    backend: Backend
    coverage: float
    reason: str
    mean_coverage: float | None = None

    @property
    def covered(self) -> float:
        return self.coverage if self.mean_coverage is None else self.mean_coverage

    @property
    def usable(self) -> bool:
        return self.covered > 0


def choose(candidates: Iterable[Candidate], min_coverage: float = 1.0) -> Candidate | None:
    """Return the highest-priority candidate whose coverage is at least `min_coverage`.

    If there is none, return the candidate with the highest mean coverage. Return None if no candidate covers
    anything.
    """
    ranked = sorted(candidates, key=lambda candidate: PRIORITY.index(candidate.backend))
    usable = [candidate for candidate in ranked if candidate.usable]
    enough = (candidate for candidate in usable if candidate.coverage >= min_coverage)
    # max() keeps the first of equals, which is the one of higher priority.
    return next(enough, max(usable, key=lambda candidate: candidate.covered, default=None))
