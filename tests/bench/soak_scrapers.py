"""Who asks the exporter of a soak: two that want something, and one that means harm."""

import random
import re
import socket
import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import urllib3

from llem_core import metrics
from tests.llem_exporter.page import MetricsPage
from tests.llem_exporter.web.web_rig import WebExporter

SCRAPE_SECONDS: Final = 1.0
"""Between scrapes, and what each may take where nothing else is said, as Prometheus has it."""

_SAMPLE: Final = re.compile(r'^(llem_gpu_\w+_trace_\w+)\{gpu="(\d+)",[^}]*\} (\S+) (\d+)$', re.MULTILINE)

Trace = tuple["array[int]", "array[float]"]


class Scraper(threading.Thread, ABC):
    """Asks every second on a connection that is kept, until it is told to stop.

    As Prometheus does, it asks once more where a kept connection broke before an answer began.
    """

    def __init__(
        self, exporter: WebExporter, headers: Mapping[str, str], path: str, patience_s: float
    ) -> None:
        super().__init__(daemon=True)
        self._pool, self._path, self._patience_s = exporter.pool(), path, patience_s
        self._headers = {**headers, "X-Prometheus-Scrape-Timeout-Seconds": str(patience_s)}
        self._stopping = threading.Event()
        self.missed: list[str] = []
        self.seconds: list[float] = []
        self.reconnections = 0

    @abstractmethod
    def take(self, page: str, unix_s: float) -> None:
        """Look at a page that came as an answer to a request of this time."""

    def run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + SCRAPE_SECONDS, time.monotonic())
            self._scrape()

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self._pool.close()

    def _scrape(self) -> None:
        unix_s, began_s = time.time(), time.monotonic()
        try:
            answer = self._ask()
            status, page = answer.status, answer.data.decode()
        except urllib3.exceptions.HTTPError as exc:
            self.missed.append(f"{unix_s:.1f} {self._path}: {exc}")
            return
        self.seconds.append(time.monotonic() - began_s)
        if status != 200 or self.seconds[-1] > self._patience_s:
            self.missed.append(f"{unix_s:.1f} {self._path}: {status} in {self.seconds[-1]:.2f} s")
        if status == 200:
            self.take(page, unix_s)

    def _ask(self) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request("GET", self._path, headers=self._headers, timeout=self._patience_s)
        except urllib3.exceptions.ProtocolError:
            self.reconnections += 1
            return self._pool.request("GET", self._path, headers=self._headers, timeout=self._patience_s)


@dataclass(frozen=True, slots=True)
class GpuState:
    """What a page that was asked for and came at these times says of a GPU; None where it is silent."""

    unix_s: float
    came_s: float
    watts: float | None
    sample_s: float | None
    joules: float | None
    integrated_s: float | None
    gap_s: float | None


class MetricsScraper(Scraper):
    """Keeps what each page of /metrics says of each GPU."""

    def __init__(
        self, exporter: WebExporter, headers: Mapping[str, str], patience_s: float, gpus: int
    ) -> None:
        super().__init__(exporter, headers, "/metrics", patience_s)
        self.states: dict[int, list[GpuState]] = {gpu: [] for gpu in range(gpus)}

    def take(self, page: str, unix_s: float) -> None:
        came_s = time.time()
        shown = MetricsPage(page)
        for gpu, states in self.states.items():
            values = [
                shown.get(spec.name, gpu=gpu)
                for spec in (
                    metrics.GPU_POWER,
                    metrics.GPU_SAMPLE_TIMESTAMP,
                    metrics.GPU_NVML_ENERGY,
                    metrics.GPU_INTEGRATED,
                    metrics.GPU_GAP,
                )
            ]
            states.append(GpuState(unix_s, came_s, *values))


class HistoryScraper(Scraper):
    """Keeps every sample of /history, by metric and GPU, and counts what came twice or out of order."""

    def __init__(self, exporter: WebExporter, headers: Mapping[str, str], patience_s: float) -> None:
        super().__init__(exporter, headers, "/history?scraper=soak", patience_s)
        self.traces: dict[tuple[str, int], Trace] = {}
        self.repeated = 0

    def take(self, page: str, unix_s: float) -> None:  # noqa: ARG002 - samples have their own time
        for name, gpu, value, ms in _SAMPLE.findall(page):
            times_ms, values = self.traces.setdefault((name, int(gpu)), (array("q"), array("d")))
            if times_ms and int(ms) <= times_ms[-1]:
                self.repeated += 1
            else:
                times_ms.append(int(ms))
                values.append(float(value))


@dataclass
class Hostile(threading.Thread):
    """Attacks for some seconds, lets everything go, calls `at_rest`, and begins again.

    It comes from the address of the good ones, and knows the password where that makes it worse.
    """

    exporter: WebExporter
    headers: Mapping[str, str]
    seed: int
    at_rest: Callable[[], object]
    connections: int = 500
    attacks: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._chance = random.Random(self.seed)
        self._address = ("127.0.0.1", self.exporter.port)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self.stopping.is_set():
            sockets: list[socket.socket] = []
            slow: list[socket.socket] = []
            for attack in (self._garbage, self._half_requests, self._wrong_passwords, self._idle):
                sockets += attack()
            slow += self._slow_readers()
            for _ in range(8):
                self.stopping.wait(0.5)
                for client in slow:
                    with suppress(OSError):
                        client.recv(500)
            for client in sockets + slow:
                client.close()
            self.attacks += 1
            self.stopping.wait(2.0)
            self.at_rest()

    def stop(self) -> None:
        self.stopping.set()
        self.join()

    def _connected(self, *, tls: bool, buffer_bytes: int | None = None) -> socket.socket | None:
        try:
            client = socket.socket()
            if buffer_bytes:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            client.settimeout(2.0)
            client.connect(self._address)
            context = self.exporter.context
            return context.wrap_socket(client, server_hostname="localhost") if tls and context else client
        except OSError:  # refused, cut or too slow: as it should be
            client.close()
            return None

    def _sending(self, count: int, data: Callable[[], bytes], *, tls: bool) -> list[socket.socket]:
        found = [client for _ in range(count) if (client := self._connected(tls=tls))]
        for client in found:
            with suppress(OSError):
                client.sendall(data())
        return found

    def _idle(self) -> list[socket.socket]:
        """TLS handshakes that never begin, and some that stop in the middle."""
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        return self._sending(self.connections, lambda: self._chance.choice((b"", b"", b"", hello)), tls=False)

    def _garbage(self) -> list[socket.socket]:
        def noise() -> bytes:
            return self._chance.randbytes(self._chance.choice((1, 100, 50_000)))

        return self._sending(15, noise, tls=False) + self._sending(10, noise, tls=True)

    def _half_requests(self) -> list[socket.socket]:
        return self._sending(10, lambda: b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: ", tls=True)

    def _wrong_passwords(self) -> list[socket.socket]:
        def request() -> bytes:
            word = self._chance.randbytes(8).hex()
            authorization = urllib3.make_headers(basic_auth=f"prometheus:{word}")["authorization"]
            return f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n".encode()

        return self._sending(10, request, tls=True)

    def _slow_readers(self) -> list[socket.socket]:
        """Who asks for everything, with the right password, and takes a kilobyte a second of it."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        request = f"GET /history?since=0 HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
        found = [client for _ in range(4) if (client := self._connected(tls=True, buffer_bytes=4096))]
        for client in found:
            with suppress(OSError):
                client.sendall(request)
        return found
