"""VictoriaMetrics from Debian's package."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.process import program
from tests.servers.query import QueryServer


class VictoriaMetrics(QueryServer):
    """A VictoriaMetrics whose data and scrape configuration are in `directory`."""

    def __init__(
        self,
        directory: Path,
        scrape_configs: Sequence[Mapping[str, Any]] = (),
        *,
        args: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        super().__init__(port=port)
        self._directory = directory
        self._args = tuple(args)
        self._binary = program("victoria-metrics", "victoria-metrics")
        self._config_file = directory / "scrape.yml"
        self._config_file.write_text(json.dumps({"scrape_configs": list(scrape_configs)}))

    def flush(self) -> None:
        """Make all stored samples visible to queries."""
        self.fetch_text("/internal/force_flush")

    def query(self, expression: str, unix_s: float | None = None) -> list[Any]:
        # Without a flush, VictoriaMetrics caches an empty result from before the first sample for 10 s.
        self.flush()
        return super().query(expression, unix_s)

    def export(self, selector: str) -> list[dict[str, Any]]:
        """Return the raw samples of each series: dicts with `metric`, `values`, `timestamps` (unix ms)."""
        self.flush()
        lines = self.fetch_text("/api/v1/export", {"match[]": selector}, method="POST").splitlines()
        return [json.loads(line) for line in lines]

    def _command(self) -> Sequence[str]:
        return [
            self._binary,
            f"-promscrape.config={self._config_file}",
            f"-storageDataPath={self._directory / 'data'}",
            f"-httpListenAddr={self.address}",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",  # the default hides the newest 30 s
            "-memory.allowedBytes=256MB",
            *self._args,
        ]

    def _ready(self) -> bool:
        return self._answers("/health")
