"""Prometheus's query API: raw samples by range selector, and one value a series by instant queries.

`query_range` is never used: it resamples, and repeats values over gaps.
"""

import reprlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np

from llem_core.errors import SourceError
from llem_integrator.http.client import Http, parse_json
from llem_integrator.series.matchers import Selector, query
from llem_integrator.series.samples import STALE_MS, Series, make_series, whole_ms
from llem_integrator.stores.base import Piece, Progress, Summary, plausible

RANGE: Final = "$range"
"""Stands for the range selector in an expression."""

_FIRST_PAGE_MS: Final = 10_000
"""So much is asked for unseen: of 1000 GPUs at 10 Hz it is 10^6 samples. What is longer is counted first."""
_SHORTEST_PAGE_MS: Final = 1000
_SAMPLES_A_PAGE: Final = 200_000
_GROWTH: Final = 8
_TOO_MUCH: Final = ("too many samples", "maxSamplesPerQuery")
"""How servers say that one query may not read so much; another asks for less."""


class Promql:
    """A server that answers /api/v1/query; `parameters` go with each question."""

    def __init__(self, http: Http, parameters: Mapping[str, str] | None = None) -> None:
        self._http, self._parameters = http, dict(parameters or {})
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the server said of its answers so far, in an order that no thread decides."""
        return tuple(sorted(self._warnings))

    def pages(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        """Every sample in [start_ms, end_ms] as JSON, in pages below the server's limits."""
        wanted = query(metric, selector)
        page_ms, page_start = _FIRST_PAGE_MS, start_ms
        while page_start <= end_ms:
            page_ms = min(page_ms, end_ms - page_start + 1)
            page_end = page_start + page_ms - 1
            # Ranges are closed up to Prometheus 2, left-open from 3: ask for 1 ms more, and trim.
            page = f"{wanted}[{page_ms}ms]"
            shorter = self._shorter(page, page_ms, page_end)
            found = None if shorter else self.query(page, page_end)
            if found is None:
                if page_ms <= _SHORTEST_PAGE_MS:
                    raise SourceError(f"{self._http.address}: {page} is more than it hands out at once")
                page_ms = shorter or max(_SHORTEST_PAGE_MS, page_ms // 2)
                continue
            series = (_raw(one, page_start, page_end) for one in found)
            piece = Piece(page_start, page_end, tuple(one for one in series if len(one) or one.bad))
            yield piece
            page_start = page_end + 1
            page_ms = min(page_ms * _GROWTH, _sized(page_ms, sum(map(len, piece.series))))
            progress((page_start - start_ms) / (end_ms - start_ms + 1))

    def _shorter(self, page: str, page_ms: int, end_ms: int) -> int | None:
        """The ms of a page that holds what one should, where `page` holds more than twice of that."""
        if page_ms <= _FIRST_PAGE_MS:
            return None
        found = self.query(f"sum(count_over_time({page}))", end_ms)
        if found is None:
            return page_ms // _GROWTH
        count = sum(int(one.values[-1]) for one in map(_raw, found) if len(one))
        return _sized(page_ms, count) if count > 2 * _SAMPLES_A_PAGE else None

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        """One value a label set that has samples in [start_ms, end_ms]."""
        function = "resets" if kind is Summary.RESETS else f"{kind}_over_time"
        return self.over_range(f"{function}({RANGE})", query(metric, selector), start_ms, end_ms, kind)

    def over_range(
        self, expression: str, wanted: str, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        """An expression over RANGE, each series' samples in [start_ms, end_ms].

        Where that is too much at once, parts are put together as `kind` says.
        """
        best: dict[tuple[tuple[str, str], ...], Series] = {}
        for one in self._in_parts(expression, wanted, start_ms, end_ms, kind):
            if len(one):
                key = _key(one)
                best[key] = _together(best[key], one, kind) if key in best else one
        yield from best.values()

    def _in_parts(
        self, expression: str, wanted: str, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        """The values of the range, or where that is too much at once, of its parts in their order."""
        range_ms = max(1, end_ms - start_ms + self._left_open)
        found = self.query(expression.replace(RANGE, f"{wanted}[{range_ms}ms]"), end_ms)
        if found is not None:
            yield from map(_raw, found)  # max_over_time drops the metric's name; the caller knows it
            return
        if range_ms <= _SHORTEST_PAGE_MS:
            raise SourceError(
                f"{self._http.address}: {wanted}[{range_ms}ms] is more than it evaluates at once"
            )
        middle_ms = (start_ms + end_ms) // 2
        yield from self._in_parts(expression, wanted, start_ms, middle_ms, kind)
        yield from self._in_parts(expression, wanted, middle_ms + 1, end_ms, kind)
        reach_ms = min(STALE_MS, (end_ms - start_ms) // 4)
        around = max(start_ms, middle_ms - reach_ms), middle_ms, min(end_ms, middle_ms + reach_ms)
        yield from self._across(expression, wanted, around, kind)

    def _across(
        self, expression: str, wanted: str, around: tuple[int, int, int], kind: Summary
    ) -> Iterator[Series]:
        """What two parts do not see: what a value did from the last sample of one to the first of the other.

        A series that is silent for longer than Prometheus looks back begins anew.
        """
        first, middle, last = around
        if kind is Summary.MAX:  # of any two neighbours, too
            yield from self.over_range(expression, wanted, first, last, kind)
        if kind is not Summary.RESETS:
            return
        sides = [
            {_key(one): one for one in self.over_range(expression, wanted, *side, kind)}
            for side in ((first, middle), (middle + 1, last))
        ]
        for one in self.over_range(expression, wanted, first, last, kind):
            key = _key(one)
            inside = sum((side[key].values for side in sides if key in side), np.zeros(1))
            yield Series(one.labels, one.unix_ms, one.values - inside)

    @cached_property
    def _left_open(self) -> bool:
        """Whether a range leaves out its first ms, as since Prometheus 3: [1s:1s] has one tick, not two."""
        found = self.query("count_over_time(vector(1)[1s:1s])", 1_000_000)
        return not found or [one.values.tolist() for one in map(_raw, found)] != [[2.0]]

    def label_names(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> set[str] | None:
        """The labels that the server itself has on these series; None where it does not say."""
        fields = {"match[]": query(metric, selector)}
        fields |= {"start": str(start_ms // 1000), "end": str(-(-end_ms // 1000))}
        answer = self._http.request("GET", "/api/v1/labels", {**self._parameters, **fields})
        if answer.status != 200:
            return None
        match parse_json(self._http.address, answer):
            case {"status": "success", "data": list(names)}:
                return set(names)
        return None

    def query(self, expression: str, time_ms: int) -> list[Any] | None:
        """The result's series, or None where the server says it is too much at once."""
        fields = {"query": expression, "time": f"{time_ms // 1000}.{time_ms % 1000:03d}"}
        reply = self._http.request("POST", "/api/v1/query", {**self._parameters, **fields})
        address, status = self._http.address, reply.status
        if status in (401, 403, 404):
            raise SourceError(f"{address} answered {status} to /api/v1/query")
        answer = parse_json(address, reply)
        match answer:
            case {"status": "success", "data": {"result": list(found)}}:
                self._note(answer)
                return found
            case {"status": "error", "error": str(error)}:
                if any(words in error for words in _TOO_MUCH):
                    return None
                raise SourceError(f"{address} answered {status}: {error}")
        raise SourceError(f"{address} answered {status} with something that is not a Prometheus result")

    def _note(self, answer: dict[str, Any]) -> None:
        for kind in ("warnings", "infos"):
            said = answer.get(kind)
            if isinstance(said, list):
                self._warnings.update({text: None for text in said if isinstance(text, str)})
        if answer.get("isPartial") is True:  # a cluster of VictoriaMetrics
            self._warnings["the answer is partial: some of the store's nodes did not respond"] = None


def _sized(page_ms: int, count: int) -> int:
    """The ms of a page of as many samples as one should have, if `page_ms` have `count`."""
    return max(_SHORTEST_PAGE_MS, page_ms * _SAMPLES_A_PAGE // max(count, 1))


def _raw(one: Any, start_ms: int = 0, end_ms: int = 2**62) -> Series:
    """One element of a result's matrix or vector as a clean series inside [start_ms, end_ms]."""
    try:
        if "histogram" in one or "histograms" in one:
            raise SourceError("the server's result holds native histograms, which are no samples")
        times, values = zip(*(one["values"] if "values" in one else [one["value"]]), strict=True)
        unix_ms = whole_ms(np.array([float(unix_s) for unix_s in times]))
        numbers = plausible(np.array([float(value) for value in values]))
        labels = {str(name): str(value) for name, value in one["metric"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as exc:
        what = reprlib.repr(one)
        raise SourceError(f"the server's result holds something that is not samples: {what}") from exc
    inside = (unix_ms >= start_ms) & (unix_ms <= end_ms)
    metric = labels.pop("__name__", "")
    return make_series(labels, unix_ms[inside], numbers[inside], metric)


def _key(one: Series) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(one.labels.items()))


def _together(earlier: Series, later: Series, kind: Summary) -> Series:
    """What two parts of a range say of both."""
    values = earlier.values, later.values
    match kind:
        case Summary.LAST:
            return later
        case Summary.MAX:
            return Series(later.labels, later.unix_ms, np.maximum(*values))
        case Summary.COUNT | Summary.RESETS:
            return Series(later.labels, later.unix_ms, np.add(*values))
