"""A Thanos querier: queries as in Prometheus, and an error while one of its stores is down."""

import json
from typing import Final

from llem_core.errors import SourceError
from llem_integrator.http.client import Answer, Http
from llem_integrator.stores.prometheus import PrometheusSource
from llem_integrator.stores.queries.promql import Promql

_STORES: Final = "/api/v1/stores"
_PARAMETERS: Final = {"dedup": "false", "partial_response": "false", "max_source_resolution": "0s"}
"""Replicas are not deduplicated, a store that does not answer is an error, and no value is downsampled."""


def thanos(http: Http) -> PrometheusSource:
    """Return a Thanos querier: it has no remote read, and its replicas are merged by time here."""
    return PrometheusSource(http, promql=_ThanosPromql(http, _PARAMETERS), remote_read=False)


class _ThanosPromql(Promql):
    """The query API of a querier whose stores are all healthy."""

    def _ask(self, expression: str, time_ms: int) -> Answer:
        answer = super()._ask(expression, time_ms)
        self._check_stores()
        return answer

    def _check_stores(self) -> None:
        """Raise SourceError if a store is down.

        Thanos leaves out stores that failed their last health check, even with partial_response=false.
        """
        answer = self._http.request("GET", _STORES)
        if answer.status != 200:
            raise self._http.refusal(_STORES, answer)
        try:
            by_kind = json.loads(answer.body)["data"].values()
            errors = {store["name"]: store["lastError"] for stores in by_kind for store in stores}
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as exc:
            raise SourceError(f"{self._http.address}{_STORES} does not list stores") from exc
        for name, error in errors.items():
            if error:
                raise SourceError(f"{self._http.address}: its store {name} is down: {error}")
