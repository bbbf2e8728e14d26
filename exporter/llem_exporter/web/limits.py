"""Limits on clients: connections, requests, and the time that each may take.

asyncio's own server cannot keep them: it hides a connection until its TLS handshake is done, and at the last
file descriptor it pauses for a second and reports the error once for each entry of the backlog.
"""

import asyncio
import fcntl
import logging
import resource
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from llem_exporter.web.log_once import LogOnce

MAX_CONNECTIONS: Final = 128
"""Each TLS connection takes 256 KiB in asyncio from its first byte: 32 MB for all."""
MAX_HEADERS: Final = 64
MAX_REQUEST_BYTES: Final = 32_768
"""The most that is read of one request. Requests have no bodies."""

HANDSHAKE_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 10.0
"""From the first byte of a connection or request until the request is complete."""

RESPONSE_SECONDS: Final = 60.0
MAX_RESPONSE_SECONDS: Final = 120.0
GRACE_SECONDS: Final = 1.0
"""A connection this young is not idle: its request may be on the way."""

RETRY_ACCEPT_SECONDS: Final = 0.1
WRITE_BUFFER_BYTES: Final = 65_536
MAX_SCRAPES: Final = 16
RETRY_AFTER_SECONDS: Final = "5"
COSTLY_PAGES: Final = {"/metrics", "/history"}

_REQUEST_END: Final = b"\r\n\r\n"
_NEVER: Final = float("inf")
_RESET: Final = struct.pack("ii", 1, 0)  # linger for 0 s: close() sends RST and discards unsent data

_log = logging.getLogger(__name__)


def max_connections() -> int:
    """At most 128, and at most half of the process's file descriptors."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 2))


class Connection(web.RequestHandler):
    """aiohttp's side of one connection, with a deadline and a limit of what is read.

    aiohttp gives it to the handlers as `request.protocol`.
    """

    def __init__(self, server: web.Server, accepted: socket.socket, options: Mapping[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **options)
        self.opening: asyncio.Task[None] | None = None
        self.idle_since_s = loop.time()
        self.is_busy = self.is_answered = False
        self.page = ""
        self.on_lost: Callable[[Connection, bool], object] = lambda _connection, _unread: None
        self._now_s, self._accepted = loop.time, accepted
        self._stream: asyncio.Transport | None = None
        self._due_s = self.idle_since_s + REQUEST_SECONDS
        self._is_in_request, self._received_bytes, self._last_bytes = True, 0, _REQUEST_END
        self._is_unread = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TLS handshake is done, if there is one."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket
        self._stream = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is closed. An error means that the client's kernel sent RST."""
        self.on_lost(self, self._is_unread or exc is not None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on to aiohttp's parser."""
        if not self.is_busy and not self._is_in_request:
            self._due_s = self._now_s() + REQUEST_SECONDS
        self._last_bytes = (self._last_bytes + data)[-len(_REQUEST_END) :]
        self._is_in_request = self._last_bytes != _REQUEST_END
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.drop()
        else:
            super().data_received(data)

    def begin(self, limit_s: float) -> None:
        """A request is complete. The client must have received the response in `limit_s`."""
        self.is_busy, self._received_bytes = True, 0
        self.idle_since_s = self._now_s()
        self._due_s = self.idle_since_s + limit_s

    def end(self, *, answered: bool) -> None:
        """The response is written, though perhaps not sent."""
        self.is_busy, self.is_answered, self.page = False, self.is_answered or answered, ""
        self.idle_since_s = self._now_s()
        if self._is_in_request:
            self._due_s = min(self._due_s, self.idle_since_s + REQUEST_SECONDS)

    def check_deadline(self) -> None:
        """Close the connection if the request or the response has missed its deadline."""
        if self._now_s() < self._due_s:
            return
        if self.is_busy or self._is_in_request or self._has_unsent():
            self.drop()
        else:
            self._due_s = _NEVER

    def drop(self) -> None:
        """Close at once and discard unsent data."""
        self._is_unread = self.is_busy or self._has_unsent()
        with suppress(OSError):
            self._accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self._stream is not None:
            self._stream.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def _has_unsent(self) -> bool:
        """Whether the client's kernel has not yet acknowledged all that was written."""
        try:
            unsent = fcntl.ioctl(self._accepted, termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):  # closed
            return False
        return unsent != b"\0" * 4


class Connections:
    """Accepts connections and limits them.

    At the limit, and at the last file descriptor, the connection that has been idle longest is closed:
    first those without a request, then served ones; if fewer than half are served ones, those last.
    Connections in `known()` are never closed for others. `on_unread` is called with each connection that
    ended before its client had read everything.
    """

    def __init__(
        self, limit: int, known: Callable[[], Collection[object]], on_unread: Callable[[object], object]
    ) -> None:
        self._limit, self._known, self._on_unread = limit, known, on_unread
        self._now_s = asyncio.get_running_loop().time
        self._open = set[Connection]()
        self._log = LogOnce(_log, self._now_s)

    def __len__(self) -> int:
        return len(self._open)

    async def accept(
        self,
        listener: socket.socket,
        new_connection: Callable[[socket.socket], Connection],
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
            connection = new_connection(accepted)
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
        now_s, known = self._now_s(), self._known()
        # New connections must not push out scrapers, and scrapers must not keep out all new connections.
        few = 2 * sum(connection.is_answered for connection in self._open) < self._limit

        def order(connection: Connection) -> tuple[int, float]:
            is_young = now_s - connection.idle_since_s < GRACE_SECONDS
            rank = 2 if few and connection.is_answered else int(connection.is_answered or is_young)
            return 3 if connection.is_busy else rank, connection.idle_since_s

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
        """Refuse oversized requests, and give the response the scraper's own timeout."""
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - accept() makes no others
        connection.begin(_response_seconds(request))
        status = 500
        try:
            refusal = _refusal(request)
            response = await handler(request) if refusal is None else refusal
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


def _refusal(request: web.Request) -> web.StreamResponse | None:
    if request.body_exists:
        refusal = web.Response(status=413, text="a request must not have a body\n")
    elif len(request.headers) > MAX_HEADERS:
        refusal = web.Response(status=431, text=f"more than {MAX_HEADERS} headers\n")
    else:
        return None
    refusal.force_close()
    return refusal


def _response_seconds(request: web.Request) -> float:
    """The scraper's own timeout, which Prometheus sends, or a default."""
    try:
        limit_s = float(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return RESPONSE_SECONDS
    return min(limit_s, MAX_RESPONSE_SECONDS) if limit_s > 0 else RESPONSE_SECONDS
