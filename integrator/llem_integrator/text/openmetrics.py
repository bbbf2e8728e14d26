"""Reads OpenMetrics, Prometheus's text format and promtool's dumps of any size in little memory."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from llem_core import metrics
from llem_core.metrics import Kind
from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.text.blocks import whole_lines
from llem_integrator.text.page import Page

OURS: Final = frozenset(
    spec.name for spec in (*metrics.METRICS_PAGE, *metrics.HISTORY_PAGE) if spec.kind is not Kind.HISTOGRAM
)
"""The metrics that are kept."""


def read(
    chunks: Iterable[bytes],
    origin: str,
    extra_labels: Mapping[str, str] | None = None,
    *,
    maybe_empty: bool = False,
    names: Collection[str] | None = OURS,
) -> LoadedSource:
    """Return the source of a text that arrives in chunks; raises SourceError with `origin` and the line.

    `extra_labels` are added to each series, as a scrape adds them. A text without timestamps is an error
    unless it is `maybe_empty`. Only metrics in `names` are kept; None keeps all.
    """
    page = Page(origin, extra_labels or {}, names)
    for text in whole_lines(chunks, origin):
        page.feed(text)
    return page.source(maybe_empty=maybe_empty)
