"""An HTTP peer that answers with whatever bytes it is given: a store that is broken, or means harm."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self

Answer = Callable[[str], Iterable[bytes]]
"""From a request's target to the pieces of the whole answer, its status line included."""


def response(body: bytes, status: int = 200, *headers: str) -> bytes:
    """A well-formed answer of these headers and this body."""
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


class HostilePeer:
    """Serves `answer` on a port of 127.0.0.1; it may be replaced at any time.

    A connection stays open after an answer that `response` made whole, and is closed after any other.
    """

    def __init__(self, answer: Answer = lambda _: [response(b"")]) -> None:
        self.answer = answer
        self.requests = 0
        peer = self

        class Handler(socketserver.StreamRequestHandler):
            def setup(self) -> None:
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                super().setup()

            def handle(self) -> None:
                with suppress(OSError):
                    while target := self._target():
                        peer.requests += 1
                        for piece in peer.answer(target):
                            self.wfile.write(piece)
                            if not _whole(piece):
                                self.close_connection = True
                        if getattr(self, "close_connection", False):
                            return

            def _target(self) -> str:
                """The target of the next request, read to the end of its body; "" at the connection's."""
                words = self.rfile.readline(65_536).decode("latin-1").split()
                length = 0
                while (line := self.rfile.readline(65_536).strip().lower()) != b"":
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                form = self.rfile.read(length).decode("latin-1")
                return f"{words[1]}?{form}" if len(words) > 1 else ""

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    return bool(end) and f"\r\nContent-Length: {len(body)}\r\n".encode() in head + b"\r\n"
