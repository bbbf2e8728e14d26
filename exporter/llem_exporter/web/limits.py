"""Limits on clients: the number of connections, and the duration of a response.

asyncio's own server cannot enforce them: it hides a connection until its TLS handshake is done, and at the
last file descriptor it pauses for a second and reports the error once for each entry of the backlog.
"""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from llem_exporter.web import scrape_headers
from llem_exporter.web.connection import Connection

MAX_CONNECTIONS: Final = 128
"""Each TLS connection takes 256 KiB in asyncio from its first byte: 32 MB for all."""

HANDSHAKE_SECONDS: Final = 5.0
RESPONSE_SECONDS: Final = 60.0
MAX_RESPONSE_SECONDS: Final = 120.0
RETRY_ACCEPT_SECONDS: Final = 0.1
MIN_LIFE_SECONDS: Final = 0.1
"""At the limit, a connection lives at least this long, so that its client has time to send a request."""

QUIET_SECONDS: Final = 60.0
"""A warning is logged again only after its cause was absent for this long."""

_log = logging.getLogger(__name__)


def max_connections() -> int:
    """Return 128, or half of the process's file descriptors if that is less."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if descriptors < 0 else min(MAX_CONNECTIONS, descriptors // 2)


class Connections:
    """Accepts connections and limits them.

    At the limit, and at the last file descriptor, each new connection replaces the one that has been idle
    longest. Connections in `known()` are never replaced. `on_unread` is called with each connection that
    ended before its client had read everything.
    """

    def __init__(
        self, limit: int, known: Callable[[], Collection[object]], on_unread: Callable[[object], object]
    ) -> None:
        self._limit, self._known, self._on_unread = limit, known, on_unread
        self._open = set[Connection]()
        self._warned_s = float("-inf")

    def __len__(self) -> int:
        return len(self._open)

    async def accept(
        self, listener: socket.socket, server: web.Server, ssl_context: Callable[[], ssl.SSLContext | None]
    ) -> None:
        """Accept connections until cancelled. A new connection gets the current TLS context."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            pause_s = 0.0
            try:
                accepted, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._warn(
                    f"cannot accept connections: {exc.strerror}; the longest idle connection is closed; "
                    "raise the open file limit (LimitNOFILE=)"
                )
                await asyncio.sleep(0 if self._drop_idlest() else RETRY_ACCEPT_SECONDS)
                continue
            if len(self._open) >= self._limit:
                self._warn(
                    f"the limit of {self._limit} connections is reached; "
                    "the longest idle connection is closed for each new one"
                )
                if not self._drop_idlest():
                    accepted.close()
                    continue
                pause_s = MIN_LIFE_SECONDS / self._limit
            accepted.setblocking(False)
            connection = Connection(server, accepted, self._lost)
            self._open.add(connection)
            connection.opening = loop.create_task(self._open_stream(connection, accepted, ssl_context()))
            # At least one turn of the loop: a task that is cancelled before it starts would leak the socket.
            await asyncio.sleep(pause_s)

    async def _open_stream(
        self, connection: Connection, accepted: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        """Start the transport of a connection, with a TLS handshake if there is a context."""
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 1.0} if context else {}
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, ssl=context, **times)
        except (OSError, asyncio.CancelledError) as exc:
            # The client has gone, the handshake failed, or drop() was called.
            self._open.discard(connection)
            # Its frames refer to the error, and to asyncio's buffer of 256 KiB, which only the garbage
            # collector would free.
            exc.__traceback__ = None
        finally:
            connection.opening = None

    def _lost(self, connection: Connection, is_unread: bool) -> None:
        self._open.discard(connection)
        if is_unread:
            self._on_unread(connection)

    def _drop_idlest(self) -> bool:
        """Close the connection that has been idle longest. Return False if none may be closed."""
        closable = self._open.difference(self._known())
        idlest = min(closable, key=lambda other: (other.is_busy, other.idle_since_s), default=None)
        if idlest is None:
            return False
        self._open.discard(idlest)
        idlest.drop()
        return True

    def _warn(self, message: str) -> None:
        """Log a warning, unless there was one in the last minute."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._warned_s > QUIET_SECONDS:
            _log.warning("%s", message)
        self._warned_s = now_s

    def drop_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self._open):
            connection.drop()

    def check_deadlines(self) -> None:
        """Close the connections that have missed a deadline. Call it once a second."""
        for connection in list(self._open):
            connection.check_deadline()

    @web.middleware
    async def limit_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Reject requests with a body. Limit the response time to the scrape timeout that the client sent."""
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - accept() makes no others
        limit_s = scrape_headers.timeout_s(request.headers) or RESPONSE_SECONDS
        connection.begin(min(limit_s, MAX_RESPONSE_SECONDS))
        try:
            if request.body_exists:
                response: web.StreamResponse = web.Response(status=413, text="a body is not allowed\n")
                response.force_close()
            else:
                response = await handler(request)
            with suppress(ConnectionError):  # aiohttp notices it, too
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            connection.end()
