"""Prometheus and those that answer as it does: chunks by remote read, or JSON where that is off."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from llem_integrator.http.client import Http
from llem_integrator.remote_read.client import NotOfferedError, RemoteRead
from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Series
from llem_integrator.stores.base import Piece, Progress, Summary
from llem_integrator.stores.promql import Promql
from llem_integrator.stores.slabs import TARGET_SAMPLES

_THANOS: Final = {"dedup": "false", "partial_response": "false", "max_source_resolution": "0s"}
"""Every replica as it is, all stores or an error, and no downsampled values."""


class PrometheusSource:
    """A Prometheus or a Mimir."""

    at_once: Final = 2
    """Connections are each thread's own while it reads; what is shared is set once, or to the same again."""

    def __init__(
        self,
        http: Http,
        *,
        parameters: Mapping[str, str] | None = None,
        remote_read: bool = True,
        slab_samples: int = TARGET_SAMPLES,
    ) -> None:
        self._http = http
        self._promql = Promql(http, parameters)
        self._remote = RemoteRead(http, slab_samples) if remote_read else None
        self._external: dict[str, str] | None = None

    @property
    def address(self) -> str:
        return self._http.address

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._promql.warnings

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        remote = self._remote  # another thread may find out meanwhile that there is none
        if remote is not None:
            try:
                for piece in remote.pieces(metric, selector, start_ms, end_ms, progress):
                    yield self._without_external(piece, metric, selector)
                    start_ms = piece.end_ms + 1
                return
            except NotOfferedError:
                self._remote = None
        yield from self._promql.pages(metric, selector, start_ms, end_ms, progress)

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        return self._promql.summary(metric, selector, start_ms, end_ms, kind)

    def _without_external(self, piece: Piece, metric: str, selector: Selector) -> Piece:
        """The piece without the server's external labels: remote read adds them, no other answer has them."""
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


def thanos(http: Http) -> PrometheusSource:
    """A Thanos: JSON only, for its querier has no remote read; replicas stay apart, to be merged by time."""
    return PrometheusSource(http, parameters=_THANOS, remote_read=False)
