"""Which store answers at a URL, by what can be asked of all of them."""

import json
from typing import Any, Final

from llem_core.errors import SourceError
from llem_integrator.http.client import Answer, Http
from llem_integrator.stores.base import Source

_NOTHING: Final = '{__name__="llem_nothing"}'
_BUILD_FACTS: Final = ("goVersion", "revision", "application")


def recognised(http: Http) -> Source:
    """The source at an address; raises SourceError where nothing known answers."""
    from llem_integrator.stores.exporter import ExporterSource
    from llem_integrator.stores.prometheus import PrometheusSource, thanos
    from llem_integrator.stores.victoriametrics import VictoriaMetricsSource

    build = http.request("GET", "/api/v1/status/buildinfo")
    facts = _data(build)
    if isinstance(facts, dict):
        # VictoriaMetrics says no more than a Prometheus version that it stands in for, or nothing.
        if not any(facts.get(name) for name in _BUILD_FACTS) and _exports(http):
            return VictoriaMetricsSource(http)
        # Thanos has no major version yet; a build of one's own may have none either.
        if not str(facts.get("version") or "0")[:1].strip("0") and _has_stores(http):
            return thanos(http)
        return PrometheusSource(http)
    if build.status == 429 or (build.status >= 500 and build.status != 501):
        raise SourceError(f"{http.address} answered {build.status}")
    if b"llem-exporter" in http.request("GET", "/", headers={"Accept": "text/html"}).body:
        return ExporterSource(http)
    if build.status in (401, 403):
        raise SourceError(f"{http.address} answered {build.status}: it wants other credentials")
    if _data(http.request("GET", "/api/v1/query", {"query": "1"})) is not None:
        return PrometheusSource(http)  # one of those that do not say what they are
    raise SourceError(f"{http.address} is neither a Prometheus (no /api/v1/) nor an llem-exporter")


def _exports(http: Http) -> bool:
    return (
        http.request("GET", "/api/v1/export", {"match[]": _NOTHING, "start": "1", "end": "2"}).status == 200
    )


def _has_stores(http: Http) -> bool:
    return _data(http.request("GET", "/api/v1/stores")) is not None


def _data(answer: Answer) -> Any:
    """What a server of Prometheus's API answers with success; None of anything else."""
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    success = answer.status == 200 and isinstance(said, dict) and said.get("status") == "success"
    return said.get("data") if success else None
