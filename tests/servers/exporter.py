"""llem-exporter from this checkout."""

import re
import sys
from collections.abc import Mapping, Sequence

from tests.servers.process import Server


class Exporter(Server):
    """llem-exporter. `args` are added to its command line.

    It listens on a port that the kernel chooses, or on `port`. Use free_port() for a port that must still be
    free after a long pause.
    """

    def __init__(
        self, *, env: Mapping[str, str] | None = None, args: Sequence[str] = (), port: int | None = None
    ) -> None:
        super().__init__(env=env, port=port)
        self._listen_port = port or 0
        self._args = tuple(args)
        self._starts = 0

    def metrics(self) -> str:
        """Return the text of /metrics."""
        return self.fetch_text("/metrics")

    def _command(self) -> Sequence[str]:
        self._starts += 1
        listen = f"127.0.0.1:{self._listen_port}"
        return [sys.executable, "-m", "llem_exporter", "--web.listen-address", listen, *self._args]

    def _ready(self) -> bool:
        found = re.findall(r"listening on http://127\.0\.0\.1:(\d+)", self.log())
        if len(found) < self._starts:
            return False
        self.port = self._listen_port = int(found[-1])
        return True
