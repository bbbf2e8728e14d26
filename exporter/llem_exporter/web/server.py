"""The HTTP server: it listens, serves and reloads its configuration until a signal ends it."""

import asyncio
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web

from llem_exporter import systemd
from llem_exporter.web.addresses import Address, announce, listen
from llem_exporter.web.auth import Guard
from llem_exporter.web.handlers import Handlers
from llem_exporter.web.limits import Connections, max_connections
from llem_exporter.web.reload import LiveWebConfig

SHUTDOWN_SECONDS: Final = 0.5
"""How long responses in progress may take at the end. Then all connections are closed."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where to serve: on `inherited` sockets if given, else on `addresses`.

    The service manager is notified on `notify_socket` when the exporter is ready.
    """

    addresses: Sequence[Address]
    inherited: Sequence[socket.socket] | None
    config: LiveWebConfig
    notify_socket: str | None = None


async def serve(
    handlers: Handlers,
    site: Site,
    *,
    known: Callable[[], Collection[object]],
    on_unread: Callable[[object], object],
    every_second: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError if it cannot listen.

    The connections in `known()` are not closed for others. `on_unread` is called with each connection that
    ended before its client had read everything. A connection is what a handler sees as `request.protocol`.
    """
    loop, config = asyncio.get_running_loop(), site.config
    connections = Connections(max_connections(), known, on_unread)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, config.reload_soon)
    application = web.Application(middlewares=[connections.limit_request, Guard(config).check])
    application.on_response_prepare.append(_name_server)
    handlers.add_to(application)
    runner = web.AppRunner(application, shutdown_timeout=2 * SHUTDOWN_SECONDS)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - set by setup()
    try:
        listeners = site.inherited or [listen(address) for address in site.addresses]
        accepting = [
            asyncio.create_task(connections.accept(listener, runner.server, lambda: config.ssl_context))
            for listener in listeners
        ]
        config.watch(lambda: loop.call_soon_threadsafe(connections.drop_all))
        announce(listeners, tls=config.ssl_context is not None, guarded=config.needs_password)
        systemd.notify(site.notify_socket, "READY=1")
        while not stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 1.0)
            every_second()
            connections.check_deadlines()
            for task in accepting:
                if task.done():
                    task.result()  # raises the error that ended it
        for task, listener in zip(accepting, listeners, strict=True):
            task.cancel()
            listener.close()
        loop.call_later(SHUTDOWN_SECONDS, connections.drop_all)
    finally:
        await runner.cleanup()


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "llem-exporter"  # aiohttp would show its version and Python's
