"""Proxies from the environment, and which hosts are reached without one."""

from base64 import b64decode

import pytest

from llem_core.errors import SourceError
from llem_integrator.http.access import HttpConfig
from llem_integrator.http.client import Http
from llem_integrator.http.connections import environment_proxy
from tests.llem_integrator.stand_ins import Reply, StandIn, always

STORE = "http://store.example:9090"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_requests_go_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The proxy gets the full URL, and the credentials in its own URL. `proxy_url` overrides it."""
    with StandIn(always(Reply(body=b"{}"))) as proxy, StandIn(always(Reply(body=b"{}"))) as other:
        monkeypatch.setenv(name, proxy.url.replace("//", "//ann:word@"))
        Http(STORE).request("GET", "/x")
        (asked,) = proxy.asked
        assert asked.path == f"{STORE}/x"
        assert b64decode(asked.headers["proxy-authorization"].partition(" ")[2]) == b"ann:word"
        Http(STORE, HttpConfig(proxy_url=other.url)).request("GET", "/x")
        assert len(other.asked) == 1


def test_https_goes_through_its_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY is asked for a tunnel. An error names the proxy without its password."""
    with StandIn(always(Reply(body=b"{}"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//ann:word@"))
        with pytest.raises(
            SourceError, match=f"no answer from https.* through the proxy {proxy.url}: "
        ) as caught:
            Http(STORE.replace("http:", "https:")).request("GET", "/x")
    assert "word" not in str(caught.value)


DIRECT = [
    ("http://store.example", "store.example"),
    ("http://a.store.example", "store.example"),
    ("http://a.store.example", ".store.example"),
    ("http://store.example:9090", "other, store.example:9090"),
    ("http://ann:word@store.example:9090", "store.example"),
    ("http://10.1.2.3:9090", "10.0.0.0/8"),
    ("http://10.1.2.3:9090", "10.1.2.3"),
    ("http://[fd00::7]:9090", "fd00::/8"),
    ("http://anything", "*"),
    ("http://localhost:9090", ""),
    ("http://127.0.0.1:9090", ""),
    ("http://[::1]:9090", ""),
]
PROXIED = [
    ("http://store.example", ""),
    ("http://mystore.example", "store.example"),
    ("http://store.example:9091", "store.example:9090"),
    ("http://11.1.2.3:9090", "10.0.0.0/8, nonsense/99"),
]


def test_no_proxy_lists_hosts_and_networks(
    monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """NO_PROXY has host names, domains, addresses and networks. Loopback never needs to be listed."""
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    for urls, expected in ((DIRECT, None), (PROXIED, "http://proxy.example:3128")):
        for url, no_proxy in urls:
            with subtests.test(url=url, no_proxy=no_proxy):
                monkeypatch.setenv("NO_PROXY", no_proxy)
                assert environment_proxy(url) == expected


def test_a_proxy_is_for_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY is not used for http, and the other way round."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    assert environment_proxy(STORE) is None
    assert environment_proxy("https://store.example") == "http://proxy.example"
