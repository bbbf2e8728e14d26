"""Which sources are URLs, and how they are completed."""

from pathlib import Path

import pytest

from llem_integrator.http.urls import store_url

URLS = {
    "http://node1:9955": "http://node1:9955",
    "HTTPS://node1/prom": "https://node1/prom",
    "localhost:9090": "http://localhost:9090",
    "127.0.0.1:9090/prometheus": "http://127.0.0.1:9090/prometheus",
    "[::1]:9090": "http://[::1]:9090",
    "http://node1:9955/history?since=0#x": "http://node1:9955/history",
    "http://ann:word@node1": "http://ann:word@node1",
    "page.om": None,
    "a:b/page.om": None,
    "/data/page:1": None,
    "-": None,
}


def test_host_and_port_is_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST:PORT becomes an http URL unless it is a file. Other text is the name of a file."""
    monkeypatch.chdir(tmp_path)
    assert {where: store_url(where) for where in URLS} == URLS
    (tmp_path / "localhost:9090").touch()
    assert store_url("localhost:9090") is None
