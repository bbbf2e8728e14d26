"""The stores that samples can be read from, one file each; `open_source` finds out which one a place is."""

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from llem_core.errors import SourceError
from llem_integrator.series.matchers import Matcher, Selector, parse_selector
from llem_integrator.stores.base import Piece, Progress, Source, whole

if TYPE_CHECKING:
    from llem_integrator.http.access import HttpConfig

__all__ = [
    "DEFAULT_URL",
    "Matcher",
    "Piece",
    "Progress",
    "Selector",
    "Source",
    "open_source",
    "parse_selector",
    "whole",
]

DEFAULT_URL: Final = "http://localhost:9090"
"""The default of --source."""


def open_source(where: str, config: "HttpConfig | None" = None) -> Source:
    """Return the source at a URL or HOST:PORT, in a file, or on standard input ("-").

    The store behind a URL is recognised by requests to it; `config` holds credentials, TLS and proxies.
    Raises SourceError if the source cannot be read, and ConfigError for an invalid URL.
    """
    from llem_integrator.http.urls import store_url

    url = store_url(where)
    if url is None:
        from llem_integrator.stores.file import read_file

        return read_file(where)
    try:
        return _store(url, config)
    except SourceError as exc:
        if url != DEFAULT_URL:
            raise
        hint = "this is the default; to read an llem-exporter itself: --source http://localhost:9955"
        raise SourceError(f"{exc} ({hint})") from exc


def _store(url: str, config: "HttpConfig | None") -> Source:
    """Return the store at a URL, or at the URL of which this is the /metrics or /history page."""
    from llem_integrator.http.client import Http
    from llem_integrator.stores.recognition import recognised

    base = re.sub(r"/(metrics|history)/?$", "", url)
    if base != url:
        with suppress(SourceError):  # some stores are served under such a path
            return recognised(Http(url, config))
    return recognised(Http(base, config))
