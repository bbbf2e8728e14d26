"""The pages, except /history's content."""

import gzip
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry

from llem_core import __version__
from llem_exporter.web.scrape_headers import GZIP_LEVEL, negotiated
from llem_measure.sampling.sampler import Sampler

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


def routes(sampler: Sampler, registry: CollectorRegistry, history: Handler) -> list[web.RouteDef]:
    """Return the routes of all pages; `history` handles /history. Each route also handles HEAD."""

    async def landing(_request: web.Request) -> web.Response:
        return web.Response(text=_LANDING_PAGE, content_type="text/html")

    async def healthy(_request: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def ready(_request: web.Request) -> web.Response:
        if sampler.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready: waiting for the first reading of a GPU\n")

    async def metrics(request: web.Request) -> web.Response:
        encoder, headers = negotiated(request.headers)
        body = encoder(registry)
        if hdrs.CONTENT_ENCODING in headers:
            body = gzip.compress(body, GZIP_LEVEL)
        return web.Response(body=body, headers=headers)

    pages = {"/": landing, "/metrics": metrics, "/history": history, "/-/healthy": healthy, "/-/ready": ready}
    return [web.get(path, page) for path, page in pages.items()]
