"""The stores that samples can be read from, one file each; `open_source` finds out which it was given."""

from typing import TYPE_CHECKING

from llem_core.errors import ConfigError
from llem_integrator.series.matchers import Matcher, Selector, parse_selector
from llem_integrator.stores.base import Piece, Progress, Source, Summary, whole

if TYPE_CHECKING:
    from llem_integrator.http.access import HttpConfig

__all__ = [
    "Matcher",
    "Piece",
    "Progress",
    "Selector",
    "Source",
    "Summary",
    "open_source",
    "parse_selector",
    "whole",
]


def open_source(where: str, config: "HttpConfig | None" = None) -> Source:
    """The source at a URL, in a file, or on standard input ("-"); raises SourceError or ConfigError.

    A URL is asked what it is; `config` says how it is reached.
    """
    from llem_integrator.http.urls import split

    scheme = split(where).scheme
    if scheme in ("http", "https"):
        from llem_integrator.http.client import Http
        from llem_integrator.stores.recognition import recognised

        return recognised(Http(where, config))
    if "://" in where:
        raise ConfigError(f"cannot read {scheme}:// (give an http or https URL, a file, or -)")
    from llem_integrator.stores.file import read_file

    return read_file(where)
