"""Prometheus, and stores with its API: chunks by remote read, or JSON if remote read is not available."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from llem_integrator.http.client import Http
from llem_integrator.remote_read.client import NotOfferedError, RemoteRead
from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Series
from llem_integrator.stores.base import Piece
from llem_integrator.stores.queries.promql import Promql
from llem_integrator.stores.queries.slabs import TARGET_SAMPLES


class PrometheusSource:
    """A Prometheus or a Mimir."""

    def __init__(
        self,
        http: Http,
        *,
        promql: Promql | None = None,
        remote_read: bool = True,
        slab_samples: int = TARGET_SAMPLES,
    ) -> None:
        self._http = http
        self._promql = promql or Promql(http)
        self._remote = RemoteRead(http, slab_samples) if remote_read else None
        self._external: dict[str, str] | None = None

    @property
    def address(self) -> str:
        """The URL without secrets."""
        return self._http.address

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings in the server's answers so far."""
        return self._promql.warnings

    def pieces(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        """Yield every sample in [start_ms, end_ms]."""
        if self._remote is not None:
            try:
                for piece in self._remote.pieces(metric, selector, start_ms, end_ms):
                    yield self._without_external(piece, metric, selector)
                    start_ms = piece.end_ms + 1
                return
            except NotOfferedError:
                self._remote = None
        yield from self._promql.pages(metric, selector, start_ms, end_ms)

    def may_have(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> bool:
        """Return whether the index has such series. If the server does not say, there may be some."""
        return self._promql.label_names(metric, selector, start_ms, end_ms) != set()

    def timeless(self, _selectors: Sequence[Selector]) -> Iterable[Series]:
        return ()

    def _without_external(self, piece: Piece, metric: str, selector: Selector) -> Piece:
        """Return the piece without the server's external labels, which only remote read adds."""
        if self._external is None and piece.series:
            known = self._promql.label_names(metric, selector, piece.start_ms, piece.end_ms)
            labels = piece.series[0].labels
            self._external = {} if known is None else {n: v for n, v in labels.items() if n not in known}
        if not self._external:
            return piece
        external = self._external.items()
        return Piece(
            piece.start_ms,
            piece.end_ms,
            tuple(replace(one, labels=dict(one.labels.items() - external)) for one in piece.series),
        )
