"""The query API that Prometheus and VictoriaMetrics share."""

import json
from typing import Any

from tests.servers.process import START_SECONDS, Server, ServerError, wait_until


class QueryServer(Server):
    """A store with Prometheus's query API."""

    def query(self, expression: str, unix_s: float | None = None) -> list[Any]:
        """Return `data.result` of an instant query at `unix_s`, by default now."""
        fields = {"query": expression} | ({} if unix_s is None else {"time": f"{unix_s:.3f}"})
        answer = json.loads(self.fetch_text("/api/v1/query", fields, method="POST"))
        result: list[Any] = answer["data"]["result"]
        return result

    def value(self, expression: str, unix_s: float | None = None) -> float:
        """Return the value of an expression whose result has one series."""
        result = self.query(expression, unix_s)
        if len(result) != 1:
            raise ServerError(f"{expression} has {len(result)} series instead of one: {result}")
        return float(result[0]["value"][1])

    def wait_for(self, expression: str, timeout_s: float = START_SECONDS) -> list[Any]:
        """Return the first result of `query(expression)` that is not empty."""
        return wait_until(lambda: self.query(expression), f"{expression} on {self.url}", timeout_s)
