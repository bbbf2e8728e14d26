"""The HTTP server: it listens, serves and reloads its configuration until a signal ends it."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import hdrs, web

from llem_exporter import systemd
from llem_exporter.web.addresses import announce
from llem_exporter.web.auth import Guard
from llem_exporter.web.limits import Connections
from llem_exporter.web.reload import LiveWebConfig

SHUTDOWN_SECONDS: Final = 0.5
"""How long responses in progress may take at the end. Then all connections are closed."""


async def serve(
    routes: Iterable[web.AbstractRouteDef],
    config: LiveWebConfig,
    connections: Connections,
    open_sockets: Callable[[], Sequence[socket.socket]],
    every_second: Callable[[], None],
    notify_socket: str | None = None,
) -> None:
    """Serve on listening sockets until SIGTERM or SIGINT. Raises the errors of the functions.

    The service manager is notified on `notify_socket` when the exporter is ready.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, config.reload_soon)
    application = web.Application(middlewares=[connections.limit_request, Guard(config).check])
    application.on_response_prepare.append(_name_server)
    application.add_routes(routes)
    runner = web.AppRunner(application, shutdown_timeout=2 * SHUTDOWN_SECONDS)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - set by setup()
    try:
        listeners = open_sockets()
        accepting = [
            asyncio.create_task(connections.accept(listener, runner.server, lambda: config.ssl_context))
            for listener in listeners
        ]
        config.watch(lambda: loop.call_soon_threadsafe(connections.drop_all))
        announce(listeners, tls=config.ssl_context is not None, guarded=config.needs_password)
        systemd.notify(notify_socket, "READY=1")
        await _watch(stopped, accepting, every_second, connections.check_deadlines)
        for task, listener in zip(accepting, listeners, strict=True):
            task.cancel()
            listener.close()
        loop.call_later(SHUTDOWN_SECONDS, connections.drop_all)
    finally:
        await runner.cleanup()


async def _watch(
    stopped: asyncio.Event, accepting: Sequence[asyncio.Task[None]], *every_second: Callable[[], None]
) -> None:
    """Call functions once a second until `stopped` is set. Raises the error of a task that has ended."""
    while not stopped.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 1.0)
        for function in every_second:
            function()
        for task in accepting:
            if task.done():
                task.result()


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "llem-exporter"  # aiohttp would show its version and Python's
