"""The URL of an exporter itself: its history is the store, and no Prometheus is needed."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Series
from llem_integrator.stores.base import Piece
from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.text.openmetrics import read

_ACCEPT: Final = "application/openmetrics-text;version=1.0.0"
_LEAD_MS: Final = 300_000
"""Time before the requested start that is fetched, too, because the next request may begin there."""
_MOST_BYTES: Final = 1 << 30
"""The longest history of an exporter, 55 min of 64 GPUs with their counters, is half of this."""


class ExporterSource:
    """A running llem-exporter. Its history is fetched once and kept for the next window."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._page: LoadedSource | None = None
        self._since_ms = 0

    @property
    def address(self) -> str:
        """The URL without secrets."""
        return self._http.address

    @property
    def warnings(self) -> tuple[str, ...]:
        """An exporter has no warnings of its own."""
        return ()

    def pieces(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        """Yield every sample in [start_ms, end_ms] that the exporter still has."""
        return self._history(start_ms).pieces(metric, selector, start_ms, end_ms)

    def may_have(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> bool:
        """Return whether the history has such series."""
        return self._history(start_ms).may_have(metric, selector, start_ms, end_ms)

    def timeless(self, selectors: Sequence[Selector]) -> Iterable[Series]:
        return self._page.timeless(selectors) if self._page else ()

    def _history(self, start_ms: int) -> LoadedSource:
        if self._page is None or start_ms < self._since_ms:
            since_ms = max(0, start_ms - _LEAD_MS)
            self._page = self._http.patiently(lambda: self._fetched(since_ms))
            self._since_ms = since_ms
        return self._page

    def _fetched(self, since_ms: int) -> LoadedSource:
        """Return all samples from `since_ms` on, parsed while they arrive."""
        before_ms = max(0, since_ms - 1)  # the parameter is exclusive
        fields = {"since": f"{before_ms // 1000}.{before_ms % 1000:03d}"}
        origin = f"{self.address}/history"
        with self._http.open("GET", "/history", fields, headers={"Accept": _ACCEPT}) as stream:
            if stream.status != 200:
                first_line = stream.rest().decode("utf-8", "replace").strip().partition("\n")[0]
                raise SourceError(f"{origin} answered {stream.status}: {first_line}")
            labels = {"instance": urlsplit(self.address).netloc}
            return read(stream.blocks(_MOST_BYTES), origin, labels, maybe_empty=True)
