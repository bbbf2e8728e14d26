"""Servers that are busy, go away or send elsewhere: asked again for a while, and never believed by half."""

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from llem_core.errors import SourceError
from llem_integrator.http.access import HttpConfig
from llem_integrator.http.client import Answer, Http
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_integrator.remote_read.test_client import READ
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, always, between, cut_at
from tests.llem_integrator.traces import POWER, T0, fetch, same, trace_text
from tests.servers import Prometheus, PrometheusRelease, free_port

END = T0 + 2_000_000
"""Ms at which the trace of `traced` ends: a source fetches it in two slabs, or in four pages of JSON."""


def source(url: str, *, remote_read: bool = True) -> PrometheusSource:
    return PrometheusSource(Http(url), remote_read=remote_read)


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
    noise, cuts = random.Random(7), 0

    def cut(reply: Reply) -> Reply:
        nonlocal cuts
        cuts += bool(reply.body)
        return replace(reply, cut=noise.randrange(len(reply.body))) if reply.body else reply

    expected = fetch(source(traced.url), T0, END)
    with between(traced.url, once_in(2, cut)) as proxy:
        for _ in range(4):
            assert same(fetch(source(proxy.url, remote_read=remote_read), T0, END), expected)
    assert cuts >= 5


@pytest.mark.parametrize("remote_read", [True, False])
def test_answers_that_are_always_cut_are_an_error(
    traced: Prometheus, remote_read: bool, subtests: pytest.Subtests
) -> None:
    """After five incomplete responses, there is an error."""
    for size in (0, 1, 40, 1000):
        with subtests.test(size=size), between(traced.url, cut_at(size)) as proxy:
            with pytest.raises(SourceError, match="cannot read the answer from"):
                fetch(source(proxy.url, remote_read=remote_read), T0, END)
            last = proxy.asked[-1]
            assert [(asked.path, asked.body) for asked in proxy.asked].count((last.path, last.body)) == 5


def test_a_length_that_is_not_told_is_an_error(traced: Prometheus) -> None:
    """A response without a length is an error, because it could be cut between two frames."""
    with (
        between(traced.url, lambda _, reply: replace(reply, chunked=False, length=-1)) as proxy,
        pytest.raises(SourceError, match="neither Content-Length nor chunked encoding, so a truncated one"),
    ):
        fetch(source(proxy.url), T0, END)


def test_a_busy_server_is_asked_again(traced: Prometheus) -> None:
    """If every other request fails, no sample is lost. Retry-After is respected."""
    expected = fetch(source(traced.url), T0, END)
    statuses = [429, 500, 502, 503, 504]
    left = list(statuses)

    def refused(reply: Reply) -> Reply:
        status = left.pop() if left else 429
        return replace(reply, status=status, body=b"busy", headers={"Retry-After": "1"})

    began_s = time.monotonic()
    with between(traced.url, once_in(2, refused)) as proxy:
        for remote_read in (False, True):
            assert same(fetch(source(proxy.url, remote_read=remote_read), T0, END), expected)
    assert not left
    assert time.monotonic() - began_s >= len(statuses)


def test_a_server_that_stays_busy_is_an_error() -> None:
    """There are five attempts with increasing delays. A Retry-After of minutes is an error."""
    for headers, attempts in (({}, 5), ({"Retry-After": "600"}, 1)):
        with StandIn(always(Reply(429, b"", headers))) as server:
            with pytest.raises(SourceError, match="answered 429"):
                fetch(source(server.url), T0, END)
            assert len(server.asked) == attempts


JSON = {"Content-Type": "application/json"}
QUESTIONS_FAULT = [
    (Reply(500, b"error parsing regexp: missing )"), "500: error parsing regexp: missing"),
    (Reply(504, b"upstream request timeout"), "504: upstream request timeout"),
    (
        Reply(503, b'{"status":"error","errorType":"timeout","error":"query timed out"}', JSON),
        "503: query timed out",
    ),
    (
        Reply(422, b'{"status":"error","errorType":"execution","error":"no such function"}'),
        "no such function",
    ),
]


def test_a_query_that_would_fail_again_is_not_asked_again(subtests: pytest.Subtests) -> None:
    """An invalid query, and one that times out on the server, is an error at once, with the reason."""
    for reply, reason in QUESTIONS_FAULT:
        for remote_read in (True, False):
            with subtests.test(reason=reason, remote_read=remote_read), StandIn(always(reply)) as server:
                with pytest.raises(SourceError, match=reason):
                    fetch(source(server.url, remote_read=remote_read), T0, END)
                assert len(server.asked) == 1


def test_a_real_server_says_what_is_wrong_with_a_matcher(traced: Prometheus) -> None:
    """An invalid regular expression gives the server's reason, without another attempt."""
    for remote_read in (True, False):
        with between(traced.url) as proxy:
            with pytest.raises(SourceError, match="missing closing"):
                fetch(source(proxy.url, remote_read=remote_read), T0, END, 'gpu=~"("')
            assert len(proxy.asked) == 1


@pytest.mark.parametrize("remote_read", [True, False])
def test_a_server_that_is_killed(
    tmp_path: Path, prometheus_release: PrometheusRelease, remote_read: bool
) -> None:
    """If the server restarts between requests, all samples are read. If it does not, the error names it."""
    with Prometheus.on_blocks(tmp_path, trace_text(2000), release=prometheus_release) as server:
        store = source(server.url, remote_read=remote_read)
        expected = fetch(store, T0, T0 + 200_000)
        server.kill()
        server.start()
        assert same(fetch(store, T0, T0 + 200_000), expected)
        server.kill()
        with pytest.raises(SourceError, match=f"no answer from {server.url}"):
            fetch(store, T0, T0 + 200_000)


def test_a_server_that_is_away_for_a_moment_is_asked_again() -> None:
    """A server that has answered, and then refuses connections for half a second, is waited for."""
    with StandIn(always(Reply(body=b"first", length=5))) as server:  # a length closes the connection
        http = Http(server.url)
        assert http.request("GET", "/").body == b"first"
    with ExitStack() as stack:

        def restart() -> None:
            port = int(server.url.rpartition(":")[2])
            stack.enter_context(StandIn(always(Reply(body=b"second")), port))

        timer = threading.Timer(0.5, restart)
        timer.start()
        stack.callback(timer.join)
        assert http.request("GET", "/").body == b"second"


def test_a_server_that_never_was_there_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection is an error at once."""
    caplog.set_level("DEBUG", "urllib3")
    with pytest.raises(SourceError, match="refused"):
        fetch(source(f"http://127.0.0.1:{free_port()}"), T0, END)
    assert "Incremented Retry" not in caplog.text


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


def test_a_redirect_that_is_not_followed_names_its_target() -> None:
    """The error names the URL without its password, and what to set."""
    with StandIn(lambda _: Reply(302, headers={"Location": "http://ann:hidden@other:9090/x"})) as server:
        http = Http(server.url, HttpConfig(follow_redirects=False))
        error = str(http.refusal("/x", http.request("GET", "/x")))
    target = "a redirect to http://other:9090/x; follow_redirects is false; set --source to the final URL"
    assert error == f"{server.url}/x answered 302 ({target})"
    assert http.refusal("/x", Answer(302, b"", "http://[")).args[0].count("an invalid URL") == 1


def test_a_server_without_tls() -> None:
    """The error names the scheme to write."""
    with StandIn(lambda _: Reply()) as server:
        http = Http(server.url.replace("http:", "https:"))
        with pytest.raises(SourceError, match=r"^cannot connect to https.*/x: the server .* write http://$"):
            http.request("GET", "/x")


def test_a_response_that_is_too_large() -> None:
    """The error has the limit, and the options that help."""
    with (
        StandIn(lambda _: Reply(body=bytes(3 << 20))) as server,
        Http(server.url).open("GET", "/") as stream,
        pytest.raises(SourceError, match="the response is larger than 2 MiB; use a shorter --window or"),
    ):
        list(stream.blocks(2 << 20))


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
        pieces = PrometheusSource(Http(server.url)).pieces(POWER, (), T0, END)
        try:
            with pytest.raises(KeyboardInterrupt):
                next(iter(pieces))
        finally:
            released.set()
