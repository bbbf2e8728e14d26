"""Pushgateway from Debian's package."""

from collections.abc import Sequence

from tests.servers.process import Server, program


class Pushgateway(Server):
    """A Pushgateway that keeps its metrics in memory."""

    def _command(self) -> Sequence[str]:
        binary = program("prometheus-pushgateway", "prometheus-pushgateway")
        return [binary, f"--web.listen-address={self.address}"]

    def _ready(self) -> bool:
        return self._answers("/-/ready")
