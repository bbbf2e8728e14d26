"""The stores that samples can be read from, one file each; `open_source` finds out which it was given."""

import json

from llem_core.errors import ConfigError, SourceError
from llem_integrator.sources.base import Piece, Progress, Source, Summary, whole
from llem_integrator.sources.matchers import Matcher, Selector, parse_selector

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


def open_source(where: str) -> Source:
    """The source at a URL, in a file, or on standard input ("-"); raises SourceError or ConfigError."""
    from llem_integrator.sources import http

    scheme = http.split(where).scheme
    if scheme not in ("http", "https"):
        if "://" in where:
            raise ConfigError(f"cannot read {scheme}:// (give an http or https URL, a file, or -)")
        from llem_integrator.sources.openmetrics import read_file

        return read_file(where)

    from llem_integrator.sources.exporter import ExporterSource
    from llem_integrator.sources.prometheus import PrometheusSource

    url = where.rstrip("/")
    status, body = http.request("GET", f"{url}/api/v1/status/buildinfo")
    if status == 200 and _is_api_answer(body):
        return PrometheusSource(url)
    if status == 429 or status >= 500:
        raise SourceError(f"{http.without_secrets(url)} answered {status}")
    landing_status, landing = http.request("GET", f"{url}/", accept="text/html")
    if landing_status == 200 and b"llem-exporter" in landing:
        return ExporterSource(url)
    if status in (401, 403):
        raise SourceError(f"{http.without_secrets(url)} answered {status}: it wants other credentials")
    raise SourceError(
        f"{http.without_secrets(url)} is neither a Prometheus (no /api/v1/) nor an llem-exporter"
    )


def _is_api_answer(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and answer.get("status") == "success"
