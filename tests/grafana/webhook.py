"""A webhook on loopback that keeps what Alertmanager sends."""

import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

from tests.servers import wait_until


@dataclass(frozen=True, slots=True)
class Notice:
    """One alert as it arrived: "firing" or "resolved"."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        return self.labels["alertname"]


class Webhook:
    """Ready on entry; every alert that arrives is in `notices()`."""

    def __init__(self) -> None:
        self._notices: list[Notice] = []
        self._lock = Lock()
        keep = self._keep

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keep(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def notices(self) -> list[Notice]:
        """All so far, in the order of their arrival."""
        with self._lock:
            return list(self._notices)

    def wait_for(self, alert: str, status: str, timeout_s: float, **labels: str) -> Notice:
        """The first notice of an alert with this status and these labels."""

        def found() -> Notice | None:
            return next(iter(self.of(alert, status, **labels)), None)

        notice = wait_until(found, f"{alert} {status} {labels} at the webhook", timeout_s)
        assert notice is not None
        return notice

    def of(self, alert: str, status: str, **labels: str) -> list[Notice]:
        """The notices of an alert with this status and these labels."""
        return [
            notice
            for notice in self.notices()
            if (notice.name, notice.status) == (alert, status) and labels.items() <= notice.labels.items()
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _keep(self, message: dict[str, Any]) -> None:
        notices = [Notice(each["status"], each["labels"], each["annotations"]) for each in message["alerts"]]
        with self._lock:
            self._notices += notices
