"""Limits on clients: how many connections, how many scrapes at once, and how long a response may take.

asyncio's own server cannot keep them: it hides a connection until its TLS handshake is done, and at the last
file descriptor it pauses for a second and reports the error once for each entry of the backlog.
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

from llem_exporter.web.connection import Connection
from llem_exporter.web.log_once import LogOnce

MAX_CONNECTIONS: Final = 128
"""Each TLS connection takes 256 KiB in asyncio from its first byte: 32 MB for all."""

HANDSHAKE_SECONDS: Final = 5.0
RESPONSE_SECONDS: Final = 60.0
MAX_RESPONSE_SECONDS: Final = 120.0
RETRY_ACCEPT_SECONDS: Final = 0.1
MAX_SCRAPES: Final = 16
RETRY_AFTER_SECONDS: Final = "5"
COSTLY_PAGES: Final = {"/metrics", "/history"}

_log = logging.getLogger(__name__)


def max_connections() -> int:
    """At most 128, and at most half of the process's file descriptors."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 2))


class Connections:
    """Accepts connections and limits them.

    At the limit, and at the last file descriptor, the connection that has been idle longest is closed for
    each new one. While fewer than half have been served, a connection that has not been served goes first.
    Connections in `known()` are never closed for others. `on_unread` is called with each connection that
    ended before its client had read everything.
    """

    def __init__(
        self, limit: int, known: Callable[[], Collection[object]], on_unread: Callable[[object], object]
    ) -> None:
        self._limit, self._known, self._on_unread = limit, known, on_unread
        self._open = set[Connection]()
        self._log = LogOnce(_log, asyncio.get_running_loop().time)

    def __len__(self) -> int:
        return len(self._open)

    async def accept(
        self,
        listener: socket.socket,
        server: web.Server,
        ssl_context: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        """Accept connections until cancelled. A new connection gets the current TLS context."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._log.warn(f"cannot accept connections: {exc.strerror}; closing idle ones")
                await asyncio.sleep(0 if self._drop_idlest() else RETRY_ACCEPT_SECONDS)
                continue
            if len(self._open) >= self._limit:
                self._log.warn(f"{self._limit} connections are open; closing idle ones for new ones")
                if not self._drop_idlest():
                    accepted.close()
                    continue
            accepted.setblocking(False)
            connection = Connection(server, accepted)
            connection.on_lost = self._lost
            self._open.add(connection)
            connection.opening = loop.create_task(self._open_stream(connection, accepted, ssl_context()))
            await asyncio.sleep(0)  # a task that is cancelled before it starts would leak the socket

    async def _open_stream(
        self, connection: Connection, accepted: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        """Start the transport of a connection, with a TLS handshake if there is a context."""
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 1.0} if context else {}
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, ssl=context, **times)
        except OSError:  # the client has gone, or the handshake failed
            self._open.discard(connection)
        except asyncio.CancelledError:
            self._open.discard(connection)
            raise
        finally:
            connection.opening = None

    def _lost(self, connection: Connection, is_unread: bool) -> None:
        self._open.discard(connection)
        if is_unread:
            self._on_unread(connection)

    def _drop_idlest(self) -> bool:
        """Close the connection that matters least. False if none may be closed."""
        known = self._known()
        # Silent connections must not push out served ones, and served ones must not keep out all others.
        few = 2 * sum(connection.is_answered for connection in self._open) < self._limit

        def order(connection: Connection) -> tuple[int, float]:
            return 2 if connection.is_busy else int(few and connection.is_answered), connection.idle_since_s

        idlest = min((one for one in self._open if one not in known), key=order, default=None)
        if idlest is None:
            return False
        self._open.discard(idlest)
        idlest.drop()
        return True

    def drop_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self._open):
            connection.drop()

    def check_deadlines(self) -> None:
        """Close the connections that have missed a deadline. Call it once a second."""
        for connection in list(self._open):
            connection.check_deadline()
        self._log.check()

    @web.middleware
    async def limit_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse bodies, and give the response the scraper's own timeout."""
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - accept() makes no others
        connection.begin(_response_seconds(request))
        status = 500
        try:
            if request.body_exists:
                response: web.StreamResponse = web.Response(status=413, text="a body is not allowed\n")
                response.force_close()
            else:
                response = await handler(request)
            status = response.status
            with suppress(ConnectionError):  # aiohttp notices it, too
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            connection.end(answered=status < 400)

    @web.middleware
    async def limit_scrapes(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 503 to more than 16 scrapes of a page at once. Known scrapers are always served."""
        connection, page = request.protocol, request.path
        if page in COSTLY_PAGES and isinstance(connection, Connection):
            scrapes = sum(other.page == page for other in self._open)
            if scrapes >= MAX_SCRAPES and connection not in self._known():
                text = f"{MAX_SCRAPES} scrapes of {page} are in progress; try again later\n"
                return web.Response(status=503, text=text, headers={"Retry-After": RETRY_AFTER_SECONDS})
            connection.page = page
        return await handler(request)


def _response_seconds(request: web.Request) -> float:
    """The scraper's own timeout, which Prometheus sends, or a default."""
    try:
        limit_s = float(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return RESPONSE_SECONDS
    return min(limit_s, MAX_RESPONSE_SECONDS) if limit_s > 0 else RESPONSE_SECONDS
