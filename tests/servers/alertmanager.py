"""Alertmanager from Debian's package."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.process import Server, program


class Alertmanager(Server):
    """An Alertmanager with the configuration `config`. The default sends no notifications."""

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any] | None = None,
        *,
        args: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        super().__init__(port=port)
        self._directory = directory
        self._args = tuple(args)
        self._binary = program("prometheus-alertmanager", "prometheus-alertmanager")
        self._config_file = directory / "alertmanager.yml"
        silent = {"route": {"receiver": "none"}, "receivers": [{"name": "none"}]}
        self._config_file.write_text(json.dumps(config or silent))

    def alerts(self) -> list[Any]:
        """Return its alerts, as the dicts of its API (`labels`, `annotations`, `startsAt`, ...)."""
        alerts: list[Any] = json.loads(self.fetch_text("/api/v2/alerts"))
        return alerts

    def _command(self) -> Sequence[str]:
        return [
            self._binary,
            f"--config.file={self._config_file}",
            f"--storage.path={self._directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",  # no cluster
            *self._args,
        ]

    def _ready(self) -> bool:
        return self._answers("/-/ready")
