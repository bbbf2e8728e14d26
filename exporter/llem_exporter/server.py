"""HTTP: what each path answers, and the loop that the program lives in."""

import asyncio
import gzip
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from socket import gaierror
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry

from llem_core.errors import ConfigError
from llem_exporter import landing, negotiation
from llem_exporter.history_page import GZIP_LEVEL, HistoryPage
from llem_exporter.sampler import Sampler

KEEPALIVE_SECONDS: Final = 300.0
"""Longer than scrape intervals are: a connection that is used again shows that its last answer was read."""

SHUTDOWN_SECONDS: Final = 0.5
"""For requests in progress; a client that does not read is waited for twice as long."""
MAX_HEADER_BYTES: Final = 8190

_log = logging.getLogger(__name__)


class Pages:
    """The handlers; one instance serves one sampler."""

    def __init__(self, sampler: Sampler, registry: CollectorRegistry, history: HistoryPage) -> None:
        self._sampler, self._registry, self._history = sampler, registry, history

    def application(self) -> web.Application:
        """All routes; each GET answers HEAD as well."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/", self._landing),
                web.get("/metrics", self._metrics),
                web.get("/history", self._history.answer),
                web.get("/-/healthy", self._healthy),
                web.get("/-/ready", self._ready),
            ]
        )
        return application

    async def _landing(self, request: web.Request) -> web.Response:
        sampler = self._sampler
        page = landing.render(request.host, sampler.interval_ms, sampler.retention_ms, sampler.clock.now_ms())
        body = page.encode(errors="replace")  # the Host header may hold any bytes
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._sampler.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready: a GPU has not answered yet\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        encoder, content_type = negotiation.encoder_for(request.headers)
        headers = {"Content-Type": content_type}
        body = encoder(self._registry)
        if negotiation.gzip_accepted(request.headers):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, GZIP_LEVEL)
        return web.Response(body=body, headers=headers)


async def serve(
    application: web.Application, host: str | None, port: int, every_second: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT; the log says where. Raises ConfigError where it cannot listen."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    requests_log = logging.getLogger(f"{__name__}.requests")
    requests_log.addFilter(_is_ours)
    runner = web.AppRunner(
        application,
        logger=requests_log,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    await runner.setup()
    try:
        listener = await _listen(runner, host, port)
        while not stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 1.0)
            every_second()
        listener.close()
    finally:
        await runner.cleanup()


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a request failed by our fault; a malformed one is the client's, who is told so."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


async def _listen(runner: web.AppRunner, host: str | None, port: int) -> asyncio.Server:
    assert runner.server is not None  # noqa: S101 - setup() has made it
    try:
        listener = await asyncio.get_running_loop().create_server(runner.server, host, port)
    except (OSError, UnicodeError) as exc:
        if isinstance(exc, gaierror):
            reason = exc.strerror
        else:
            reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else str(exc)
        raise ConfigError(f"cannot listen on {host or ''}:{port}: {reason}") from exc
    for socket in listener.sockets:
        address, bound_port = socket.getsockname()[:2]
        _log.info("listening on http://%s:%d", f"[{address}]" if ":" in address else address, bound_port)
    return listener
