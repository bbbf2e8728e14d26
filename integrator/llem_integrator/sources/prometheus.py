"""Prometheus's HTTP API: raw samples by range selector, in pages below the server's limits.

`query_range` is never used: it resamples, and repeats values over gaps.
"""

import reprlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from llem_core.errors import SourceError
from llem_integrator.series import Series, make_series, whole_ms
from llem_integrator.sources import http
from llem_integrator.sources.base import Piece, Progress, Summary, plausible
from llem_integrator.sources.matchers import Selector, query

_FIRST_PAGE_MS: Final = 10_000
"""So much is asked for unseen: of 1000 GPUs at 10 Hz it is 10^6 samples. What is longer is counted first."""
_SHORTEST_PAGE_MS: Final = 1000
_SAMPLES_A_PAGE: Final = 200_000
_GROWTH: Final = 8


class PrometheusSource:
    """A server that answers /api/v1/query; `url` is what comes before that path."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._warnings: dict[str, None] = {}

    @property
    def address(self) -> str:
        return http.without_secrets(self._url)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        wanted = query(metric, selector)
        page_ms, page_start = _FIRST_PAGE_MS, start_ms
        while page_start <= end_ms:
            page_ms = min(page_ms, end_ms - page_start + 1)
            page_end = page_start + page_ms - 1
            # Ranges are closed up to Prometheus 2, left-open from 3: ask for 1 ms more, and trim.
            page = f"{wanted}[{page_ms}ms]"
            shorter = self._shorter(page, page_ms, page_end)
            found = None if shorter else self._query(page, page_end)
            if found is None:
                if page_ms <= _SHORTEST_PAGE_MS:
                    raise SourceError(f"{self.address}: {page} is more than it hands out at once")
                page_ms = shorter or max(_SHORTEST_PAGE_MS, page_ms // 2)
                continue
            piece = Piece(page_start, page_end, tuple(_raw(one, page_start, page_end) for one in found))
            yield piece
            page_start = page_end + 1
            page_ms = min(page_ms * _GROWTH, _sized(page_ms, sum(map(len, piece.series))))
            progress((page_start - start_ms) / (end_ms - start_ms + 1))

    def _shorter(self, page: str, page_ms: int, end_ms: int) -> int | None:
        """The ms of a page that holds what one should, where `page` holds more than twice of that."""
        if page_ms <= _FIRST_PAGE_MS:
            return None
        found = self._query(f"sum(count_over_time({page}))", end_ms)
        if found is None:
            return page_ms // _GROWTH
        count = sum(int(one.values[-1]) for one in map(_raw, found) if len(one))
        return _sized(page_ms, count) if count > 2 * _SAMPLES_A_PAGE else None

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        best: dict[tuple[tuple[str, str], ...], Series] = {}
        for one in self._summaries(query(metric, selector), start_ms, end_ms, kind):
            if len(one):
                key = tuple(sorted(one.labels.items()))
                best[key] = _together(best[key], one, kind) if key in best else one
        yield from best.values()

    def _summaries(self, wanted: str, start_ms: int, end_ms: int, kind: Summary) -> Iterator[Series]:
        """Those of the range, or where that is too much at once, of its parts in their order."""
        range_ms = end_ms - start_ms + 1
        function = "resets" if kind is Summary.RESETS else f"{kind}_over_time"
        found = self._query(f"{function}({wanted}[{range_ms}ms])", end_ms)
        if found is not None:
            yield from map(_raw, found)  # max_over_time drops the metric's name; the caller knows it
            return
        if range_ms <= _SHORTEST_PAGE_MS:
            raise SourceError(f"{self.address}: {wanted}[{range_ms}ms] is more than it evaluates at once")
        middle_ms = (start_ms + end_ms) // 2
        yield from self._summaries(wanted, start_ms, middle_ms, kind)
        yield from self._summaries(wanted, middle_ms + 1, end_ms, kind)

    def _query(self, expression: str, time_ms: int) -> list[Any] | None:
        """The result's series, or None where the server says it is too much at once."""
        url = f"{self._url}/api/v1/query"
        fields = {"query": expression, "time": f"{time_ms // 1000}.{time_ms % 1000:03d}"}
        status, body = http.request("POST", url, fields)
        if status in (401, 403, 404):
            raise SourceError(f"{self.address} answered {status} to /api/v1/query")
        answer = http.parse_json(url, status, body)
        match answer:
            case {"status": "success", "data": {"result": list(found)}}:
                said = answer.get("warnings")
                if isinstance(said, list):
                    self._warnings |= {text: None for text in said if isinstance(text, str)}
                return found
            case {"status": "error", "error": str(error)}:
                if "too many samples" in error:
                    return None
                raise SourceError(f"{self.address} answered {status}: {error}")
        raise SourceError(f"{self.address} answered {status} with something that is not a Prometheus result")


def _sized(page_ms: int, count: int) -> int:
    """The ms of a page of as many samples as one should have, if `page_ms` have `count`."""
    return max(_SHORTEST_PAGE_MS, page_ms * _SAMPLES_A_PAGE // max(count, 1))


def _raw(one: Any, start_ms: int = 0, end_ms: int = 2**62) -> Series:
    """One element of a result's matrix or vector as a clean series inside [start_ms, end_ms]."""
    try:
        times, values = zip(*(one["values"] if "values" in one else [one["value"]]), strict=True)
        unix_ms = whole_ms(np.array([float(unix_s) for unix_s in times]))
        numbers = plausible(np.array([float(value) for value in values]))
        labels = {str(name): str(value) for name, value in one["metric"].items() if name != "__name__"}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as exc:
        what = reprlib.repr(one)
        raise SourceError(f"the server's result holds something that is not samples: {what}") from exc
    inside = (unix_ms >= start_ms) & (unix_ms <= end_ms)
    return make_series(labels, unix_ms[inside], numbers[inside])


def _together(earlier: Series, later: Series, kind: Summary) -> Series:
    """What two parts of a range say of both; a reset between them is not seen."""
    values = earlier.values, later.values
    match kind:
        case Summary.LAST:
            return later
        case Summary.MAX:
            return Series(later.labels, later.unix_ms, np.maximum(*values))
        case Summary.COUNT | Summary.RESETS:
            return Series(later.labels, later.unix_ms, np.add(*values))
