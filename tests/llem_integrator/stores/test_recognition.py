"""Which store answers at a URL: real ones, and stand-ins for those that cannot be run here."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from llem_core.errors import SourceError
from llem_integrator.http.access import HttpConfig
from llem_integrator.stores import open_source
from llem_integrator.stores.exporter import ExporterSource
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_integrator.remote_read.test_client import READ
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, between
from tests.llem_integrator.traces import T0, fetch, same, trace_text
from tests.servers import Exporter, Prometheus, PrometheusRelease

BUILD = "/api/v1/status/buildinfo"
_QUERY = "/api/v1/query"
_TENANT = "--http.header 'X-Scope-OrgID: TENANT'"


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


def test_a_mimir_is_read_by_remote_read_for_its_tenant(traced: Prometheus) -> None:
    """The stand-in is a Prometheus with Mimir's prefix, name and tenants."""

    def mimir(asked: Asked) -> Reply | None:
        if asked.headers.get("x-scope-orgid") != "team":
            return Reply(401, b"no org id")
        if not asked.path.startswith("/prometheus/"):
            return Reply(404)
        return saying(application="Grafana Mimir", version="2.15.0") if asked.path.endswith(BUILD) else None

    team = HttpConfig(headers=(("X-Scope-OrgID", "team"),))

    def unprefixed(asked: Asked) -> Asked:
        return replace(asked, path=asked.path.removeprefix("/prometheus"))

    with between(traced.url, before=mimir, sent=unprefixed) as proxy:
        with pytest.raises(SourceError, match=f"{_QUERY} answered 401: no org id .*{_TENANT}"):
            open_source(f"{proxy.url}/prometheus")
        source = open_source(f"{proxy.url}/prometheus", team)
        found = fetch(source, T0, T0 + 300_000)
        assert f"/prometheus{READ}" in {asked.path for asked in proxy.asked}
    assert same(found, fetch(open_source(traced.url), T0, T0 + 300_000))


class Thanos:
    """What a Thanos Querier does with its own parameters, before a Prometheus gets the rest."""

    stores = b'{"status":"success","data":{"sidecar":[]}}'

    def __init__(self) -> None:
        self.warn = False

    def before(self, asked: Asked) -> Reply | None:
        path = urlsplit(asked.path).path
        if path == BUILD:
            return saying(version="0.36.1", revision="abc", goVersion="go1.22")
        if path == "/api/v1/stores":
            return Reply(body=self.stores)
        if path == READ:
            return Reply(404)
        form = parse_qs(asked.body.decode() or urlsplit(asked.path).query)
        given = {name: form.get(name) for name in ("dedup", "partial_response", "max_source_resolution")}
        if given != {"dedup": ["false"], "partial_response": ["false"], "max_source_resolution": ["0s"]}:
            return Reply(400, b'{"status":"error","errorType":"bad_data","error":"%r"}' % str(given).encode())
        if self.warn:
            said = {"status": "success", "data": {"resultType": "vector", "result": []}}
            return Reply(body=json.dumps(said | {"warnings": ["store store-1 is down"]}).encode())
        return None


def test_a_thanos_is_asked_for_every_raw_sample(traced: Prometheus) -> None:
    """Without its parameters, Thanos would merge replicas, skip stores and downsample. This is a stand-in."""
    thanos = Thanos()
    with between(traced.url, before=thanos.before) as proxy:
        source = open_source(proxy.url)
        assert same(fetch(source, T0, T0 + 300_000), fetch(open_source(traced.url), T0, T0 + 300_000))
        assert READ not in {asked.path for asked in proxy.asked}
        assert not source.warnings
        thanos.warn = True
        fetch(source, T0, T0 + 1000)
        assert source.warnings == ("store store-1 is down",)


def test_a_thanos_that_lacks_a_store_is_an_error(traced: Prometheus) -> None:
    """With partial_response=false, Thanos returns an error, which is raised."""
    failed = (
        b'{"status":"error","errorType":"execution","error":"expanding series: store-1: connection refused"}'
    )

    def before(asked: Asked) -> Reply | None:
        return Thanos().before(asked) or (Reply(422, failed) if asked.path == "/api/v1/query" else None)

    with between(traced.url, before=before) as proxy:
        source = open_source(proxy.url)
        with pytest.raises(SourceError, match="answered 422: expanding series: store-1"):
            fetch(source, T0, T0 + 1000)


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


def test_a_cortex_without_build_information_names_the_tenant(traced: Prometheus) -> None:
    """Cortex answers 404 to buildinfo, and 401 to queries without a tenant. The error says what to set."""

    def cortex(asked: Asked) -> Reply | None:
        if asked.path.startswith("/api/v1/status/") or asked.path == "/":
            return Reply(404, b"404 page not found")
        return None if "x-scope-orgid" in asked.headers else Reply(401, b"no org id")

    with between(traced.url, before=cortex) as proxy:
        with pytest.raises(SourceError, match=f"{_QUERY} answered 401: no org id .*{_TENANT}"):
            open_source(proxy.url)
        source = open_source(proxy.url, HttpConfig(headers=(("X-Scope-OrgID", "team"),)))
        assert [len(one) for one in fetch(source, T0, T0 + 900)] == [10, 10]


def test_a_forbidden_status_page_does_not_matter(traced: Prometheus, subtests: pytest.Subtests) -> None:
    """A proxy that allows queries only is enough. A Thanos behind it is still recognised."""
    for name, before in (("prometheus", lambda _: None), ("thanos", Thanos().before)):

        def forbidding(asked: Asked, before: Callable[[Asked], Reply | None] = before) -> Reply | None:
            if asked.path.startswith("/api/v1/status/"):
                return Reply(403, b"no")
            return None if asked.path == f"{_QUERY}?query=1" else before(asked)

        with subtests.test(store=name), between(traced.url, before=forbidding) as proxy:
            source = open_source(proxy.url)
            assert [len(one) for one in fetch(source, T0, T0 + 900)] == [10, 10]
            assert (READ in {asked.path for asked in proxy.asked}) == (name == "prometheus")


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
