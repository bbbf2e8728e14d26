"""The landing page: what this is, where its pages are, what to write into a scrape config."""

from html import escape

from aiohttp import hdrs, web

from llem_core import __version__
from llem_exporter.web.listening import Address

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>llem-exporter</title></head>
<body>
<h1>llem-exporter {version}</h1>
<p>GPU energy for Prometheus: power samples every {interval_ms} ms, and the joules under them.</p>
<ul>
<li><a href="/metrics">/metrics</a>: power, joules, and how complete they are</li>
<li><a href="/history?since={since_unix_s}">/history?since=UNIX_SECONDS</a>: every sample after that
time, of the last {retention_s} s</li>
<li><a href="/-/healthy">/-/healthy</a>, <a href="/-/ready">/-/ready</a></li>
</ul>
<p>In Prometheus' configuration:</p>
<pre>
scrape_configs:
  - job_name: llem
    static_configs: [{{targets: ["{host}"]}}]
  - job_name: llem-history  # every sample; the ID is this Prometheus' own
    metrics_path: /history
    params: {{scraper: [prom-a]}}
    static_configs: [{{targets: ["{host}"]}}]
</pre>
</body>
</html>
"""


def target(request: web.Request) -> str:
    """What a scrape config names this server by: the Host header as it came, else the address reached.

    Not request.host: an older aiohttp asks a name server then, for which every scrape waits.
    """
    host = request.headers.get(hdrs.HOST)
    if host is not None:
        return host
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return str(Address(name[0], name[1])) if isinstance(name, tuple) else ""


def render(host: str, interval_ms: int, retention_ms: int, now_ms: int) -> str:
    """The page for who reached this server as `host`."""
    return _PAGE.format(
        version=escape(__version__),
        host=escape(host),
        interval_ms=interval_ms,
        retention_s=retention_ms // 1000,
        since_unix_s=now_ms // 1000 - 60,
    )
