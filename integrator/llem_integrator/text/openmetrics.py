"""OpenMetrics text and what promtool dumps, as a source: any size, in little memory."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from llem_core import metrics
from llem_core.metrics import Kind
from llem_integrator.stores.held import HeldSource
from llem_integrator.text.blocks import whole_lines
from llem_integrator.text.page import Page

OURS: Final = frozenset(
    spec.name for spec in (*metrics.METRICS_PAGE, *metrics.HISTORY_PAGE) if spec.kind is not Kind.HISTOGRAM
)
"""Metrics that are kept; lines of others are checked and left."""


def read(
    chunks: Iterable[bytes],
    origin: str,
    extra_labels: Mapping[str, str] | None = None,
    *,
    maybe_empty: bool = False,
    names: Collection[str] | None = OURS,
) -> HeldSource:
    """The source of a text that comes in chunks; raises SourceError that names `origin` and the line.

    `extra_labels` are added to each series, as a scrape adds them. A text in which no sample has a
    timestamp is no history, unless it is `maybe_empty`. Of metrics not in `names` nothing is kept; None is
    all of them.
    """
    page = Page(origin, extra_labels or {}, names)
    for text in whole_lines(chunks, origin):
        page.feed(text)
    return page.source(maybe_empty=maybe_empty)


def parse(
    text: str, origin: str, extra_labels: Mapping[str, str] | None = None, *, maybe_empty: bool = False
) -> HeldSource:
    """The source of a whole text, with all its metrics."""
    return read([text.encode()], origin, extra_labels, maybe_empty=maybe_empty, names=None)
