"""Thanos, as built by `tests/run --full`: a sidecar of a Prometheus, and a querier of sidecars."""

import json
from collections.abc import Sequence

from tests.servers.process import Server, built_program, free_port
from tests.servers.prometheus import Prometheus
from tests.servers.query import QueryServer


class ThanosSidecar(Server):
    """A Thanos sidecar of a running Prometheus, which must have external labels."""

    def __init__(self, prometheus: Prometheus) -> None:
        super().__init__()
        self.grpc_address = f"127.0.0.1:{free_port()}"
        self._prometheus = prometheus

    def _command(self) -> Sequence[str]:
        return [
            built_program("thanos"),
            "sidecar",
            f"--prometheus.url={self._prometheus.url}",
            f"--tsdb.path={self._prometheus.data}",
            f"--http-address={self.address}",
            f"--grpc-address={self.grpc_address}",
            "--http-grace-period=0s",
            "--grpc-grace-period=0s",
        ]

    def _ready(self) -> bool:
        return self._answers("/-/ready")


class ThanosQuerier(QueryServer):
    """A Thanos querier that merges replicas by the label `replica`."""

    def __init__(self, *sidecars: ThanosSidecar) -> None:
        super().__init__()
        self._sidecars = sidecars

    def stores(self) -> dict[str, str | None]:
        """Return the last error of each store that the querier knows, by its address."""
        answer = json.loads(self.fetch_text("/api/v1/stores"))
        return {store["name"]: store["lastError"] for stores in answer["data"].values() for store in stores}

    def _command(self) -> Sequence[str]:
        return [
            built_program("thanos"),
            "query",
            f"--http-address={self.address}",
            f"--grpc-address=127.0.0.1:{free_port()}",
            "--http-grace-period=0s",
            "--grpc-grace-period=0s",
            "--query.replica-label=replica",
            *(f"--endpoint={sidecar.grpc_address}" for sidecar in self._sidecars),
        ]

    def _ready(self) -> bool:
        return self._answers("/-/ready") and self.stores() == {
            sidecar.grpc_address: None for sidecar in self._sidecars
        }
