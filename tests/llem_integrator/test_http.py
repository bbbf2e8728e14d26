"""Servers that are busy, go away or send elsewhere: asked again for a while, and never believed by half."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llem_core.errors import SourceError
from llem_integrator.sources import slabs
from llem_integrator.sources.access import HttpConfig
from llem_integrator.sources.http import Http
from llem_integrator.sources.prometheus import PrometheusSource
from llem_integrator.sources.remote_read import RemoteRead
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, answering, between, cut_at
from tests.llem_integrator.test_remote_read import READ, same
from tests.llem_integrator.traces import POWER, T0, fetch, trace_text
from tests.servers import Prometheus, PrometheusRelease, free_port

SAMPLES = 20_000
END = T0 + 2_000_000


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    with Prometheus.on_blocks(directory, trace_text(SAMPLES), release=prometheus_release) as running:
        yield running


@pytest.fixture(autouse=True)
def short_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tens of slabs, so that something can happen between and inside them."""
    monkeypatch.setattr(slabs, "TARGET_SAMPLES", 1000)

    class Short(slabs.Slabs):
        def __init__(self, start_ms: int, end_ms: int) -> None:
            super().__init__(start_ms, end_ms, 2000)

    monkeypatch.setattr("llem_integrator.sources.remote_read.Slabs", Short)


def source(url: str, waits_s: list[float] | None = None, *, remote_read: bool = True) -> PrometheusSource:
    waits_s = [] if waits_s is None else waits_s
    return PrometheusSource(Http(url, sleep=waits_s.append), remote_read=remote_read)


def everything(server: Prometheus) -> bool:
    found = fetch(source(server.url), T0, END)
    return [len(one) for one in found] == [SAMPLES, SAMPLES]


def once_in(times: int, change: Callable[[Reply], Reply]) -> Callable[[Asked, Reply], Reply]:
    """Every so many answers one is changed."""
    count = 0

    def changed(_: Asked, reply: Reply) -> Reply:
        nonlocal count
        count += 1
        return change(reply) if count % times == 0 else reply

    return changed


@pytest.mark.parametrize("remote_read", [True, False])
def test_answers_cut_at_random_bytes_are_fetched_again(server: Prometheus, remote_read: bool) -> None:
    """A transfer that breaks anywhere in a slab is begun again where the last whole piece ended."""
    noise = random.Random(7)

    def cut(reply: Reply) -> Reply:
        return replace(reply, cut=noise.randrange(len(reply.body))) if reply.body else reply

    waits_s: list[float] = []
    with between(server.url, once_in(2, cut)) as proxy:
        broken = source(proxy.url, waits_s, remote_read=remote_read)
        found = fetch(broken, T0, END)
    assert same(found, fetch(source(server.url), T0, END))
    assert len(waits_s) >= 5


@pytest.mark.parametrize("remote_read", [True, False])
@pytest.mark.parametrize("size", [0, 1, 40, 1000])
def test_answers_that_are_always_cut_are_an_error(server: Prometheus, size: int, remote_read: bool) -> None:
    """What never comes whole is told, after a bounded number of tries."""
    waits_s: list[float] = []
    with (
        between(server.url, cut_at(size)) as proxy,
        pytest.raises(SourceError, match="no answer from"),
    ):
        fetch(source(proxy.url, waits_s, remote_read=remote_read), T0, END)
    assert len(waits_s) == 4
    assert sum(waits_s) < 10


def test_a_length_that_is_not_told_is_an_error(server: Prometheus) -> None:
    """Without one, an answer that was cut between two frames would look whole."""
    with (
        between(server.url, lambda _, reply: replace(reply, chunked=False, length=-1)) as proxy,
        pytest.raises(SourceError, match="its end cannot be told from a broken connection"),
    ):
        fetch(source(proxy.url), T0, END)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: Prometheus, status: int) -> None:
    """Every other request refused costs time, and no samples; Retry-After is waited for."""
    waits_s: list[float] = []
    refusal = Reply(status, b"busy", {"Retry-After": "2"})
    with between(server.url, once_in(2, lambda _: refusal)) as proxy:
        found = fetch(source(proxy.url, waits_s), T0, END)
    assert same(found, fetch(source(server.url), T0, END))
    assert set(waits_s) == {2.0}


def test_a_server_that_stays_busy_is_an_error() -> None:
    """Five tries, further and further apart; one that asks for minutes is not waited for."""
    for headers, expected in (({}, [0.3, 0.6, 1.2, 2.4]), ({"Retry-After": "600"}, [])):
        waits_s: list[float] = []
        with answering(429, b"", headers=headers) as url, pytest.raises(SourceError, match="answered 429"):
            fetch(source(url, waits_s), T0, END)
        assert waits_s == expected


def test_a_query_that_took_too_long_is_not_asked_again() -> None:
    """It would take too long again."""
    body = b'{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}'
    with StandIn(lambda _: Reply(503, body)) as server:
        with pytest.raises(SourceError, match="503: query timed out"):
            fetch(source(server.url, remote_read=False), T0, END)
        assert len(server.asked) == 1


@pytest.mark.parametrize("back", [True, False])
def test_a_server_killed_in_the_middle(
    tmp_path: Path, prometheus_release: PrometheusRelease, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """If it comes back soon every sample is there; if not, the error names it."""
    monkeypatch.setattr("tests.servers.START_SECONDS", 30.0)
    kept = trace_text(SAMPLES)
    with Prometheus.on_blocks(tmp_path, kept, release=prometheus_release) as server:

        def wait(_: float) -> None:
            if back:
                server.start()

        asked = PrometheusSource(Http(server.url, sleep=wait))
        pieces = iter(asked.pieces(POWER, (), T0, END, lambda _: None))
        count = sum(map(len, next(pieces).series))
        server.kill()
        if back:
            assert count + sum(len(one) for piece in pieces for one in piece.series) == 2 * SAMPLES
        else:
            with pytest.raises(SourceError, match=f"no answer from {server.url}"):
                list(pieces)


def test_a_server_that_never_was_there_is_not_waited_for() -> None:
    """A wrong address is told at once."""
    waits_s: list[float] = []
    with pytest.raises(SourceError, match="refused"):
        fetch(source(f"http://127.0.0.1:{free_port()}", waits_s), T0, END)
    assert waits_s == []


SECRETS = HttpConfig(
    headers=(("Authorization", "Bearer hidden"), ("X-Scope-OrgID", "team"), ("X-Key", "hidden"))
)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_the_same_host_keeps_the_headers(status: int) -> None:
    """A path that moved gets what the first one got, question and credentials."""

    def reply(asked: Asked) -> Reply:
        moved = asked.path.startswith("/moved")
        return Reply(body=b"{}") if moved else Reply(status, headers={"Location": f"/moved{asked.path}"})

    with StandIn(reply) as server:
        Http(server.url, SECRETS).request("POST", "/api/v1/query", {"query": "1"})
        first, second = server.asked
    assert second.headers["authorization"] == "Bearer hidden"
    assert second.headers["x-scope-orgid"] == "team"
    assert (second.method, second.body) == (("GET", b"") if status == 303 else ("POST", first.body))


def test_a_redirect_to_another_host_drops_the_headers() -> None:
    """Neither tokens nor tenants nor a URL's password go to whom they were not meant for."""
    with StandIn(lambda _: Reply(body=b"{}")) as other:
        with StandIn(lambda asked: Reply(307, headers={"Location": other.url + asked.path})) as server:
            for url in (server.url, server.url.replace("//", "//ann:hidden@")):
                config = SECRETS if url == server.url else None
                assert Http(url, config).request("GET", "/api/v1/query").status == 200
            assert "authorization" in server.asked[1].headers
        assert len(other.asked) == 2
        for asked in other.asked:
            assert not {"authorization", "x-scope-orgid", "x-key"} & set(asked.headers)


def test_redirects_may_be_off_and_are_bounded() -> None:
    """follow_redirects: false gives the redirect itself; a circle ends."""
    with StandIn(lambda asked: Reply(302, headers={"Location": asked.path})) as server:
        assert Http(server.url, HttpConfig(follow_redirects=False)).request("GET", "/x").status == 302
        assert len(server.asked) == 1
        assert Http(server.url).request("GET", "/x").status == 302
        assert len(server.asked) == 7


def test_a_hanging_server_does_not_hold_who_leaves() -> None:
    """Whoever stops waiting for an answer that does not come is let go soon."""

    def hang(asked: Asked) -> Reply:
        if asked.path == READ:
            time.sleep(3)
        return Reply(404)

    with StandIn(hang) as server:
        remote = RemoteRead(Http(server.url))
        began = time.monotonic()
        pieces = remote.pieces(POWER, (), T0, END, lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            interrupted(pieces)
        assert time.monotonic() - began < 2.5


def interrupted(pieces: Iterator[object]) -> None:
    """Ctrl-C while it waits for the first piece."""
    timer = threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    try:
        next(pieces)
    finally:
        timer.join()
