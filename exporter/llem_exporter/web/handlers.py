"""The pages, except /history's content."""

import gzip
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry

from llem_exporter.web import landing, negotiation
from llem_measure.sampling.sampler import Sampler

GZIP_LEVEL: Final = 1


class Handlers:
    """The handlers of one sampler's pages; `history` handles /history."""

    def __init__(
        self, sampler: Sampler, registry: CollectorRegistry, history: Handler, retention_ms: int
    ) -> None:
        self._sampler, self._registry, self._history = sampler, registry, history
        self._retention_ms = retention_ms

    def add_to(self, application: web.Application) -> None:
        """Add all routes. Each route also handles HEAD."""
        application.add_routes(
            [
                web.get("/", self._landing),
                web.get("/metrics", self._metrics),
                web.get("/history", self._history),
                web.get("/-/healthy", self._healthy),
                web.get("/-/ready", self._ready),
            ]
        )

    async def _landing(self, request: web.Request) -> web.Response:
        sampler = self._sampler
        now_ms, host = sampler.clock.now_ms(), landing.target(request)
        page = landing.render(host, sampler.interval_ms, self._retention_ms, now_ms)
        body = page.encode(errors="replace")  # the Host header may contain any bytes
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._sampler.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready: a GPU has not answered yet\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        encoder, content_type = negotiation.encoder_for(request.headers)
        headers = {"Content-Type": content_type}
        body = encoder(self._registry)
        if negotiation.gzip_accepted(request.headers):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, GZIP_LEVEL)
        return web.Response(body=body, headers=headers)
