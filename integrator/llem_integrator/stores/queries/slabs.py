"""Cuts a range of time into slabs of about equal numbers of samples, shortened at a server's limits."""

import math
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
_LENGTH_LIMIT: Final = re.compile(r"time range exceeds|query length")

Item = TypeVar("Item")


class TooMuchError(Exception):
    """The samples of a slab are more than a limit, of the server or of this program, allows at once."""


class TooLongError(TooMuchError):
    """A slab is longer than the server allows, however few samples it has."""


def refuse_too_much(answer: Answer) -> None:
    """Raise TooMuchError if the answer says that a query exceeds a limit of the server.

    A limit on the length of queries raises TooLongError.

    Source: the messages of Prometheus ("query processing would load too many samples", "exceeded sample
    limit"), Mimir ("exceeds the limit (err-mimir-max-total-query-length)", "exceeded the maximum number of
    chunks"), Cortex ("the query hit the max number of samples limit"), Thanos ("limit 1000 violated") and
    VictoriaMetrics ("-search.maxSamplesPerQuery").
    """
    if answer.status in _REFUSALS and _LIMIT.search(answer.reason):
        error = TooLongError if _LENGTH_LIMIT.search(answer.reason) else TooMuchError
        raise error(f"{answer.status}: {answer.reason[:SHOWN_REASON]}")


def in_slabs(
    start_ms: int,
    end_ms: int,
    target: int,
    read: Callable[[int, int, int], tuple[Item, int]],
    what: str,
) -> Generator[Item, None, None]:
    """Yield what `read` returns for each slab of [start_ms, end_ms], ascending, of about `target` samples.

    `read` gets the first and last ms of a slab and the limit of its samples. It also returns their number,
    and raises TooMuchError if the slab must be shorter. `what` names the store and the samples in the
    SourceError for a slab that cannot be shorter.
    """
    length_ms, growth = _FIRST_MS, _GROWTH
    refused_ms = math.inf  # the shortest slab that was refused because of its length
    while start_ms <= end_ms:
        rest_ms = end_ms - start_ms + 1
        if rest_ms < refused_ms and in_one_slab(start_ms, end_ms, length_ms):
            length_ms = rest_ms
        try:
            item, samples = read(start_ms, start_ms + length_ms - 1, 2 * target)
        except TooMuchError as exc:
            if length_ms <= _SHORTEST_MS:
                raise SourceError(f"{what} cannot be read even in parts of 1 s: {exc}") from exc
            if isinstance(exc, TooLongError):  # holds for the rest as well, a limit on samples only here
                refused_ms = length_ms
            length_ms, growth = max(_SHORTEST_MS, length_ms // 4), _CAREFUL_GROWTH
            continue
        yield item
        start_ms += length_ms
        fitting_ms = length_ms * target // max(samples, 1)
        longer_ms = max(_SHORTEST_MS, min(length_ms * growth, fitting_ms))
        length_ms = longer_ms if longer_ms < refused_ms else length_ms


def in_one_slab(start_ms: int, end_ms: int, length_ms: int = _FIRST_MS) -> bool:
    """Return whether [start_ms, end_ms] is one slab, unless it has too many samples."""
    return end_ms - start_ms + 1 < _ROUNDING * length_ms
