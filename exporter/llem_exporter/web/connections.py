"""All connections: who is let in, how long each may take, and who goes when there are too many.

The listening sockets are accepted from here and not by asyncio's own server: that one lets in everybody,
shows nobody whose TLS handshake is not done, and at the last descriptor logs an error for each try.
"""

import asyncio
import logging
import resource
import socket
import ssl
import traceback
from asyncio import sslproto
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from llem_exporter.web.connection import Connection
from llem_exporter.web.log_once import Troubles

MAX_CONNECTIONS: Final = 256
MAX_HEADERS: Final = 64
HANDSHAKE_SECONDS: Final = 5.0
RESPONSE_SECONDS: Final = 60.0
MAX_RESPONSE_SECONDS: Final = 120.0
TLS_BUFFER_BYTES: Final = 16_384
"""What TLS is read by. asyncio takes 256 KiB for each connection, and has them before the handshake."""

REST_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 1.0
"""A newcomer is no idler yet: its request may be on its way."""

ACCEPTED_AT_ONCE: Final = 8
PACE_SECONDS: Final = 0.005
"""Between so many, where more wait. Who computes without a break loses its core on a busy node, for 80 ms at
times, and with it the interpreter's lock, for which the GPUs' threads wait then."""

_log = logging.getLogger(__name__)


def max_connections() -> int:
    """At most 256, and half of the descriptors that this process may have; the rest is for all else."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 2))


class Connections:
    """Accepts, and knows every connection.

    Beyond `limit`, whoever has been idle for the longest goes for each newcomer, those first that never
    asked anything; while those who were answered are fewer than half, newcomers go before them. The
    connections that `known` names are left alone: an answer that was sent there is confirmed by the next
    request. `unread` is told of each that broke with something unread by its client.
    """

    def __init__(
        self,
        limit: int,
        known: Callable[[], Collection[object]],
        unread: Callable[[object], object],
        now_s: Callable[[], float],
    ) -> None:
        self._limit, self._known, self._unread, self._now_s = limit, known, unread, now_s
        self._all: dict[object, Connection] = {}
        self._listeners: Sequence[socket.socket] = ()
        self._handler: Callable[[], web.RequestHandler] | None = None
        self._troubles = Troubles(_log, now_s)
        self.ssl_context: ssl.SSLContext | None = None

    def __len__(self) -> int:
        return len(self._all)

    def accept_from(
        self, listeners: Sequence[socket.socket], handler: Callable[[], web.RequestHandler]
    ) -> None:
        """Let clients in; `handler` makes aiohttp's part of a connection."""
        self._listeners, self._handler = listeners, handler
        self._listen()
        sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES

    def refuse(self) -> None:
        """Let nobody in any more."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._listeners = ()

    def drop_all(self) -> None:
        """Close all at once."""
        for connection in list(self._all.values()):
            connection.drop()

    def sweep(self) -> None:
        """Once a second: cut those that are overdue."""
        for connection in list(self._all.values()):
            connection.check()
        self._troubles.sweep()

    @web.middleware
    async def bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer within the client's own timeout."""
        connection = self._all.get(request.protocol)
        if connection is None:
            return web.Response(status=503)  # to nobody: the client has gone
        connection.begin(_response_seconds(request))
        status = 500
        try:
            refusal = _refusal(request)
            response = await handler(request) if refusal is None else refusal
            status = response.status
            with suppress(ConnectionError):  # aiohttp sees that, too
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            connection.end(answered=status < 400)

    def _listen(self) -> None:
        for listener in self._listeners:
            listener.setblocking(False)
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        # A few at a time, so that a request is looked at before so many others come that it is pushed out.
        for _ in range(max(1, min(ACCEPTED_AT_ONCE, self._limit // 8))):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._rest(exc)
                return
            self._admit(accepted)
        self._pause(PACE_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Accept nobody for a moment; they wait in the kernel."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
        asyncio.get_running_loop().call_later(seconds, self._listen)

    def _rest(self, error: OSError) -> None:
        """Make room, and accept nobody for a moment: the kernel would call again and again."""
        self._troubles.note(
            "accept", f"cannot accept connections: {error.strerror}; those that idle are closed"
        )
        if idlest := self._idlest():
            idlest.drop()
        self._pause(REST_SECONDS)

    def _admit(self, accepted: socket.socket) -> None:
        if len(self._all) >= self._limit:
            self._troubles.note(
                "full", f"{self._limit} connections are open: those that idle are closed for others"
            )
            idlest = self._idlest()
            if idlest is None:
                accepted.close()
                return
            self._all.pop(idlest.handler)
            idlest.drop()
        assert self._handler is not None  # noqa: S101 - accept_from() has set it
        accepted.setblocking(False)
        handler = self._handler()
        self._all[handler] = connection = Connection(accepted, handler, self._now_s)
        connection.lost = lambda cut: self._lost(handler, cut=cut)
        connection.opening = asyncio.get_running_loop().create_task(self._open(connection, accepted))
        connection.opening.add_done_callback(lambda _: _close_unopened(connection, accepted))

    def _lost(self, handler: object, *, cut: bool) -> None:
        self._all.pop(handler, None)
        if cut:
            self._unread(handler)

    async def _open(self, connection: Connection, accepted: socket.socket) -> None:
        """Make a transport of it: the TLS handshake, where there is TLS."""
        tls = self.ssl_context
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 1.0} if tls else {}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=tls, **times
            )
        except OSError as exc:  # it has gone, or speaks no TLS
            connection.lost(False)
            _forget(exc)
        except asyncio.CancelledError as exc:
            connection.lost(False)
            _forget(exc)
            raise
        finally:
            connection.opening = None

    def _idlest(self) -> Connection | None:
        """Who goes first; None where all are known."""
        now_s, known = self._now_s(), self._known()
        # A burst of newcomers pushes out no scraper; yet who gets answers cannot keep all others out.
        few = 2 * sum(connection.answered for connection in self._all.values()) < self._limit

        def order(connection: Connection) -> tuple[int, float]:
            young = now_s - connection.idle_since_s < GRACE_SECONDS
            rank = 2 if few and connection.answered else int(connection.answered or young)
            return 3 if connection.busy else rank, connection.idle_since_s

        others = (connection for handler, connection in self._all.items() if handler not in known)
        return min(others, key=order, default=None)


def _close_unopened(connection: Connection, accepted: socket.socket) -> None:
    """Close a connection that was dropped before _open() began.

    A task that is cancelled before it starts does not run its `finally` block.
    """
    if connection.opening is not None:
        connection.opening = None
        accepted.close()
        connection.lost(False)


def _forget(error: BaseException) -> None:
    """Let go of what a handshake's error holds: asyncio's frames hold the error, and that its buffers.

    Else 500 connections that never shake hands are 140 MB until Python looks for such cycles.
    """
    traceback.clear_frames(error.__traceback__)


def _refusal(request: web.Request) -> web.StreamResponse | None:
    """What a request gets that is more than it need be; its connection is closed."""
    if request.body_exists:
        refusal = web.Response(status=413, text="requests have no body here\n")
    elif len(request.headers) > MAX_HEADERS:
        refusal = web.Response(status=431, text=f"more than {MAX_HEADERS} headers\n")
    else:
        return None
    refusal.force_close()
    return refusal


def _response_seconds(request: web.Request) -> float:
    """The scraper's own timeout, which it sends; a default for others."""
    try:
        limit_s = float(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return RESPONSE_SECONDS
    return min(limit_s, MAX_RESPONSE_SECONDS) if limit_s > 0 else RESPONSE_SECONDS
