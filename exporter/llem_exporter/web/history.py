"""GET /history: every sample with its own timestamp, after a given time or after a scraper's cursor."""

import asyncio
import re
import zlib
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Final

from aiohttp import hdrs, web
from prometheus_client.registry import Collector

from llem_exporter.history.cursors import ScraperCursors, ScrapeRefusedError
from llem_exporter.history.page import GpuSamples, trace_chunks
from llem_exporter.web.scrape_headers import GZIP_LEVEL, negotiated, timeout_s
from llem_measure.sampling.sampler import Sampler

GZIP_WINDOW_BITS: Final = 31  # zlib writes a gzip header with this value
MAX_UNIX_SECONDS: Final = 10**11
MAX_RESPONSES: Final = 16
"""The maximum number of responses at once. Each takes up to 5 MB for 8 GPUs and 15 minutes."""

_LOSES_SAMPLES: Final = re.compile(
    r"Prometheus/(2\.(52\.0|53\.[0-2]|54\.0)\b|$)|\botel|OpenTelemetry", re.IGNORECASE
)
"""User agents that store one sample per series in each scrape. Source: prometheus/prometheus#14685.

The OpenTelemetry receiver sends the name of the collector's command, for example otelcol-contrib/0.140.0.
Before v0.78 it sent Prometheus/ without a version.
Source: open-telemetry/opentelemetry-collector-contrib#21914.
"""

_LOSES_SAMPLES_MESSAGE: Final = """\
This scraper stores only one sample per series in each scrape. All other samples would be lost.
Prometheus 2.52.0, 2.53.0 to 2.53.2 and 2.54.0 do this. Use another version.
The OpenTelemetry Prometheus receiver does this, too. Use /metrics with it.
Old versions of the receiver identify themselves as Prometheus without a version.
To get a response nevertheless, add to the scrape config: params: {force: ['1']}
"""

_HELP: Final = """\
/history needs a scraper ID or a start time. In a scrape config, use a different ID for each Prometheus:

  - job_name: llem-history
    metrics_path: /history
    params: {scraper: [prom-a]}
    static_configs: [{targets: ["HOST:9955"]}]

/history?since=UNIX_SECONDS returns every sample after that time.
"""


class HistoryHandler:
    """The handler of /history.

    `families` are the metrics on the page beside the traces. `limit` in a scraper's query limits the new
    samples in its response. Without it, the limit is three scrape intervals.
    """

    def __init__(self, sampler: Sampler, cursors: ScraperCursors, families: Collector) -> None:
        self._sampler, self._cursors, self._families = sampler, cursors, families
        self._responses = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Return the samples that the request asks for, or 503 at the limit of responses.

        Known scrapers are always served. A HEAD request moves no cursor.
        """
        if self._responses >= MAX_RESPONSES and request.protocol not in self._cursors.connections():
            text = f"{MAX_RESPONSES} scrapes of /history are in progress; try again later\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "5"})
        self._responses += 1
        try:
            return await self._answer(request)
        finally:
            self._responses -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        encoder, headers = negotiated(request.headers)
        response = web.StreamResponse(headers=headers)
        since_ms, scraper, limit = _parse_query(request)
        if request.method == "HEAD":
            return response
        try:
            gpus = self._offer(request, scraper, limit) if since_ms is None else self._since(since_ms)
        except ScrapeRefusedError as exc:
            return web.Response(status=exc.status, text=str(exc))
        openmetrics = headers[hdrs.CONTENT_TYPE].startswith("application/openmetrics-text")
        chunks = trace_chunks(gpus, openmetrics=openmetrics)
        page = chain(map(str.encode, chunks), map(encoder, [self._families]))
        try:
            await response.prepare(request)
            for data in _gzip(page) if hdrs.CONTENT_ENCODING in headers else page:
                if data:
                    await response.write(data)
                await asyncio.sleep(0)  # other requests and the sampler run between two chunks
            await response.write_eof()
        except ConnectionError as exc:
            exc.__traceback__ = None  # breaks a reference cycle that keeps the samples in memory
            self._cursors.write_failed(scraper, request.protocol)
        return response

    def _since(self, since_ms: int) -> list[GpuSamples]:
        gpus = list[GpuSamples]()
        for gpu in self._sampler.gpus:
            wanted = range(gpu.ledger.ring.number_after(since_ms), gpu.ledger.ring.held_numbers().stop)
            gpus.append((gpu.device.info, gpu.ledger.ring.copy(wanted)))
        return gpus

    def _offer(self, request: web.Request, scraper: str, limit: int | None) -> list[GpuSamples]:
        """Return the samples that the scraper has not received. Raises ScrapeRefusedError."""
        if request.remote is None:
            raise ScrapeRefusedError(503, "the client has closed the connection\n")
        if limit:
            samples_per_tick = sum(1 + gpu.counter.exists for gpu in self._sampler.gpus) or 1
            limit = max(1, limit // samples_per_tick)
        address, connection, sent_s = request.remote, request.protocol, timeout_s(request.headers)
        samples = self._cursors.scrape(scraper, address, connection, sent_s, limit)
        return list(zip((gpu.device.info for gpu in self._sampler.gpus), samples, strict=True))


def parse_since(text: str) -> int:
    """Return unix milliseconds, rounded down, for unix seconds. Raises HTTPBadRequest."""
    try:
        since_s = Decimal(text)
    except InvalidOperation:
        since_s = Decimal("nan")
    if not (since_s.is_finite() and 0 <= since_s < MAX_UNIX_SECONDS):
        raise web.HTTPBadRequest(
            text=f"invalid parameter 'since': {text[:40]!r}. "
            "It must be a unix timestamp in seconds, for example 1795507546.3.\n"
        )
    return int(since_s * 1000)


def parse_limit(text: str) -> int:
    """Return the limit of samples in a response. Raises HTTPBadRequest."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise web.HTTPBadRequest(
            text=f"invalid parameter 'limit': {text[:40]!r}. It must be a number of samples.\n"
        )
    return int(text)


def _parse_query(request: web.Request) -> tuple[int | None, str, int | None]:
    """Return the start time [ms] or None, the scraper ID or "", and the limit. Raises HTTPException."""
    query = request.query
    since, scraper, limit = (query.get(key) for key in ("since", "scraper", "limit"))
    if (since is None) == (scraper is None):
        raise web.HTTPBadRequest(text=_HELP)
    if scraper and "force" not in query and _LOSES_SAMPLES.search(request.headers.get("User-Agent", "")):
        raise web.HTTPUpgradeRequired(text=_LOSES_SAMPLES_MESSAGE, headers={"Upgrade": "HTTP/1.1"})
    return (
        None if since is None else parse_since(since),
        scraper or "",
        None if limit is None else parse_limit(limit),
    )


def _gzip(page: Iterable[bytes]) -> Iterator[bytes]:
    """Return the page compressed; parts are empty while zlib collects data."""
    stream = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW_BITS)
    for data in page:
        yield stream.compress(data)
    yield stream.flush()
