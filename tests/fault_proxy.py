"""A TCP proxy between a scraper and an exporter, on loopback, in which an exchange can be disturbed.

    with FaultProxy(exporter.port, source="127.0.0.2") as proxy:
        ...                            # a Prometheus scrapes proxy.address
        proxy.arm(Moment.REQUEST, prometheus.stop)
        proxy.wait()                   # it was stopped as its request came, and has its answer unread

Each client's connection has an upstream connection of its own, and both are closed or reset together, so that
the exporter sees of connections what it would see without the proxy.
"""

import gzip
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

RECEIVE_BYTES = 65_536
CONNECT_SECONDS = 10.0


class Moment(StrEnum):
    """When something is done: before a request is passed on, in the middle of a response, after its end."""

    REQUEST = "request"
    MIDDLE = "middle"
    END = "end"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A response as it came from the exporter, the number of its connection, and whether it was disturbed."""

    connection: int
    response: bytes
    disturbed: bool

    @property
    def page(self) -> str:
        """The body, unchunked and unzipped."""
        _, _, body = self.response.partition(b"\r\n\r\n")
        return gzip.decompress(b"".join(_chunks(body))).decode()

    @property
    def times_ms(self) -> list[int]:
        """Times of the power samples of GPU 0, of a page in either format."""
        found = re.findall(
            r'^llem_gpu_power_trace_watts\{gpu="0",[^}]*\} \S+ (\d+)\.?(\d{3})$', self.page, re.MULTILINE
        )
        return [int(seconds + milliseconds) for seconds, milliseconds in found]


class FaultProxy:
    """Passes requests on to `port` of 127.0.0.1, from the address `source`."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._upstream, self._source = ("127.0.0.1", port), source
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._armed: tuple[Moment, Callable[[], object] | None] | None = None
        self._done = threading.Event()
        self.connections = 0
        self.exchanges: list[Exchange] = []

    @property
    def address(self) -> str:
        """HOST:PORT for clients."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def arm(self, moment: Moment, do: Callable[[], object] | None) -> None:
        """In the next exchange do this at that moment; None closes both connections."""
        self._done.clear()
        self._armed = (moment, do)

    def wait(self, timeout_s: float) -> None:
        """Until what was armed is done, and the response is with the client, as far as it will be."""
        assert self._done.wait(timeout_s), f"no exchange to disturb within {timeout_s:g} s"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client, self.connections), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with suppress(OSError), client:
            upstream = socket.create_connection(self._upstream, CONNECT_SECONDS, (self._source, 0))
            upstream.settimeout(None)
            with upstream:
                try:
                    while request := _message(client):
                        armed, self._armed = self._armed, None
                        try:
                            self._exchange(client, upstream, request, armed, number)
                        finally:
                            if armed:
                                self._done.set()
                except (ConnectionResetError, BrokenPipeError):
                    upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _exchange(
        self,
        client: socket.socket,
        upstream: socket.socket,
        request: bytes,
        armed: tuple[Moment, Callable[[], object] | None] | None,
        number: int,
    ) -> None:
        moment, do = armed or (None, None)
        if moment is Moment.REQUEST:
            _do(do)
        upstream.sendall(request)
        response = _message(upstream)
        self.exchanges.append(Exchange(number, response, armed is not None))
        middle = len(response) // 2
        client.sendall(response[:middle])
        if moment is Moment.MIDDLE:
            _do(do)
        client.sendall(response[middle:])
        if moment is Moment.END:
            _do(do)


def _do(action: Callable[[], object] | None) -> None:
    if action is None:
        raise ConnectionAbortedError
    action()


def _message(source: socket.socket) -> bytes:
    """A request without a body, or a response: chunked, or of a known length. Empty at the end of all."""
    message = b""
    while True:
        head, end, body = message.partition(b"\r\n\r\n")
        if end and _complete(head, body):
            return message
        received = source.recv(RECEIVE_BYTES)
        if not received:
            return b""
        message += received


def _complete(head: bytes, body: bytes) -> bool:
    if re.search(rb"^transfer-encoding: *chunked\r?$", head, re.IGNORECASE | re.MULTILINE):
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
    return len(body) >= (int(length[1]) if length else 0)


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        yield rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
