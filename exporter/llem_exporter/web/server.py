"""The HTTP server: it listens, serves and reloads its configuration until a signal ends it."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from llem_exporter import systemd
from llem_exporter.web.addresses import Address, announce, listen
from llem_exporter.web.handlers import Handlers
from llem_exporter.web.limits import Connections, max_connections
from llem_exporter.web.reload import LiveWebConfig

KEEPALIVE_SECONDS: Final = 300.0
"""Longer than scrape intervals: a scraper that reuses its connection has read the last response."""

SHUTDOWN_SECONDS: Final = 0.5
"""For responses in progress at the end. Then all connections are closed."""

MAX_HEADER_BYTES: Final = 8190
"""Of one header. limits.MAX_REQUEST_BYTES limits all headers of a request together."""


class HistoryScrapers(Protocol):
    """What the server must know and tell about the scrapers of /history."""

    def connections(self) -> Collection[object]:
        """The connections that known scrapers used last. The server does not close them for others."""
        ...

    def unread(self, connection: object) -> None:
        """This connection was reset before the client had read everything."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """Where to serve: on `inherited` sockets if given, else on `addresses`.

    `notify_socket` is the service manager's, which is notified when the exporter is ready.
    """

    addresses: Sequence[Address]
    inherited: Sequence[socket.socket] | None
    config: LiveWebConfig
    notify_socket: str | None = None


async def serve(
    handlers: Handlers, site: Site, scrapers: HistoryScrapers, every_second: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError if it cannot listen."""
    loop, config = asyncio.get_running_loop(), site.config
    connections = Connections(max_connections(), scrapers.connections, scrapers.unread, loop.time)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, config.reload_soon)
    runner = _runner(handlers, config, connections)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - set by setup()
    accepting: list[asyncio.Task[None]] = []
    try:
        listeners = listen(site.addresses) if site.inherited is None else site.inherited
        for listener in listeners:
            accept = connections.accept_from(listener, runner.server, lambda: config.ssl_context)
            accepting.append(asyncio.create_task(accept))
        config.watch(lambda: loop.call_soon_threadsafe(connections.drop_all))
        announce(listeners, tls=config.ssl_context is not None, guarded=config.is_guarded)
        systemd.notify(site.notify_socket, "READY=1")
        while not stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 1.0)
            every_second()
            connections.check_deadlines()
        for task, listener in zip(accepting, listeners, strict=True):
            task.cancel()
            listener.close()
        loop.call_later(SHUTDOWN_SECONDS, connections.drop_all)
    finally:
        config.stop()
        await runner.cleanup()


def _runner(handlers: Handlers, config: LiveWebConfig, connections: Connections) -> web.AppRunner:
    application = web.Application(middlewares=[connections.limit_request])
    config.guard(application)
    application.middlewares.append(connections.limit_scrapes)  # after the guard: refused clients do not count
    handlers.add_to(application)
    requests_log = logging.getLogger(f"{__name__}.requests")
    requests_log.addFilter(_is_our_error)
    return web.AppRunner(
        application,
        logger=requests_log,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=2 * SHUTDOWN_SECONDS,  # longer than the time until all connections are closed
        lingering_time=0.0,  # bodies are not read
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


def _is_our_error(record: logging.LogRecord) -> bool:
    """False for errors that a malformed request or a lost connection causes."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)
