"""The backends in order of priority, and the one choice among them, live and after the fact."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Backend(StrEnum):
    """Sources of joules; the order of declaration is the order of priority."""

    ZEUS = "zeus"
    NVML = "nvml"
    CODECARBON = "codecarbon"
    NONE = "none"


PRIORITY: tuple[Backend, ...] = tuple(Backend)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one backend can do for the GPUs asked for.

    `coverage` is that of its worst GPU and `mean_coverage` that over all of them (None: the same),
    from 0 to 1 (live: 1 where it works); `reason` says what it has or why it cannot be used.
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
    """The first candidate by priority that covers every GPU enough; else the one that covers most.

    Ties go by priority. Returns None where no candidate covers anything.
    """
    ranked = sorted(candidates, key=lambda candidate: PRIORITY.index(candidate.backend))
    usable = [candidate for candidate in ranked if candidate.usable]
    enough = (candidate for candidate in usable if candidate.coverage >= min_coverage)
    # max() keeps the first of equals, which is the one of higher priority.
    return next(enough, max(usable, key=lambda candidate: candidate.covered, default=None))
