"""Answers and files that are too large are refused while they are read: memory and time are bounded."""

import gzip
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from threading import Timer

import pytest

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from tests.fuzz.command import WINDOW
from tests.fuzz.hostile import Answer, HostilePeer, response

MEBIBYTE = 1 << 20
TIMEOUT_S = 500.0
pytestmark = pytest.mark.timeout(600)
BOMB = gzip.compress(bytes(64 * MEBIBYTE), 9)
"""64 MiB of zeros; gzip members that follow each other are one stream."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit status (-9 after a kill), its stderr and its peak memory."""

    status: int
    err: str
    peak_bytes: int


def run(module: str, *args: str, limit_bytes: int = 4096 * MEBIBYTE) -> Ended:
    """Run a program in an address space of bounded size, to its end; kill it after TIMEOUT_S."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes)),
    )
    assert process.stderr is not None
    timer = Timer(TIMEOUT_S, process.kill)
    timer.start()
    err = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    return Ended(process.returncode, err, usage.ru_maxrss * 1024)


def as_prometheus(body: Callable[[], Iterable[bytes]]) -> Answer:
    first = response(b'{"status": "success", "data": {}}')
    return lambda target: [first] if target.startswith("/api/v1/status/") else body()


def as_exporter(body: Callable[[], Iterable[bytes]]) -> Answer:
    page = response(b"llem-exporter")
    return lambda target: body() if target.startswith("/history") else [page]


def redirected(body: Callable[[], Iterable[bytes]]) -> Answer:
    def elsewhere() -> Iterable[bytes]:
        yield b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n"
        yield from body()

    return lambda target: [response(b"")] if target.startswith("/elsewhere") else elsewhere()


def zeros() -> Iterable[bytes]:
    """A gzipped body without end."""
    yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"
    yield from repeat(BOMB)


def lines() -> Iterable[bytes]:
    """A plain body without end, of long lines: they are parsed faster than short ones."""
    yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    yield from repeat(b"x%b 1 1\n" % (b"x" * 60_000))


def one_line() -> Iterable[bytes]:
    """One without a line's end."""
    yield b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"metric": {"'
    yield from repeat(b"x" * 60_000)


PEERS: dict[str, tuple[Callable[[Callable[[], Iterable[bytes]]], Answer], int]] = {
    "prometheus": (as_prometheus, 400 * MEBIBYTE),
    "exporter": (as_exporter, 1300 * MEBIBYTE),
    "anything": (lambda body: lambda _: body(), 400 * MEBIBYTE),
    "redirected": (redirected, 400 * MEBIBYTE),
}
"""Each kind of peer, and the memory below which its longest answer is read."""


def given_up(peer_kind: str, body: Callable[[], Iterable[bytes]]) -> None:
    """Assert that an endless body ends in one line, within the memory of the longest answer accepted."""
    answer, most_bytes = PEERS[peer_kind]
    with HostilePeer(answer(body)) as peer:
        ended = run("llem_integrator", "--source", peer.url, "--window", WINDOW)
    assert ended.status == 1, ended
    assert ended.err.startswith("error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert ended.peak_bytes < most_bytes, ended


def test_a_gzipped_answer_without_end_is_given_up() -> None:
    """The integrator gives up on a Prometheus that answers with a gzip bomb."""
    given_up("prometheus", zeros)


@pytest.mark.full
@pytest.mark.parametrize("body", [zeros, lines, one_line])
@pytest.mark.parametrize("peer_kind", PEERS)
def test_any_answer_without_end_is_given_up(peer_kind: str, body: Callable[[], Iterable[bytes]]) -> None:
    """Endless answers of each kind of peer, compressed or plain, with or without newlines, are given up."""
    given_up(peer_kind, body)


def test_an_answer_that_drips_is_given_up() -> None:
    """An answer that takes too long as a whole is given up. Here the clock advances a minute per call."""

    def drip() -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        for _ in range(600):
            time.sleep(0.01)
            yield b"x"

    minutes = count(step=60.0)
    with HostilePeer(lambda _: drip()) as peer, pytest.raises(SourceError, match="not complete after 15 min"):
        Http(peer.url, monotonic_s=lambda: next(minutes)).request("GET", "/")


def test_numbers_of_many_digits_are_no_work() -> None:
    """A page of 10 MB whose values and times have 4000 digits does not exceed the limits."""
    line = f"x {'9' * 4000} {'1' * 4000}\n"
    with HostilePeer(as_exporter(lambda: [response((line * 1200 + "# EOF\n").encode())])) as peer:
        ended = run("llem_integrator", "--source", peer.url, "--window", WINDOW)
    assert ended.status in (1, 3), ended
    assert ended.err.count("\n") <= 1, ended


@pytest.mark.full
def test_a_line_of_100_mb_in_a_file_is_one_line(tmp_path: Path) -> None:
    """A line of 100 MB in an OpenMetrics file or a trace gives a short error. Memory is bounded."""
    (path := tmp_path / "line").write_bytes(b"x" * 100_000_000)
    for module, *args in (
        ("llem_integrator", "--source", str(path), "--window", WINDOW),
        ("llem_exporter", "--replay", str(path), "--web.listen-address", "127.0.0.1:0"),
    ):
        ended = run(module, *args)
        assert ended.status == 1, ended
        assert len(ended.err) < 500, ended
        assert "Traceback" not in ended.err, ended
        assert ended.peak_bytes < 800 * MEBIBYTE, ended
