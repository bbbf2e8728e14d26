"""HTTP: what each path answers, and the loop that the program lives in."""

import asyncio
import gzip
import logging
import signal
import socket
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry

from llem_exporter import systemd
from llem_exporter.history.cursors import ScraperCursors
from llem_exporter.web import landing, negotiation
from llem_exporter.web.config import WebConfig
from llem_exporter.web.connections import Connections, max_connections
from llem_exporter.web.history import GZIP_LEVEL, HistoryHandler
from llem_exporter.web.listening import Address, announce, listen
from llem_measure.sampling.sampler import Sampler

KEEPALIVE_SECONDS: Final = 300.0
"""Longer than scrape intervals are: a connection that is used again shows that its last answer was read."""

SHUTDOWN_SECONDS: Final = 0.5
"""For requests in progress; then every connection is closed."""

MAX_HEADER_BYTES: Final = 8190
"""Of one header; all of a request's together have connections.MAX_REQUEST_BYTES."""

MAX_SCRAPES: Final = 16
RETRY_SECONDS: Final = 5
COSTLY_PAGES: Final = {"/metrics", "/history"}


class Scrapes:
    """How many answers of each costly page are made at once; `known` scrapers always get theirs."""

    def __init__(self, known: Callable[[], Collection[object]]) -> None:
        self._known = known
        self._now: Counter[str] = Counter()

    @web.middleware
    async def limited(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """503 beyond the limit."""
        page = request.path
        if page not in COSTLY_PAGES:
            return await handler(request)
        if self._now[page] >= MAX_SCRAPES and request.protocol not in self._known():
            text = f"{MAX_SCRAPES} scrapes of {page} are being answered; come again\n"
            return web.Response(status=503, text=text, headers={"Retry-After": str(RETRY_SECONDS)})
        self._now[page] += 1
        try:
            response = await handler(request)
            await response.prepare(request)
            await response.write_eof()
            return response
        finally:
            self._now[page] -= 1


class Pages:
    """The handlers; one instance serves one sampler."""

    def __init__(
        self, sampler: Sampler, registry: CollectorRegistry, history: HistoryHandler, retention_ms: int
    ) -> None:
        self._sampler, self._registry, self._history = sampler, registry, history
        self._retention_ms = retention_ms

    def add_to(self, application: web.Application) -> None:
        """All routes; each GET answers HEAD as well."""
        application.add_routes(
            [
                web.get("/", self._landing),
                web.get("/metrics", self._metrics),
                web.get("/history", self._history.answer),
                web.get("/-/healthy", self._healthy),
                web.get("/-/ready", self._ready),
            ]
        )

    async def _landing(self, request: web.Request) -> web.Response:
        sampler = self._sampler
        now_ms, host = sampler.clock.now_ms(), landing.target(request)
        page = landing.render(host, sampler.interval_ms, self._retention_ms, now_ms)
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


@dataclass(frozen=True, slots=True)
class Site:
    """Where to serve: on sockets that were handed over, else on addresses; and how.

    `notify_socket` is the service manager's, which wants to know when the exporter is ready.
    """

    addresses: Sequence[Address]
    inherited: Sequence[socket.socket] | None
    config: WebConfig
    notify_socket: str | None = None


async def serve(pages: Pages, site: Site, cursors: ScraperCursors, every_second: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; the log says where. Raises ConfigError where it cannot listen.

    The connections of those who have one of the `cursors` are not closed in favour of others.
    """
    loop, config, known = asyncio.get_running_loop(), site.config, cursors.connections
    connections = Connections(max_connections(), known, cursors.connection_reset, loop.time)

    def reload(*, force: bool) -> None:
        config.reload_if_changed(force=force)
        connections.ssl_context = config.ssl_context  # for those who come from now on

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: reload(force=True))
    application = web.Application(middlewares=[connections.bounded])
    config.guard(application)
    application.middlewares.append(Scrapes(known).limited)  # whom the guard refuses takes nobody's place
    pages.add_to(application)
    runner = _runner(application)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - setup() has made it
    try:
        listeners = listen(site.addresses) if site.inherited is None else site.inherited
        connections.ssl_context = config.ssl_context
        connections.accept_from(listeners, runner.server)
        announce(listeners, tls=config.ssl_context is not None, guarded=config.is_guarded)
        systemd.notify(site.notify_socket, "READY=1")
        while not stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 1.0)
            every_second()
            reload(force=False)
            connections.sweep()
        connections.refuse()
        loop.call_later(SHUTDOWN_SECONDS, connections.drop_all)
    finally:
        await runner.cleanup()


def _runner(application: web.Application) -> web.AppRunner:
    requests_log = logging.getLogger(f"{__name__}.requests")
    requests_log.addFilter(_is_ours)
    return web.AppRunner(
        application,
        logger=requests_log,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=2 * SHUTDOWN_SECONDS,  # what is cut by then has ended
        lingering_time=0.0,  # no body is waited for
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a request failed by our fault: not where it was malformed, or its client has gone."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)
