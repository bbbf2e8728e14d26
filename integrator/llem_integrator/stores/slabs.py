"""Cuts a range of time into slabs of about equal numbers of samples, shortened at a server's limits."""

import re
from collections.abc import Callable, Generator
from typing import Final, TypeVar

from llem_core.errors import SourceError
from llem_integrator.http.client import SHOWN_REASON, Answer

TARGET_SAMPLES: Final = 1_000_000
"""16 MB as arrays; two slabs are held at once."""
_FIRST_MS: Final = 600_000
"""The length of the first slab: it has the target's number of samples for 160 GPUs at 10 Hz."""
_SHORTEST_MS: Final = 1000
_GROWTH: Final = 16
_CAREFUL_GROWTH: Final = 2
_ROUNDING: Final = 1.25
"""A last slab of less than this share of the length is not cut off: another request costs more."""

_REFUSALS: Final = (400, 413, 422, 500)
_LIMIT: Final = re.compile(
    r"\blimits?\b|(?<!deadline )exceed|too (many|much|large)|larger than|maximum number|max[A-Z]|max-"
)

Item = TypeVar("Item")


class TooMuchError(Exception):
    """The samples of a slab are more than a limit, of the server or of this program, allows at once."""


def refuse_too_much(answer: Answer) -> None:
    """Raise TooMuchError if the answer says that a query exceeds a limit of the server.

    Source: the messages of Prometheus ("query processing would load too many samples", "exceeded sample
    limit"), Mimir ("exceeds the limit (err-mimir-max-total-query-length)", "exceeded the maximum number of
    chunks"), Cortex ("the query hit the max number of samples limit"), Thanos ("limit 1000 violated") and
    VictoriaMetrics ("-search.maxSamplesPerQuery").
    """
    if answer.status in _REFUSALS and _LIMIT.search(answer.reason):
        raise TooMuchError(f"{answer.status}: {answer.reason[:SHOWN_REASON]}")


class Slabs:
    """Cuts [start_ms, end_ms] into ascending slabs of about `target` samples each."""

    def __init__(
        self, start_ms: int, end_ms: int, target: int = TARGET_SAMPLES, first_ms: int = _FIRST_MS
    ) -> None:
        self._at, self._end_ms, self._target = start_ms, end_ms, target
        self._length_ms, self._growth = first_ms, _GROWTH

    @property
    def limit(self) -> int:
        """The number of samples above which a slab is shortened and read again."""
        return 2 * self._target

    def next(self) -> tuple[int, int] | None:
        """Return the first and last ms of the slab to read now, or None at the end."""
        if self._at > self._end_ms:
            return None
        left_ms, length_ms = self._end_ms - self._at + 1, self._length_ms
        return self._at, self._at + (left_ms if left_ms < _ROUNDING * length_ms else length_ms) - 1

    def taken(self, samples: int) -> int:
        """Go on after the slab, which had so many samples; return how many to expect of the rest."""
        start_ms, end_ms = self.next() or (0, 0)
        length_ms = end_ms - start_ms + 1
        self._at = end_ms + 1
        fitting_ms = length_ms * self._target // max(samples, 1)
        self._length_ms = max(_SHORTEST_MS, min(length_ms * self._growth, fitting_ms))
        return samples * max(0, self._end_ms - end_ms) // length_ms

    def shorten(self) -> bool:
        """Cut the slab, which is too much at once, to a quarter; return whether it could be shorter."""
        start_ms, end_ms = self.next() or (0, 0)
        length_ms = end_ms - start_ms + 1
        self._length_ms = max(_SHORTEST_MS, length_ms // 4)
        # A limit on the length of queries holds for the rest as well, one on samples only here.
        self._growth = _CAREFUL_GROWTH
        return length_ms > _SHORTEST_MS


def in_slabs(
    slabs: Slabs, read: Callable[[int, int, int], tuple[Item, int]], what: str
) -> Generator[Item, None, None]:
    """Yield what `read` returns for each slab, of which it gets the first and last ms and the limit.

    `read` also returns the number of samples, and raises TooMuchError for a slab that must be shorter. `what`
    names the store and the samples in the SourceError for a slab that cannot be shorter.
    """
    while bounds := slabs.next():
        try:
            item, samples = read(*bounds, slabs.limit)
        except TooMuchError as exc:
            if not slabs.shorten():
                raise SourceError(f"{what} cannot be read even in parts of 1 s: {exc}") from exc
            continue
        slabs.taken(samples)
        yield item
