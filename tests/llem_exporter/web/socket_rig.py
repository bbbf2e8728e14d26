"""Clients that do not behave: bytes over sockets, and what becomes of them."""

import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path

from tests.servers import Exporter


class LimitedExporter(Exporter):
    """An exporter that may have `descriptors` at once, and is started with `held` of them in use."""

    def __init__(self, descriptors: int, held: int = 0, args: Sequence[str] = ("--replay", "demo")) -> None:
        super().__init__(args=args)
        self._descriptors, self._held = descriptors, held

    def _command(self) -> Sequence[str]:
        opened = " ".join(f"{number}</dev/null" for number in range(10, 10 + self._held))
        script = f'exec {opened}; ulimit -n {self._descriptors}; exec "$0" "$@"'
        return ["bash", "-c", script, *super()._command()]


def connect(exporter: Exporter, receive_bytes: int | None = None) -> socket.socket:
    """A connection; one that takes few bytes at a time where told so."""
    client = socket.socket()
    client.settimeout(30)
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect(("127.0.0.1", exporter.port))
    return client


@contextmanager
def crowd(exporter: Exporter, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(exporter)) for _ in range(count)]


@contextmanager
def bad_clients(exporter: Exporter, count: int) -> Iterator[None]:
    """Keep so many connections open that send nothing, half a request, or bytes that are not HTTP."""
    stopped = threading.Event()
    noises = (b"", b"GET /metrics HTTP/1.1\r\nHost: ", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

    def keep_open() -> None:
        with ExitStack() as stack:
            clients = list[socket.socket]()
            while not stopped.wait(0.01):
                for number, client in enumerate(clients):
                    if is_closed(client):
                        client.close()
                        clients[number] = _noisy(exporter, noises[number % len(noises)])
                while len(clients) < count:
                    clients.append(_noisy(exporter, noises[len(clients) % len(noises)]))
                ready.set()
            for client in clients:
                stack.enter_context(client)

    ready = threading.Event()
    thread = threading.Thread(target=keep_open)
    thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        stopped.set()
        thread.join()


def _noisy(exporter: Exporter, noise: bytes) -> socket.socket:
    client = connect(exporter)
    with suppress(ConnectionError):
        client.sendall(noise)
    return client


def get(path: str, *headers: str) -> bytes:
    """A whole request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def status_of(client: socket.socket) -> int:
    """The status of the answer that comes; 0 where the connection is closed without one."""
    answer = HTTPResponse(client)
    try:
        answer.begin()
        answer.read()
    except ConnectionError:
        return 0
    return answer.status


def is_closed(client: socket.socket) -> bool:
    """Whether the other side has closed; what it sent before is read."""
    try:
        while select.select([client], [], [], 0)[0]:
            if not client.recv(65_536):
                return True
    except ConnectionError:
        return True
    return False


def sends(client: socket.socket, data: bytes, times: int) -> int:
    """How many times this could be sent until the other side closed, or took no more."""
    for number in range(times):
        try:
            client.sendall(data)
        except (ConnectionError, TimeoutError):
            return number
    return times


def drips(client: socket.socket) -> bool:
    """Send one byte; False where the other side has closed."""
    try:
        client.sendall(b"x")
    except ConnectionError:
        return False
    return True


def descriptors(exporter: Exporter) -> int:
    """How many descriptors the exporter has open."""
    return len(list(Path(f"/proc/{exporter.pid}/fd").iterdir()))


def memory_mb(exporter: Exporter, field: str) -> float:
    """A size in the exporter's /proc/PID/status, as RssAnon or its peak VmHWM. Source: proc(5)."""
    status = Path(f"/proc/{exporter.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")) / 1024
