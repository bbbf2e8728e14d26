"""Finds out which store answers at a URL, by requests that every store can answer."""

import json
from typing import Any, Final

from llem_core.errors import SourceError
from llem_integrator.http.client import Answer, Http
from llem_integrator.stores.base import Source

_BUILDINFO: Final = "/api/v1/status/buildinfo"
_QUERY: Final = "/api/v1/query"
_NO_SERIES: Final = '{__name__="llem_nothing"}'
_BUILD_FIELDS: Final = ("goVersion", "revision", "application")


def recognised(http: Http) -> Source:
    """Return the source at an address; raises SourceError if no known store answers."""
    from llem_integrator.stores.exporter import ExporterSource
    from llem_integrator.stores.prometheus import PrometheusSource
    from llem_integrator.stores.thanos import thanos
    from llem_integrator.stores.victoriametrics import VictoriaMetricsSource

    build = http.request("GET", _BUILDINFO)
    fields = _data(build)
    if not isinstance(fields, dict):
        if build.status == 429 or (build.status >= 500 and build.status != 501):
            raise http.refusal(_BUILDINFO, build)
        if b"llem-exporter" in http.request("GET", "/", headers={"Accept": "text/html"}).body:
            return ExporterSource(http)
        _check_queries(http)
        fields = {}  # a store that does not say what it is, or not to everyone
    # VictoriaMetrics says no more than the version of a Prometheus that it stands in for, or nothing.
    if not any(fields.get(name) for name in _BUILD_FIELDS) and _exports(http):
        return VictoriaMetricsSource(http)
    # Thanos has no major version yet; a private build may have no version either.
    if not str(fields.get("version") or "0")[:1].strip("0") and _has_stores(http):
        return thanos(http)
    return PrometheusSource(http)


def _check_queries(http: Http) -> None:
    """Raise SourceError, with the server's reason, if the query API of Prometheus does not answer."""
    answer = http.request("GET", _QUERY, {"query": "1"})
    if _data(answer) is not None:
        return
    if answer.status in (200, 404, 405):
        prefixed = http.address.endswith("/prometheus")
        hint = "" if prefixed else " (for Mimir or Cortex: does the URL lack /prometheus?)"
        raise SourceError(
            f"{http.address} is neither a Prometheus ({_QUERY} answered {answer.status})"
            f" nor an llem-exporter{hint}"
        )
    raise http.refusal(_QUERY, answer)


def _exports(http: Http) -> bool:
    fields = {"match[]": _NO_SERIES, "start": "1", "end": "2"}
    return http.request("GET", "/api/v1/export", fields).status == 200


def _has_stores(http: Http) -> bool:
    return _data(http.request("GET", "/api/v1/stores")) is not None


def _data(answer: Answer) -> Any:
    """Return the data of a successful answer of Prometheus's API, or None for any other answer."""
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    success = answer.status == 200 and isinstance(content, dict) and content.get("status") == "success"
    return content.get("data") if success else None
