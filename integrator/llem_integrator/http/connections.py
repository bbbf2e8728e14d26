"""Connections to a store: TLS, proxies, redirects and retries, all of them urllib3's."""

import ipaddress
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.util import make_headers, parse_url

from llem_integrator.http.access import HttpConfig, Tls
from llem_integrator.http.urls import split, without_secrets

_RETRIES: Final = 4
_REDIRECTS: Final = 5
_LONGEST_WAIT_S: Final = 15.0


class Retries(urllib3.Retry):
    """urllib3's retries, limited to those that can help.

    Busy servers (429, 502, 503, or a Retry-After header of up to 15 s) and broken connections are tried again
    after 0, 0.6, 1.2 and 2.4 s. A 500 or 504 is not: the same query would fail again.
    """

    RETRY_AFTER_STATUS_CODES = frozenset({429, 500, 502, 503, 504})

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: Any = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """Return the retries that are left. Raises MaxRetryError if another attempt cannot help."""
        if isinstance(error, urllib3.exceptions.ReadTimeoutError) or self._is_final(response):
            raise urllib3.exceptions.MaxRetryError(_pool, url or "", error)
        left = super().increment(method, url, response, error, _pool, _stacktrace)
        if response is not None:
            response.close()  # urllib3 would read the rest of the body, which may have no end
        return left

    def _is_final(self, response: urllib3.BaseHTTPResponse | None) -> bool:
        """Return whether a busy server asks for more patience than there is, or has evaluated the query."""
        if response is None:
            return False
        wait_s = self.get_retry_after(response)
        if wait_s is not None:
            return wait_s > _LONGEST_WAIT_S
        # Prometheus answers 503 in JSON if a query took too long, and in plain text while it starts.
        return response.status >= 500 and "json" in response.headers.get("Content-Type", "")


def retries(own_headers: frozenset[str], *, connect: bool) -> Retries:
    """Return the retries of one request; `own_headers` are not sent to another host after a redirect.

    If `connect` is false, a server that cannot be reached is an error at once.
    """
    return Retries(
        total=_RETRIES + _REDIRECTS,
        connect=_RETRIES if connect else 0,
        read=_RETRIES,
        status=_RETRIES,
        redirect=_REDIRECTS,
        other=0,
        allowed_methods=None,  # all of them: POST only reads here
        status_forcelist=(429, 502, 503),
        backoff_factor=0.3,
        raise_on_redirect=False,
        raise_on_status=False,
        remove_headers_on_redirect=own_headers,
    )


def open_pool(url: str, config: HttpConfig, proxy_url: str | None) -> urllib3.PoolManager:
    """Return the connections to a store; a TLS context is only made if one may be needed."""
    settings: dict[str, Any] = {"maxsize": 4}
    if url.lower().startswith("https:") or config.tls != Tls():
        settings["ssl_context"] = config.tls.context()
        if config.tls.server_name:
            settings |= {"server_hostname": config.tls.server_name}
        if config.tls.insecure_skip_verify:  # the user asked for it: no warning with each request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    if proxy_url is None:
        return urllib3.PoolManager(**settings)
    split(proxy_url)
    user = parse_url(proxy_url).auth
    proxy_headers = make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(without_secrets(proxy_url), proxy_headers=proxy_headers, **settings)


def environment_proxy(url: str) -> str | None:
    """Return the proxy for a URL by HTTP_PROXY, HTTPS_PROXY and NO_PROXY; None for a direct connection."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme)
    if not proxy or _is_direct(parts, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_direct(parts: SplitResult, no_proxy: str) -> bool:
    """Return whether no proxy is used: for loopback, as in Go's programs, and for what NO_PROXY lists."""
    host = parts.hostname or ""
    if host == "localhost" or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _networks(no_proxy))


def _networks(no_proxy: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return the networks among NO_PROXY's entries, such as 10.0.0.0/8."""
    networks = []
    for entry in no_proxy.split(","):
        try:
            networks.append(ipaddress.ip_network(entry.strip(), strict=False))
        except ValueError:  # a host name
            continue
    return networks
