"""The landing page: links to the other pages, and a scrape configuration to copy."""

from html import escape

from aiohttp import hdrs, web

from llem_core import __version__
from llem_exporter.web.addresses import Address

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>llem-exporter</title></head>
<body>
<h1>llem-exporter {version}</h1>
<p>GPU energy for Prometheus: power sampled every {interval_ms} ms, and the energy in joules.</p>
<ul>
<li><a href="/metrics">/metrics</a>: power, energy and their completeness</li>
<li><a href="/history?since={since_unix_s}">/history?since=UNIX_SECONDS</a>: every sample after that
time, for the last {retention_s} s</li>
<li><a href="/-/healthy">/-/healthy</a>, <a href="/-/ready">/-/ready</a></li>
</ul>
<p>Prometheus configuration:</p>
<pre>
scrape_configs:
  - job_name: llem
    static_configs: [{{targets: ["{host}"]}}]
  - job_name: llem-history  # every sample; each Prometheus needs a scraper ID of its own
    metrics_path: /history
    params: {{scraper: [prom-a]}}
    static_configs: [{{targets: ["{host}"]}}]
</pre>
</body>
</html>
"""


def target(request: web.Request) -> str:
    """The target for a scrape configuration: the Host header, or else the address of this connection.

    This does not use request.host, because older aiohttp may query a name server for it.
    """
    host = request.headers.get(hdrs.HOST)
    if host is not None:
        return host
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return str(Address(name[0], name[1])) if isinstance(name, tuple) else ""


def render(host: str, interval_ms: int, retention_ms: int, now_ms: int) -> str:
    """The page with `host` as the target."""
    return _PAGE.format(
        version=escape(__version__),
        host=escape(host),
        interval_ms=interval_ms,
        retention_s=retention_ms // 1000,
        since_unix_s=now_ms // 1000 - 60,
    )
