"""Prometheus's HTTP API: raw samples by range selector, in pages below the server's limits.

`query_range` is never used: it resamples, and repeats values over gaps.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from llem_core.errors import SourceError
from llem_integrator.series import Series, make_series, whole_ms
from llem_integrator.sources import http
from llem_integrator.sources.base import Progress
from llem_integrator.sources.matchers import Selector, query

_FIRST_PAGE_MS: Final = 300_000
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

    def samples(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Series]:
        pieces: dict[tuple[tuple[str, str], ...], list[Series]] = {}
        wanted = query(metric, selector)
        page_ms, page_start = _FIRST_PAGE_MS, start_ms
        while page_start <= end_ms:
            page_end = min(page_start + page_ms - 1, end_ms)
            # Ranges are closed up to Prometheus 2, left-open from 3: ask for 1 ms more, and trim.
            found = self._query(f"{wanted}[{page_end - page_start + 1}ms]", page_end)
            if found is None:
                if page_ms <= 1000:
                    raise SourceError(
                        f"{self.address}: one second of {wanted} is more than it hands out at once"
                    )
                page_ms //= 2
                continue
            count = 0
            for one in found:
                series = _raw(one, page_start, page_end)
                count += len(one["values"])
                pieces.setdefault(tuple(sorted(series.labels.items())), []).append(series)
            page_start = page_end + 1
            page_ms = min(page_ms * _GROWTH, max(1000, page_ms * _SAMPLES_A_PAGE // max(count, 1)))
            progress((page_start - start_ms) / (end_ms - start_ms + 1))
        for parts in pieces.values():
            yield _joined(parts)

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: str
    ) -> Iterator[Series]:
        wanted = f"{kind}_over_time({query(metric, selector)}[{end_ms - start_ms + 1}ms])"
        found = self._query(wanted, end_ms)
        if found is None:
            raise SourceError(f"{self.address}: {wanted} is more than it evaluates at once")
        for one in found:
            # max_over_time drops the metric's name; the caller knows it.
            yield _raw({"metric": one["metric"], "values": [one["value"]]}, start_ms, end_ms)

    def _query(self, expression: str, time_ms: int) -> list[Any] | None:
        """The result's series, or None where the server says it is too much at once."""
        url = f"{self._url}/api/v1/query"
        fields = {"query": expression, "time": f"{time_ms // 1000}.{time_ms % 1000:03d}"}
        status, body = http.request("POST", url, fields)
        if status in (401, 403, 404):
            raise SourceError(f"{self.address} answered {status} to /api/v1/query")
        answer = http.parse_json(url, body)
        match answer:
            case {"status": "success", "data": {"result": list(found)}}:
                for warning in answer.get("warnings", ()):
                    self._warnings[str(warning)] = None
                return found
            case {"status": "error", "error": str(error)}:
                if "too many samples" in error:
                    return None
                raise SourceError(f"{self.address} answered {status}: {error}")
        raise SourceError(f"{self.address} answered {status} with something that is not a Prometheus result")


def _raw(one: Any, start_ms: int, end_ms: int) -> Series:
    """One element of a result's matrix as a clean series inside [start_ms, end_ms]."""
    try:
        times, values = zip(*one["values"], strict=True)
        unix_ms = whole_ms(np.array(times, np.float64))
        numbers = np.array([float(value) for value in values])
        labels = {str(name): str(value) for name, value in one["metric"].items() if name != "__name__"}
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise SourceError(
            f"the server's result holds something that is not samples: {str(one)[:60]!r}"
        ) from exc
    inside = (unix_ms >= start_ms) & (unix_ms <= end_ms)
    return make_series(labels, unix_ms[inside], numbers[inside])


def _joined(parts: list[Series]) -> Series:
    """Pages of one label set, which follow each other, as one series."""
    if len(parts) == 1:
        return parts[0]
    return Series(
        parts[0].labels,
        np.concatenate([part.unix_ms for part in parts]),
        np.concatenate([part.values for part in parts]),
        sum(part.bad for part in parts),
        sum(part.conflicts for part in parts),
    )
