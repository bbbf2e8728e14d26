"""GET /history: which samples a request gets, and the page of them, written in slices."""

import asyncio
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from aiohttp import web

from llem_exporter.collectors.gpu import HistoryCollector
from llem_exporter.history import trace_text as trace_page
from llem_exporter.history.cursors import Grant, Handover, RefusedError
from llem_exporter.web import landing, negotiation
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.ring import Trace
from llem_measure.sampling.sampler import Sampler

GZIP_LEVEL: Final = 1
GZIP_WINDOW_BITS: Final = 31  # zlib's way to ask for a gzip header
MAX_UNIX_SECONDS: Final = 10**11
BITE_INTERVALS: Final = 3
"""A backlog goes out in bites of this many scrape intervals, over the next scrapes."""

_LOSES_SAMPLES: Final = re.compile(
    r"Prometheus/(2\.(52\.0|53\.[0-2]|54\.0)\b|$)|\botel|OpenTelemetry", re.IGNORECASE
)
"""User agents that keep one sample of a series a scrape. Source: prometheus/prometheus#14685.

The OpenTelemetry receiver calls itself by its collector's command, as otelcol-contrib/0.140.0; before
v0.78, Prometheus/ without a version. Source: open-telemetry/opentelemetry-collector-contrib#21914.
"""

_LOSES_TEXT: Final = (
    "this scraper keeps one sample of each series a scrape and loses the others "
    "(Prometheus 2.52.0, 2.53.0 to 2.53.2, 2.54.0: upgrade it; an OpenTelemetry receiver, which may "
    "call itself Prometheus without a version: scrape /metrics); params: {force: ['1']} always answers\n"
)
_HELP: Final = """\
/history needs to know who asks. In a scrape config, an ID of this Prometheus' own:

  - job_name: llem-history
    metrics_path: /history
    params: {scraper: [prom-a]}
    static_configs: [{targets: ["%s"]}]

By hand, /history?since=UNIX_SECONDS answers with every sample after that time.
"""


@dataclass(frozen=True, slots=True)
class _Share:
    """The readings of a request: after_ms < time < before_ms; `scraper` is who is offered them, if anyone."""

    after_ms: int
    before_ms: int
    scraper: str | None = None


class HistoryPage:
    """The handler of /history; `max_samples` bounds what is new in a scraper's answer, else three
    intervals do."""

    def __init__(self, sampler: Sampler, handover: Handover, max_samples: int | None = None) -> None:
        self._sampler, self._handover, self._max_samples = sampler, handover, max_samples
        self._beside_traces = HistoryCollector(sampler)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The samples that the request asks for, or that its scraper has not had."""
        encoder, content_type = negotiation.encoder_for(request.headers)
        response = web.StreamResponse(headers={"Content-Type": content_type})
        gzipped = negotiation.gzip_accepted(request.headers)
        if gzipped:
            response.headers["Content-Encoding"] = "gzip"
        try:
            self._refuse(request)
            if request.method == "HEAD":
                await response.prepare(request)
                return response
            share = self._share(request)
        except RefusedError as exc:
            headers = {"Upgrade": "HTTP/1.1"} if exc.status == web.HTTPUpgradeRequired.status_code else None
            body = str(exc).encode(errors="replace")  # the Host header may hold any bytes
            return web.Response(
                status=exc.status, body=body, headers=headers, content_type="text/plain", charset="utf-8"
            )
        traces = self._traces(share)
        compressor = _Compressor(gzipped=gzipped)
        openmetrics = content_type.startswith("application/openmetrics-text")
        try:
            await response.prepare(request)
            for text in trace_page.slices(traces, openmetrics):
                if data := compressor.add(text.encode()):
                    await response.write(data)
                await asyncio.sleep(0)  # a turn of the loop, which pauses near ticks
            await response.write(compressor.add(encoder(self._beside_traces)) + compressor.end())
            await response.write_eof()
        except ConnectionError as exc:
            # The future that raised it and its traceback hold each other, and all that is in this frame.
            exc.__traceback__ = None
            if share.scraper is not None:
                self._handover.broken(share.scraper, request.protocol)
        return response

    def _refuse(self, request: web.Request) -> None:
        """Look at the request alone, so that HEAD moves no cursor. Raises RefusedError where it is none."""
        query = request.query
        since, name = query.get("since"), query.get("scraper")
        if (since is None) == (name is None):
            raise RefusedError(400, _HELP % landing.target(request))
        if since is not None:
            parse_since(since)
        elif "force" not in query and _LOSES_SAMPLES.search(request.headers.get("User-Agent", "")):
            raise RefusedError(web.HTTPUpgradeRequired.status_code, _LOSES_TEXT)
        parse_limit(query.get("limit"))

    def _share(self, request: web.Request) -> _Share:
        """What a request that was not refused is to get. Raises RefusedError."""
        query, sampler = request.query, self._sampler
        now_ms = sampler.clock.now_ms()
        settled_ms = sampler.settled_ms(now_ms)
        if "since" in query:
            return _Share(max(parse_since(query["since"]), now_ms - sampler.retention_ms), settled_ms)
        if request.remote is None:  # reset before it was looked at: whose request it is, nobody knows
            raise RefusedError(503, "the client has gone\n")
        name, limit = query["scraper"], parse_limit(query.get("limit")) or self._max_samples
        grant = self._handover.begin(
            name, request.remote, request.protocol, settled_ms - 1, _scrape_timeout_s(request.headers)
        )
        return _Share(grant.after_ms, self._bite_end_ms(grant, settled_ms, limit), name)

    def _bite_end_ms(self, grant: Grant, settled_ms: int, max_samples: int | None) -> int:
        """Where a scraper's answer ends: before a tick, so that no tick is cut."""
        sampler = self._sampler
        per_tick = sum(1 + gpu.reads_energy for gpu in sampler.gpus) or 1
        ticks = BITE_INTERVALS * grant.interval_s * 1000 / sampler.interval_ms
        if max_samples is not None:
            ticks = max_samples / per_tick
        # A bite beyond what is repeated, so that a client that never uses a connection again gets on, too.
        last_ms = (gpu.ledger.nth_ms(grant.at_least_ms, max(1, int(ticks))) for gpu in sampler.gpus)
        ends_ms = [(ms // sampler.interval_ms + 1) * sampler.interval_ms for ms in last_ms if ms is not None]
        return max(min([settled_ms, *ends_ms]), grant.at_least_ms + 1)

    def _traces(self, share: _Share) -> list[tuple[DeviceInfo, Trace]]:
        """The share's samples of every GPU; what a scraper is offered is noted."""
        traces = [
            (gpu.device.info, gpu.ledger.trace(share.after_ms, share.before_ms)) for gpu in self._sampler.gpus
        ]
        if share.scraper is not None:
            carried = [range(trace.first, trace.first + len(trace.times_ms)) for _, trace in traces]
            self._handover.offer(share.scraper, share.before_ms - 1, carried)
        return traces


class _Compressor:
    """One gzip stream over all that is added, or everything as it is."""

    def __init__(self, *, gzipped: bool) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW_BITS) if gzipped else None

    def add(self, data: bytes) -> bytes:
        """The bytes that are ready to send, often none."""
        return data if self._stream is None else self._stream.compress(data)

    def end(self) -> bytes:
        return b"" if self._stream is None else self._stream.flush()


def parse_since(text: str) -> int:
    """Whole unix milliseconds, rounded down. Raises RefusedError, which says what to write instead."""
    try:
        since_s = Decimal(text)
    except InvalidOperation:
        since_s = Decimal("nan")
    if not (since_s.is_finite() and 0 <= since_s < MAX_UNIX_SECONDS):
        raise RefusedError(400, f"since must be unix seconds, as 1795507546.3, not {text[:40]!r}\n")
    return int(since_s * 1000)


def parse_limit(text: str | None) -> int | None:
    """The most samples that an answer may carry. Raises RefusedError."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise RefusedError(400, f"limit must be a number of samples, not {text[:40]!r}\n")
    return int(text)


def _scrape_timeout_s(headers: Mapping[str, str]) -> float | None:
    """What Prometheus says of its scrape timeout, which is its interval at the most."""
    try:
        timeout_s = float(headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return None
    return timeout_s if 0 < timeout_s < 86_400 else None
