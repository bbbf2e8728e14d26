"""One connection: aiohttp's side of it, with deadlines and a limit on the size of requests."""

import asyncio
import fcntl
import logging
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

MAX_REQUEST_BYTES: Final = 32_768
"""The maximum size of a request. Requests have no bodies."""

REQUEST_SECONDS: Final = 10.0
"""Time limit for a request, from the first byte of the connection or the request to the last byte."""

KEEPALIVE_SECONDS: Final = 300.0
"""Longer than scrape intervals: a scraper that reuses its connection has read the last response."""

WRITE_BUFFER_BYTES: Final = 65_536

_REQUEST_END: Final = b"\r\n\r\n"
_RESET: Final = struct.pack("ii", 1, 0)  # linger for 0 s: close() sends RST and discards unsent data

_log = logging.getLogger(__name__)


def _is_our_error(record: logging.LogRecord) -> bool:
    """False for the errors of malformed requests and lost connections, which are not logged."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


_log.addFilter(_is_our_error)


class Connection(web.RequestHandler):
    """A connection. aiohttp gives it to the handlers as `request.protocol`.

    When the connection closes, `on_lost` is called with True if the client may have missed part of a
    response.
    """

    def __init__(
        self, server: web.Server, accepted: socket.socket, on_lost: Callable[["Connection", bool], object]
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            logger=_log,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to say none
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=0.0,  # bodies are not read
        )
        self.opening: asyncio.Task[None] | None = None
        self.idle_since_s = loop.time()
        self.is_busy = False
        self._now_s, self._accepted, self._on_lost = loop.time, accepted, on_lost
        self._due_s = self.idle_since_s + REQUEST_SECONDS
        self._is_in_request, self._received_bytes, self._last_bytes = True, 0, _REQUEST_END
        self._is_unread = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve. The TLS handshake is done, if there is one."""
        super().connection_made(transport)
        assert self.transport is not None  # noqa: S101 - set by aiohttp
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop serving. An error means that the client's kernel sent RST."""
        self._on_lost(self, self._is_unread or exc is not None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on to aiohttp's parser."""
        if not self.is_busy and not self._is_in_request:
            self._due_s = self._now_s() + REQUEST_SECONDS
        self._last_bytes = (self._last_bytes + data)[-len(_REQUEST_END) :]
        self._is_in_request = self._is_in_request or self._last_bytes != _REQUEST_END
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.drop()
        else:
            super().data_received(data)

    def begin(self, limit_s: float) -> None:
        """Begin the response to a complete request. The client must have received it in `limit_s`."""
        self.is_busy, self._received_bytes = True, 0
        self._is_in_request = self._last_bytes != _REQUEST_END  # part of the next one may have come with it
        self._due_s = self._now_s() + limit_s

    def end(self) -> None:
        """End the response. It is written, but may not have been sent."""
        self.is_busy = False
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
            self._due_s = float("inf")

    def drop(self) -> None:
        """Close at once and discard unsent data."""
        self._is_unread = self.is_busy or self._has_unsent()
        with suppress(OSError):
            self._accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self.transport is not None:
            self.transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def _has_unsent(self) -> bool:
        """Whether the client's kernel has not yet acknowledged everything."""
        try:
            unsent = fcntl.ioctl(self._accepted, termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):  # closed
            return False
        return unsent != b"\0" * 4
