"""The pages, except /history's content."""

import gzip
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import gzip_accepted

from llem_core import __version__
from llem_exporter.web import scrape_headers
from llem_measure.sampling.sampler import Sampler

GZIP_LEVEL: Final = 1

_LANDING_PAGE: Final = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>llem-exporter</title></head>
<body>
<h1>llem-exporter {__version__}</h1>
<p>GPU energy for Prometheus.</p>
<ul>
<li><a href="/metrics">/metrics</a>: power, energy in joules, and how complete they are</li>
<li><a href="/history">/history</a>: every sample, with instructions for a scrape configuration</li>
<li><a href="/-/healthy">/-/healthy</a>, <a href="/-/ready">/-/ready</a></li>
</ul>
</body>
</html>
"""


class Handlers:
    """The handlers of one sampler's pages; `history` handles /history."""

    def __init__(self, sampler: Sampler, registry: CollectorRegistry, history: Handler) -> None:
        self._sampler, self._registry, self._history = sampler, registry, history

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

    async def _landing(self, _request: web.Request) -> web.Response:
        return web.Response(text=_LANDING_PAGE, content_type="text/html")

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._sampler.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready: waiting for the first reading of a GPU\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        encoder, content_type = scrape_headers.encoder_for(request.headers)
        headers = {"Content-Type": content_type}
        body = encoder(self._registry)
        if gzip_accepted(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, GZIP_LEVEL)
        return web.Response(body=body, headers=headers)
