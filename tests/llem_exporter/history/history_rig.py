"""GPUs on clocks moved by hand, and /history over them as real HTTP."""

import asyncio
import http.client
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry

from llem_core import metrics
from llem_exporter.collectors.gpu import GpuCollector
from llem_exporter.collectors.sampler import SamplerCollector
from llem_exporter.history.cursors import ScraperCursors
from llem_exporter.web.history import HistoryHandler
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.gpu_sampler import GpuSampler
from llem_measure.sampling.ledger import GpuLedger
from llem_measure.sampling.ring import Ring
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import Tick, WallClock
from tests.llem_measure.fake_time import FakeTime, FormulaDevice

INTERVAL_MS = 100
RETENTION_MS = 900_000


class Rig:
    """A sampler whose GPUs read a sawtooth at each tick, and the cursors of its scrapers."""

    def __init__(self, gpus: int = 1, retention_ms: int = RETENTION_MS) -> None:
        self.time = FakeTime()
        self.clock = WallClock(INTERVAL_MS, self.time.unix_s, self.time.monotonic_s)
        infos = [DeviceInfo(index, f"GPU-{index}", "sawtooth") for index in range(gpus)]
        devices = [FormulaDevice(lambda ms: 100 + ms // INTERVAL_MS * 37 % 997 / 8, info) for info in infos]
        self.ledgers = [GpuLedger(Ring(retention_ms // INTERVAL_MS + 1), 3 * INTERVAL_MS) for _ in devices]
        samplers = [
            GpuSampler(device, None, ledger, self.clock, INTERVAL_MS)
            for device, ledger in zip(devices, self.ledgers, strict=True)
        ]
        self.sampler = Sampler(samplers, self.clock, INTERVAL_MS)
        self._ticks = 0
        self.cursors = ScraperCursors(
            lambda: [ledger.ring for ledger in self.ledgers],
            INTERVAL_MS / 1000,
            retention_ms / 1000,
            self.clock.monotonic_s,
        )

    def tick(self, count: int = 1) -> None:
        """Sleep to the next tick and read every GPU. Steps of the clock are noticed at whole seconds."""
        for _ in range(count):
            next_ms = (self.clock.now_ms() // INTERVAL_MS + 1) * INTERVAL_MS
            tick = Tick(next_ms, next_ms / 1000 - self.clock.mapping.offset_s)
            self.time.sleep(tick.deadline_s - self.time.monotonic_s())
            self.sampler.read(self.sampler.gpus, tick)
            self._ticks += 1
            if self._ticks % (1000 // INTERVAL_MS) == 0:
                self.clock.observe()


class Answer(NamedTuple):
    """A response with its body as received."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def times_ms(self) -> list[int]:
        """Return the times of the power samples of GPU 0, from text format 0.0.4."""
        return times_ms(self.text, 0)


def times_ms(text: str, gpu: int) -> list[int]:
    """Return the times of one GPU's power samples in a page of text format 0.0.4."""
    lines = re.findall(rf'^llem_gpu_power_trace_watts{{gpu="{gpu}",[^}}]*}} \S+ (\d+)$', text, re.MULTILINE)
    return [int(ms) for ms in lines]


class Client:
    """One connection to the server."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, 10, (address, 0))

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        """Send a request and return the response. Underscores in the names of headers become hyphens."""
        self.connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = self.connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())

    def close(self) -> None:
        self.connection.close()


@contextmanager
def served(rig: Rig) -> Iterator[int]:
    """Serve the rig's /history in a thread and return its port on 127.0.0.1."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []
    stopped = asyncio.Event()

    async def serve() -> None:
        application = web.Application()
        beside_traces = CollectorRegistry()
        for page_of in (GpuCollector, SamplerCollector):
            beside_traces.register(page_of(rig.sampler, metrics.HISTORY_PAGE))
        handler = HistoryHandler(rig.sampler, rig.cursors, beside_traces)
        application.add_routes([web.get("/history", handler.answer)])
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=300, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        # A large response does not fit, so the server notices that a client resets the connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        await web.SockSite(runner, listener).start()
        ports.append(runner.addresses[0][1])
        ready.set()
        await stopped.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
        loop.close()
