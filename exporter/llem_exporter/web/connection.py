"""One connection: what a client may send, and by when what must have happened."""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

MAX_REQUEST_BYTES: Final = 32_768
"""All that is read for one request; there are no bodies."""

WRITE_BUFFER_BYTES: Final = 65_536
REQUEST_SECONDS: Final = 10.0
"""From a connection's or a request's first byte until the request is whole."""

_REQUEST_END: Final = b"\r\n\r\n"  # no request has a body
_NEVER: Final = float("inf")
_RESET: Final = struct.pack("ii", 1, 0)  # linger, for 0 s: close with a reset, and forget what was unsent


class Connection(asyncio.Protocol):
    """One client: passes on to aiohttp's handler what comes, and keeps count of it."""

    def __init__(
        self, accepted: socket.socket, handler: web.RequestHandler, now_s: Callable[[], float]
    ) -> None:
        self.handler, self._socket, self._now_s = handler, accepted, now_s
        self.opening: asyncio.Task[None] | None = None
        self.idle_since_s = now_s()
        self.due_s = self.idle_since_s + REQUEST_SECONDS
        self.requested = self.answered = self.busy = False
        self._transport: asyncio.Transport | None = None
        self._received_bytes, self._overrun = 0, False
        self._end = _REQUEST_END
        self._cut = False
        self.lost: Callable[[bool], object] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self.handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost(self._cut or exc is not None)  # with an error: the client's kernel has reset it
        self.handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.requested and not self.busy and self._end == _REQUEST_END:
            self.due_s = self._now_s() + REQUEST_SECONDS
        self._end = (self._end + data)[-len(_REQUEST_END) :]
        room = MAX_REQUEST_BYTES - self._received_bytes
        self._received_bytes += len(data)
        if room > 0:
            self.handler.data_received(data[:room])
        if len(data) > room and self._transport is not None:
            self._transport.pause_reading()
            self._overrun = True
            self.due_s = self._now_s()  # unless what has come is a request that can be answered

    def eof_received(self) -> None:
        self.handler.eof_received()

    def pause_writing(self) -> None:
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        self.handler.resume_writing()

    def begin(self, limit_s: float) -> None:
        """A request has come whole; its answer must have been taken in `limit_s`."""
        self.requested = self.busy = True
        self._received_bytes = 0
        self.idle_since_s = self._now_s()
        self.due_s = self.idle_since_s + limit_s

    def end(self, *, answered: bool) -> None:
        """The answer is written, if not yet sent."""
        self.busy, self.answered = False, self.answered or answered
        self.idle_since_s = self._now_s()
        if self._end != _REQUEST_END:  # half of the next one came with it
            self.due_s = min(self.due_s, self.idle_since_s + REQUEST_SECONDS)

    def check(self) -> None:
        """Cut the connection where what should have happened by now has not."""
        if self._now_s() < self.due_s:
            return
        half = self._end != _REQUEST_END or self._overrun or not self.requested
        if self.busy or half or self._unsent():
            self.drop()
        else:
            self.due_s = _NEVER

    def drop(self) -> None:
        """Close at once; what was not sent is forgotten, by the kernel too."""
        self._cut = self.busy or self._unsent()
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def _unsent(self) -> bool:
        """Whether the client has left something in the kernel's buffer, and so maybe in ours."""
        try:
            left = fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):  # it is closed
            return False
        return left != b"\0" * 4
