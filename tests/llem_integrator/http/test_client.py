"""Servers that are busy, go away or send elsewhere: asked again for a while, and never believed by half."""

import random
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from llem_core.errors import SourceError
from llem_integrator.http.access import HttpConfig
from llem_integrator.http.client import Http
from llem_integrator.stores import whole
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_integrator.remote_read.test_client import READ
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, answering, between, cut_at
from tests.llem_integrator.traces import POWER, T0, fetch, same, trace_text
from tests.servers import Prometheus, PrometheusRelease, free_port

END = T0 + 2_000_000
"""Ms at which the trace of `traced` ends: a source fetches it in two slabs, or in four pages of JSON."""


def source(url: str, waits_s: list[float] | None = None, *, remote_read: bool = True) -> PrometheusSource:
    waits_s = [] if waits_s is None else waits_s
    return PrometheusSource(Http(url, sleep=waits_s.append), remote_read=remote_read)


def once_in(times: int, change: Callable[[Reply], Reply]) -> Callable[[Asked, Reply], Reply]:
    """Every so many answers one is changed."""
    count = 0

    def changed(_: Asked, reply: Reply) -> Reply:
        nonlocal count
        count += 1
        return change(reply) if count % times == 0 else reply

    return changed


@pytest.mark.parametrize("remote_read", [True, False])
def test_answers_cut_at_random_bytes_are_fetched_again(traced: Prometheus, remote_read: bool) -> None:
    """A broken transfer is resumed after the last complete piece."""
    noise = random.Random(7)

    def cut(reply: Reply) -> Reply:
        return replace(reply, cut=noise.randrange(len(reply.body))) if reply.body else reply

    waits_s: list[float] = []
    expected = fetch(source(traced.url), T0, END)
    with between(traced.url, once_in(2, cut)) as proxy:
        for _ in range(4):
            broken = source(proxy.url, waits_s, remote_read=remote_read)
            assert same(fetch(broken, T0, END), expected)
    assert len(waits_s) >= 5


@pytest.mark.parametrize("remote_read", [True, False])
def test_answers_that_are_always_cut_are_an_error(
    traced: Prometheus, remote_read: bool, subtests: pytest.Subtests
) -> None:
    """After five incomplete responses, there is an error."""
    for size in (0, 1, 40, 1000):
        waits_s: list[float] = []
        with subtests.test(size=size), between(traced.url, cut_at(size)) as proxy:
            with pytest.raises(SourceError, match="no answer from"):
                fetch(source(proxy.url, waits_s, remote_read=remote_read), T0, END)
            assert len(waits_s) == 4
            assert sum(waits_s) < 10


def test_a_length_that_is_not_told_is_an_error(traced: Prometheus) -> None:
    """A response without a length is an error, because it could be cut between two frames."""
    with (
        between(traced.url, lambda _, reply: replace(reply, chunked=False, length=-1)) as proxy,
        pytest.raises(SourceError, match="its end cannot be told from a broken connection"),
    ):
        fetch(source(proxy.url), T0, END)


def test_a_busy_server_is_asked_again(traced: Prometheus, subtests: pytest.Subtests) -> None:
    """If every other request fails, no sample is lost. Retry-After is respected."""
    expected = fetch(source(traced.url), T0, END)
    for status in (429, 500, 502, 503, 504):
        waits_s: list[float] = []
        refused = partial(replace, status=status, body=b"busy", headers={"Retry-After": "2"})
        with subtests.test(status=status):
            with between(traced.url, once_in(2, refused)) as proxy:
                assert same(fetch(source(proxy.url, waits_s), T0, END), expected)
            assert set(waits_s) == {2.0}


def test_a_server_that_stays_busy_is_an_error() -> None:
    """There are five attempts with increasing delays. A Retry-After of minutes is an error."""
    for headers, expected in (({}, [0.3, 0.6, 1.2, 2.4]), ({"Retry-After": "600"}, [])):
        waits_s: list[float] = []
        with answering(429, b"", headers=headers) as url, pytest.raises(SourceError, match="answered 429"):
            fetch(source(url, waits_s), T0, END)
        assert waits_s == expected


def test_a_query_that_took_too_long_is_not_asked_again() -> None:
    """A query that times out on the server is an error at once."""
    body = b'{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}'
    with StandIn(lambda _: Reply(503, body)) as server:
        with pytest.raises(SourceError, match="503: query timed out"):
            fetch(source(server.url, remote_read=False), T0, END)
        assert len(server.asked) == 1


@pytest.mark.parametrize("back", [True, False])
def test_a_server_killed_in_the_middle(
    tmp_path: Path, prometheus_release: PrometheusRelease, back: bool
) -> None:
    """If the server restarts between attempts, all samples are read. Otherwise the error names it."""
    with Prometheus.on_blocks(tmp_path, trace_text(2000), release=prometheus_release) as server:

        def wait(_: float) -> None:
            if back:
                server.start()

        asked = PrometheusSource(Http(server.url, sleep=wait), remote_read=False)
        pieces = iter(asked.pieces(POWER, (), T0, T0 + 200_000, lambda _: None))
        first = next(pieces)
        server.kill()
        if back:
            assert [len(one) for one in whole([first, *pieces])] == [2000, 2000]
        else:
            with pytest.raises(SourceError, match=f"no answer from {server.url}"):
                list(pieces)


def test_a_server_that_never_was_there_is_not_waited_for() -> None:
    """A refused connection is an error at once."""
    waits_s: list[float] = []
    with pytest.raises(SourceError, match="refused"):
        fetch(source(f"http://127.0.0.1:{free_port()}", waits_s), T0, END)
    assert waits_s == []


SECRETS = HttpConfig(
    headers=(("Authorization", "Bearer hidden"), ("X-Scope-OrgID", "team"), ("X-Key", "hidden"))
)


def test_a_redirect_to_the_same_host_keeps_the_headers(subtests: pytest.Subtests) -> None:
    """The redirected request has the same body and credentials. 303 makes it a GET."""
    for status in (301, 302, 303, 307, 308):

        def reply(asked: Asked, status: int = status) -> Reply:
            moved = asked.path.startswith("/moved")
            return Reply(body=b"{}") if moved else Reply(status, headers={"Location": f"/moved{asked.path}"})

        with subtests.test(status=status), StandIn(reply) as server:
            Http(server.url, SECRETS).request("POST", "/api/v1/query", {"query": "1"})
            first, second = server.asked
            assert second.headers["authorization"] == "Bearer hidden"
            assert second.headers["x-scope-orgid"] == "team"
            assert (second.method, second.body) == (("GET", b"") if status == 303 else ("POST", first.body))


def test_a_redirect_to_another_host_drops_the_headers() -> None:
    """Tokens, tenants and the password in the URL are not sent to another host."""
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
    """With follow_redirects: false, the redirect is the response. Loops end."""
    with StandIn(lambda asked: Reply(302, headers={"Location": asked.path})) as server:
        assert Http(server.url, HttpConfig(follow_redirects=False)).request("GET", "/x").status == 302
        assert len(server.asked) == 1
        assert Http(server.url).request("GET", "/x").status == 302
        assert len(server.asked) == 7


def test_a_hanging_server_does_not_hold_who_leaves() -> None:
    """Ctrl-C ends the wait for a response."""
    main_thread, released = threading.main_thread().ident, threading.Event()
    assert main_thread is not None

    def hang(asked: Asked) -> Reply:
        if asked.path == READ:
            signal.pthread_kill(main_thread, signal.SIGINT)
            released.wait()
        return Reply(404)

    with StandIn(hang) as server:
        pieces = PrometheusSource(Http(server.url)).pieces(POWER, (), T0, END, lambda _: None)
        try:
            with pytest.raises(KeyboardInterrupt):
                next(iter(pieces))
        finally:
            released.set()
