"""What a store of samples is to the integrator."""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import numpy as np

from llem_integrator.series import Series, Values
from llem_integrator.sources.matchers import Selector

Progress = Callable[[float], None]
"""Told the share of a fetch that is done, from 0 to 1."""

_LARGEST: Final = 1e15
"""No sample of ours is larger: at 100 kW a counter of joules would take 300 years to get there."""


def plausible(values: Values) -> Values:
    """Values (n,) as they are, NaN for what is larger than any of ours: sums of those end at infinity."""
    return np.where(np.abs(values) > _LARGEST, np.nan, values)


class Source(Protocol):
    """A store of samples. Both methods raise SourceError, and return nothing for what is not there."""

    @property
    def address(self) -> str:
        """Where it is, without secrets."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the store itself said of its answers so far."""
        ...

    def samples(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterable[Series]:
        """Every sample in [start_ms, end_ms], one clean Series a label set."""
        ...

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: str
    ) -> Iterable[Series]:
        """One value a label set: of its samples in [start_ms, end_ms] the "last" or the "max"."""
        ...
