"""GET /history: every sample with its own timestamp, after a given time or after a scraper's cursor."""

import asyncio
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import chain
from typing import Final, NamedTuple

from aiohttp import web
from prometheus_client.registry import Collector

from llem_exporter.history.cursors import ScraperCursors, ScrapeRefusedError
from llem_exporter.history.page import trace_slices
from llem_exporter.web import landing, negotiation
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.ring import Samples
from llem_measure.sampling.sampler import Sampler

GZIP_LEVEL: Final = 1
GZIP_WINDOW_BITS: Final = 31
"""With this value, zlib writes a gzip header. Source: zlib manual, deflateInit2."""

MAX_UNIX_SECONDS: Final = 10**11
MAX_TIMEOUT_SECONDS: Final = 86_400

BACKLOG_INTERVALS: Final = 3
"""A response has the new samples of at most this many scrape intervals. The next responses have the rest."""

_LOSES_SAMPLES: Final = re.compile(
    r"Prometheus/(2\.(52\.0|53\.[0-2]|54\.0)\b|$)|\botel|OpenTelemetry", re.IGNORECASE
)
"""User agents that keep one sample per series and scrape. Source: prometheus/prometheus#14685.

The OpenTelemetry receiver sends the name of the collector's command, for example otelcol-contrib/0.140.0.
Before v0.78 it sent Prometheus/ without a version.
Source: open-telemetry/opentelemetry-collector-contrib#21914.
"""

_LOSES_SAMPLES_MESSAGE: Final = """\
This scraper keeps one sample per series and scrape and would lose the other samples.
Prometheus 2.52.0, 2.53.0 to 2.53.2 and 2.54.0 do this: use another version.
OpenTelemetry receivers do this, too; older ones identify as Prometheus without a version: scrape /metrics.
To get a response nevertheless, add to the scrape config: params: {force: ['1']}
"""

_HELP: Final = """\
/history needs a scraper ID or a start time. In a scrape config, use a different ID for each Prometheus:

  - job_name: llem-history
    metrics_path: /history
    params: {scraper: [prom-a]}
    static_configs: [{targets: ["%s"]}]

/history?since=UNIX_SECONDS returns every sample after that time.
"""


class _Query(NamedTuple):
    """The query of a request: either a start time or a scraper ID, and a limit of samples."""

    since_ms: int | None
    scraper: str
    limit: int | None


class HistoryHandler:
    """The handler of /history.

    `families` are the metrics on the page beside the traces. `max_samples` is the limit of new samples for
    requests of scrapers that have none; without it, the limit is three scrape intervals.
    """

    def __init__(
        self, sampler: Sampler, cursors: ScraperCursors, families: Collector, max_samples: int | None = None
    ) -> None:
        self._sampler, self._cursors, self._families = sampler, cursors, families
        self._max_samples = max_samples

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Return the samples that the request asks for. A HEAD request moves no cursor."""
        encoder, content_type = negotiation.encoder_for(request.headers)
        response = web.StreamResponse(headers={"Content-Type": content_type})
        if gzipped := negotiation.gzip_accepted(request.headers):
            response.headers["Content-Encoding"] = "gzip"
        try:
            query = _parse_query(request)
            if request.method == "HEAD":
                await response.prepare(request)
                return response
            gpus = self._offer(request, query) if query.since_ms is None else self._since(query.since_ms)
        except ScrapeRefusedError as exc:
            return _refusal(exc)
        slices = trace_slices(gpus, openmetrics=content_type.startswith("application/openmetrics-text"))
        page = chain(map(str.encode, slices), map(encoder, [self._families]))
        try:
            await response.prepare(request)
            for data in _gzip(page) if gzipped else page:
                if data:
                    await response.write(data)
                await asyncio.sleep(0)  # other requests and the sampler run between two slices
            await response.write_eof()
        except ConnectionError as exc:
            exc.__traceback__ = None  # a reference cycle, which would keep this frame's samples in memory
            self._cursors.write_failed(query.scraper, request.protocol)
        return response

    def _since(self, since_ms: int) -> list[tuple[DeviceInfo, Samples]]:
        ledgers = [(gpu.device.info, gpu.ledger) for gpu in self._sampler.gpus]
        return [
            (info, ledger.copy_samples(range(ledger.number_after(since_ms), ledger.held_numbers().stop)))
            for info, ledger in ledgers
        ]

    def _offer(self, request: web.Request, query: _Query) -> list[tuple[DeviceInfo, Samples]]:
        """Return the samples that the scraper has not received. Raises ScrapeRefusedError."""
        if request.remote is None:
            raise ScrapeRefusedError(503, "the client has closed the connection\n")
        numbers = self._cursors.begin(
            query.scraper,
            request.remote,
            request.protocol,
            _scrape_timeout_s(request.headers),
            partial(self._most_ticks, query.limit or self._max_samples),
        )
        gpus = [
            (gpu.device.info, gpu.ledger.copy_samples(wanted))
            for gpu, wanted in zip(
                self._sampler.gpus, numbers, strict=False
            )  # a GPU may just have been added
        ]
        self._cursors.offer(query.scraper, [samples.numbers for _, samples in gpus])
        return gpus

    def _most_ticks(self, max_samples: int | None, scrape_interval_s: float) -> int:
        """Return of how many ticks a response has new samples."""
        if max_samples is not None:
            samples_per_tick = sum(1 + gpu.reads_energy for gpu in self._sampler.gpus) or 1
            return max(1, max_samples // samples_per_tick)
        return max(1, int(BACKLOG_INTERVALS * scrape_interval_s * 1000 / self._sampler.interval_ms))


def parse_since(text: str) -> int:
    """Return unix milliseconds, rounded down, for unix seconds. Raises ScrapeRefusedError."""
    try:
        since_s = Decimal(text)
    except InvalidOperation:
        since_s = Decimal("nan")
    if not (since_s.is_finite() and 0 <= since_s < MAX_UNIX_SECONDS):
        raise ScrapeRefusedError(
            400, f"since must be unix seconds, for example 1795507546.3, not {text[:40]!r}\n"
        )
    return int(since_s * 1000)


def parse_limit(text: str | None) -> int | None:
    """Return the limit of samples in a response, or None for no text. Raises ScrapeRefusedError."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ScrapeRefusedError(400, f"limit must be a number of samples, not {text[:40]!r}\n")
    return int(text)


def _parse_query(request: web.Request) -> _Query:
    """Return the parsed query. Raises ScrapeRefusedError for requests that must not move a cursor."""
    query = request.query
    since, scraper = query.get("since"), query.get("scraper")
    if (since is None) == (scraper is None):
        raise ScrapeRefusedError(400, _HELP % landing.target(request))
    if (
        since is None
        and "force" not in query
        and _LOSES_SAMPLES.search(request.headers.get("User-Agent", ""))
    ):
        raise ScrapeRefusedError(web.HTTPUpgradeRequired.status_code, _LOSES_SAMPLES_MESSAGE)
    since_ms = None if since is None else parse_since(since)
    return _Query(since_ms, scraper or "", parse_limit(query.get("limit")))


def _scrape_timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return the scrape timeout that Prometheus sends. It is at most the scrape interval."""
    try:
        timeout_s = float(headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return None
    return timeout_s if 0 < timeout_s < MAX_TIMEOUT_SECONDS else None


def _refusal(error: ScrapeRefusedError) -> web.Response:
    is_upgrade = error.status == web.HTTPUpgradeRequired.status_code
    return web.Response(
        status=error.status,
        body=str(error).encode(errors="replace"),  # the Host header in it may have any bytes
        headers={"Upgrade": "HTTP/1.1"} if is_upgrade else None,
        content_type="text/plain",
        charset="utf-8",
    )


def _gzip(page: Iterable[bytes]) -> Iterator[bytes]:
    """Return the page compressed; parts are empty while zlib collects data."""
    stream = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW_BITS)
    for data in page:
        yield stream.compress(data)
    yield stream.flush()
