"""Prometheus's query API: raw samples by instant queries with range selectors.

`query_range` is not used: it resamples, and repeats values over gaps.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Final

from llem_core.errors import SourceError
from llem_integrator.http.client import Answer, Http
from llem_integrator.series.matchers import Selector, query
from llem_integrator.stores.ahead import ahead
from llem_integrator.stores.base import Piece
from llem_integrator.stores.queries.query_result import document, series_in
from llem_integrator.stores.queries.slabs import TooMuchError, in_slabs, refuse_too_much

_QUERY: Final = "/api/v1/query"
_LABELS: Final = "/api/v1/labels"
_SAMPLES_A_PAGE: Final = 200_000
_HELD_PAGES: Final = 2


class Promql:
    """A server that answers /api/v1/query; `parameters` are sent with each query."""

    def __init__(self, http: Http, parameters: Mapping[str, str] | None = None) -> None:
        self._http, self._parameters = http, dict(parameters or {})
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings in the server's answers so far, sorted, because they come in any order."""
        return tuple(sorted(self._warnings))

    def pages(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        """Yield every sample in [start_ms, end_ms], in pages below the server's limits.

        While a page is parsed, the server evaluates the next one.
        """
        read, what = partial(self._page, metric, selector), f"{metric} of {self._http.address}"
        answers = in_slabs(start_ms, end_ms, _SAMPLES_A_PAGE, read, what)
        with closing(ahead(answers, _HELD_PAGES)) as pages:
            for first_ms, last_ms, answer in pages:
                results = [] if answer is None else self._results(answer)
                series = [series_in(result, first_ms, last_ms) for result in results]
                yield Piece(first_ms, last_ms, tuple(one for one in series if len(one) or one.bad))

    def _page(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, limit: int
    ) -> tuple[tuple[int, int, Answer | None], int]:
        """Return the edges and the answer of a page, None if it is empty, and its number of samples.

        Raises TooMuchError if it has more than `limit` samples.
        """
        # Ranges are closed up to Prometheus 2 and left-open from 3: ask for 1 ms more, and trim.
        length_ms = end_ms - start_ms + 1
        count = self._count(metric, selector, length_ms, end_ms)
        if count > limit:
            raise TooMuchError(f"more than {limit} samples")
        answer = self._ask(f"{query(metric, selector)}[{length_ms}ms]", end_ms) if count else None
        return (start_ms, end_ms, answer), count

    def _count(self, metric: str, selector: Selector, length_ms: int, end_ms: int) -> int:
        """Return the number of samples in the ms up to `end_ms`.

        Each metric is counted by itself: count_over_time() refuses series that differ in their names only.
        """
        wanted = (query(name, selector) for name in metric.split("|"))
        counts = (f"(sum(count_over_time({series}[{length_ms}ms])) or vector(0))" for series in wanted)
        results = self._results(self._ask(" + ".join(counts), end_ms))
        return sum(int(series_in(result).values.sum()) for result in results)

    def label_names(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> set[str] | None:
        """Return the names of the labels stored with these series, or None if the server does not say."""
        fields = {"match[]": query(metric, selector)}
        fields |= {"start": str(start_ms // 1000), "end": str(-(-end_ms // 1000))}
        answer = self._http.request("GET", _LABELS, {**self._parameters, **fields})
        if answer.status != 200:
            return None
        match self._document(_LABELS, answer):
            case {"status": "success", "data": list(names)}:
                return set(names)
        return None

    def _ask(self, expression: str, time_ms: int) -> Answer:
        # Compression costs the server four times as much as the rest of the answer.
        headers = {"Accept-Encoding": "identity"}
        fields = {"query": expression, "time": f"{time_ms // 1000}.{time_ms % 1000:03d}"}
        answer = self._http.request("POST", _QUERY, {**self._parameters, **fields}, headers=headers)
        refuse_too_much(answer)
        if answer.status != 200:
            raise self._http.refusal(_QUERY, answer)
        return answer

    def _results(self, answer: Answer) -> list[Any]:
        content = self._document(_QUERY, answer)
        match content:
            case {"status": "success", "data": {"result": list(results)}}:
                self._note(content)
                return results
        raise SourceError(
            f"{self._http.address}{_QUERY} answered with something that is not a Prometheus result"
        )

    def _document(self, path: str, answer: Answer) -> Any:
        try:
            return document(answer.body)
        except (ValueError, RecursionError) as exc:
            raise self._http.not_json(path, answer) from exc

    def _note(self, content: dict[str, Any]) -> None:
        for kind in ("warnings", "infos"):
            texts = content.get(kind)
            if isinstance(texts, list):
                self._warnings.update({text: None for text in texts if isinstance(text, str)})
        if content.get("isPartial") is True:  # a cluster of VictoriaMetrics
            self._warnings["the answer is partial: some of the store's nodes did not respond"] = None
