"""Which store answers at a URL. Proxies change what a real Prometheus says about itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llem_core.errors import SourceError
from llem_integrator.stores import open_source
from llem_integrator.stores.exporter import ExporterSource
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_integrator.remote_read.test_client import READ
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, between
from tests.llem_integrator.traces import T0, fetch, trace_text
from tests.servers import Exporter, Prometheus, PrometheusRelease

BUILD = "/api/v1/status/buildinfo"


def saying(**facts: str) -> Reply:
    return Reply(body=json.dumps({"status": "success", "data": facts}).encode())


def test_a_prometheus_is_read_by_remote_read(traced: Prometheus) -> None:
    """A real Prometheus is recognised by its build information."""
    with between(traced.url) as proxy:
        source = open_source(proxy.url)
        fetch(source, T0, T0 + 1000)
        assert isinstance(source, PrometheusSource)
        assert [asked.path for asked in proxy.asked[:2]] == [BUILD, READ]


def test_a_prometheus_under_a_path(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """The path before /api is kept, as with --web.external-url or a proxy."""
    args = ["--web.route-prefix=/prom/a"]
    text = trace_text(10)
    with PrefixedPrometheus.on_blocks(tmp_path, text, args=args, release=prometheus_release) as server:
        source = open_source(f"{server.url}/prom/a/")
        assert [len(one) for one in fetch(source, T0, T0 + 5000)] == [10, 10]


class PrefixedPrometheus(Prometheus):
    def _ready(self) -> bool:
        return self._answers("/prom/a/-/ready")


def test_a_build_of_ones_own_is_a_prometheus(traced: Prometheus, subtests: pytest.Subtests) -> None:
    """A server with an unknown version and the Prometheus API is a Prometheus."""
    for version in ("", "0.1", "3.1.0-dev", "main"):

        def own(asked: Asked, version: str = version) -> Reply | None:
            return saying(version=version) if asked.path == BUILD else None

        with subtests.test(version=version), between(traced.url, before=own) as proxy:
            assert [len(one) for one in fetch(open_source(proxy.url), T0, T0 + 900)] == [10, 10]


def test_a_store_that_does_not_say_what_it_is(traced: Prometheus) -> None:
    """A server that supports only queries is used as it is."""

    def quiet(asked: Asked) -> Reply | None:
        return None if asked.path.startswith("/api/v1/query") else Reply(404)

    with between(traced.url, before=quiet) as proxy:
        source = open_source(proxy.url)
        assert [len(one) for one in fetch(source, T0, T0 + 900)] == [10, 10]


def test_an_exporter_is_its_own_store() -> None:
    """A running llem-exporter is recognised by its landing page."""
    with Exporter(args=["--replay", "demo"]) as exporter:
        assert isinstance(open_source(exporter.url), ExporterSource)


def forbidding(asked: Asked) -> Reply | None:
    """A proxy that forbids status pages."""
    return Reply(403, b"no") if asked.path.startswith("/api/v1/status/") else None


def test_a_forbidden_status_page_does_not_matter(traced: Prometheus) -> None:
    """A proxy that allows queries only is enough."""
    with between(traced.url, before=forbidding) as proxy:
        source = open_source(proxy.url)
        assert [len(one) for one in fetch(source, T0, T0 + 900)] == [10, 10]
        assert READ in {asked.path for asked in proxy.asked}


def test_pages_of_a_store_stand_for_the_store(traced: Prometheus, subtests: pytest.Subtests) -> None:
    """URLs that end in /metrics or /history, and addresses without a scheme, are accepted."""
    with Exporter(args=["--replay", "demo"]) as exporter:
        for path in ("/metrics", "/history", "/metrics/", "/history?since=0"):
            with subtests.test(path=path):
                source = open_source(exporter.url + path)
                assert isinstance(source, ExporterSource)
                assert source.address == exporter.url
        assert isinstance(open_source(exporter.url.removeprefix("http://")), ExporterSource)
    for where in (f"{traced.url}/metrics", traced.url.removeprefix("http://")):
        with subtests.test(where=where):
            source = open_source(where)
            assert isinstance(source, PrometheusSource)
            assert source.address == traced.url


def test_a_store_under_the_path_metrics(traced: Prometheus) -> None:
    """If a store is served under /metrics, the path is kept."""

    def prefixed(asked: Asked) -> Reply | None:
        return None if asked.path.startswith("/metrics/") else Reply(404)

    def unprefixed(asked: Asked) -> Asked:
        return replace(asked, path=asked.path.removeprefix("/metrics"))

    with between(traced.url, before=prefixed, sent=unprefixed) as proxy:
        assert open_source(f"{proxy.url}/metrics").address == f"{proxy.url}/metrics"


def test_a_password_page_is_no_exporter() -> None:
    """If every path needs a password, the error says so."""
    with (
        StandIn(lambda _: Reply(403, b"who are you")) as server,
        pytest.raises(SourceError, match=r"answered 403: who are you .set the credentials: --http.user"),
    ):
        open_source(server.url)
