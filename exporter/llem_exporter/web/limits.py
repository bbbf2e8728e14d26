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
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from llem_exporter.web.log_once import LogOnce

MAX_CONNECTIONS: Final = 256
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
RETRY_AFTER_SECONDS: Final = 5
COSTLY_PAGES: Final = {"/metrics", "/history"}

_REQUEST_END: Final = b"\r\n\r\n"
_NEVER: Final = float("inf")
_RESET: Final = struct.pack("ii", 1, 0)  # linger for 0 s: close() sends RST and discards unsent data

_log = logging.getLogger(__name__)


def max_connections() -> int:
    """At most 256, and at most half of the process's file descriptors."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 2))


class Connection(asyncio.Protocol):
    """One client. Passes everything on to aiohttp's handler, and keeps the deadline."""

    def __init__(
        self, accepted: socket.socket, handler: web.RequestHandler, now_s: Callable[[], float]
    ) -> None:
        self.handler, self._socket, self._now_s = handler, accepted, now_s
        self.opening: asyncio.Task[None] | None = None
        self.idle_since_s = now_s()
        self.requested = self.answered = self.busy = False
        self.on_lost: Callable[[bool], object] = lambda _: None
        self._due_s = self.idle_since_s + REQUEST_SECONDS
        self._transport: asyncio.Transport | None = None
        self._received_bytes, self._last_bytes, self._overrun = 0, _REQUEST_END, False
        self._unread = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream socket
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self.handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_lost(self._unread or exc is not None)  # an error means that the client's kernel sent RST
        self.handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.requested and not self.busy and not self._is_in_request:
            self._due_s = self._now_s() + REQUEST_SECONDS
        self._last_bytes = (self._last_bytes + data)[-len(_REQUEST_END) :]
        room = MAX_REQUEST_BYTES - self._received_bytes
        self._received_bytes += len(data)
        if room > 0:
            self.handler.data_received(data[:room])
        if len(data) > room and self._transport is not None:
            self._transport.pause_reading()
            self._overrun = True
            self._due_s = self._now_s()  # unless a complete request has come, which begin() will show

    def eof_received(self) -> None:
        self.handler.eof_received()

    def pause_writing(self) -> None:
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        self.handler.resume_writing()

    @property
    def _is_in_request(self) -> bool:
        return self._last_bytes != _REQUEST_END

    def begin(self, limit_s: float) -> None:
        """A request is complete. The client must have received the response in `limit_s`."""
        self.requested = self.busy = True
        self._received_bytes = 0
        self.idle_since_s = self._now_s()
        self._due_s = self.idle_since_s + limit_s

    def end(self, *, answered: bool) -> None:
        """The response is written, though perhaps not sent."""
        self.busy, self.answered = False, self.answered or answered
        self.idle_since_s = self._now_s()
        if self._is_in_request:
            self._due_s = min(self._due_s, self.idle_since_s + REQUEST_SECONDS)

    def check(self) -> None:
        """Close the connection if it has missed its deadline."""
        if self._now_s() < self._due_s:
            return
        if self.busy or self._overrun or not self.requested or self._is_in_request or self._has_unsent():
            self.drop()
        else:
            self._due_s = _NEVER

    def drop(self) -> None:
        """Close at once and discard unsent data."""
        self._unread = self.busy or self._has_unsent()
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def _has_unsent(self) -> bool:
        """Whether the client has not yet acknowledged all that was written."""
        try:
            unsent = fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):  # closed
            return False
        return unsent != b"\0" * 4


class Connections:
    """Accepts connections and limits them.

    At the limit, and at the last file descriptor, the connection that has been idle longest is closed:
    first those without a request, then served ones; if fewer than half are served ones, those last.
    Connections in `known()` are never closed for others. `on_unread` is called with the handler of each
    connection that ended before its client had read everything.
    """

    def __init__(
        self,
        limit: int,
        known: Callable[[], Collection[object]],
        on_unread: Callable[[object], object],
        now_s: Callable[[], float],
    ) -> None:
        self._limit, self._known, self._on_unread, self._now_s = limit, known, on_unread, now_s
        self._open: dict[object, Connection] = {}
        self._log = LogOnce(_log, now_s)
        self._scrapes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    async def accept_from(
        self,
        listener: socket.socket,
        new_handler: Callable[[], web.RequestHandler],
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
            handler = new_handler()
            self._open[handler] = connection = Connection(accepted, handler, self._now_s)
            connection.on_lost = partial(self._lost, handler)
            connection.opening = loop.create_task(self._open_transport(connection, accepted, ssl_context()))
            await asyncio.sleep(0)  # the task must start: a task cancelled before that would leak the socket

    async def _open_transport(
        self, connection: Connection, accepted: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        """Make the transport of a connection, with a TLS handshake if there is a context."""
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 1.0} if context else {}
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, ssl=context, **times)
        except OSError:  # the client has gone, or the handshake failed
            self._lost(connection.handler)
        except asyncio.CancelledError:
            self._lost(connection.handler)
            raise
        finally:
            connection.opening = None

    def _lost(self, handler: object, unread: bool = False) -> None:
        self._open.pop(handler, None)
        if unread:
            self._on_unread(handler)

    def _drop_idlest(self) -> bool:
        """Close the connection that matters least. False if there is none that may be closed."""
        now_s, known = self._now_s(), self._known()
        # New connections must not push out scrapers, and scrapers must not keep out all new connections.
        few = 2 * sum(connection.answered for connection in self._open.values()) < self._limit

        def order(connection: Connection) -> tuple[int, float]:
            young = now_s - connection.idle_since_s < GRACE_SECONDS
            rank = 2 if few and connection.answered else int(connection.answered or young)
            return 3 if connection.busy else rank, connection.idle_since_s

        others = (connection for handler, connection in self._open.items() if handler not in known)
        idlest = min(others, key=order, default=None)
        if idlest is None:
            return False
        del self._open[idlest.handler]
        idlest.drop()
        return True

    def drop_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self._open.values()):
            connection.drop()

    def check_deadlines(self) -> None:
        """Close the connections that have missed their deadline. Call it once a second."""
        for connection in list(self._open.values()):
            connection.check()
        self._log.check()

    @web.middleware
    async def limit_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse oversized requests, and give the response the scraper's own timeout."""
        connection = self._open.get(request.protocol)
        if connection is None:
            return web.Response(status=503)  # the client has gone
        connection.begin(_response_seconds(request))
        status = 500
        try:
            refusal = _refusal(request)
            response = await handler(request) if refusal is None else refusal
            status = response.status
            await _write(request, response)
            return response
        finally:
            connection.end(answered=status < 400)

    @web.middleware
    async def limit_scrapes(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 503 to more than 16 scrapes of a page at once. Known scrapers are always served."""
        page = request.path
        if page not in COSTLY_PAGES:
            return await handler(request)
        if self._scrapes[page] >= MAX_SCRAPES and request.protocol not in self._known():
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            text = f"{MAX_SCRAPES} scrapes of {page} are in progress; try again later\n"
            return web.Response(status=503, text=text, headers=headers)
        self._scrapes[page] += 1
        try:
            response = await handler(request)
            await _write(request, response)
            return response
        finally:
            self._scrapes[page] -= 1


async def _write(request: web.Request, response: web.StreamResponse) -> None:
    """Write the whole response now, not after the middlewares. aiohttp notices a lost connection itself."""
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()


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
