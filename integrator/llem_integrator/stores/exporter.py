"""An exporter's own URL: its history is the embedded store, no Prometheus needed."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Series
from llem_integrator.stores.base import Piece, Progress, Summary
from llem_integrator.stores.held import HeldSource
from llem_integrator.text.openmetrics import read

_ACCEPT: Final = "application/openmetrics-text;version=1.0.0"
_LEAD_MS: Final = 300_000
"""So much before what is asked is fetched with it: the next question may begin that much earlier."""

_MOST_BYTES: Final = 1 << 30
"""An exporter's longest history, 55 min, of 64 GPUs with their counters is half of it."""


class ExporterSource:
    """A running llem-exporter. What it hands over once is kept for the next window."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._page: HeldSource | None = None
        self._since_ms = 0

    @property
    def address(self) -> str:
        return self._http.address

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        return self._history(start_ms).pieces(metric, selector, start_ms, end_ms, progress)

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        return self._history(start_ms).summary(metric, selector, start_ms, end_ms, kind)

    def _history(self, start_ms: int) -> HeldSource:
        if self._page is None or start_ms < self._since_ms:
            since_ms = max(0, start_ms - _LEAD_MS)
            self._page = self._http.patiently(lambda: self._fetched(since_ms))
            self._since_ms = since_ms
        return self._page

    def _fetched(self, since_ms: int) -> HeldSource:
        """All samples from `since_ms` on, parsed as they come."""
        before_ms = max(0, since_ms - 1)  # exclusive
        fields = {"since": f"{before_ms // 1000}.{before_ms % 1000:03d}"}
        origin = f"{self.address}/history"
        with self._http.open("GET", "/history", fields, headers={"Accept": _ACCEPT}) as stream:
            if stream.status != 200:
                first_line = stream.rest().decode("utf-8", "replace").strip().partition("\n")[0]
                raise SourceError(f"{origin} answered {stream.status}: {first_line}")
            labels = {"instance": urlsplit(self.address).netloc}
            return read(stream.blocks(_MOST_BYTES), origin, labels, maybe_empty=True)
