"""What is too much is refused as it comes: nothing fills the memory, nothing is waited for without end."""

import gzip
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pytest

from llem_integrator.sources import http
from tests.fuzz.command import WINDOW, integrate
from tests.fuzz.hostile import Answer, HostilePeer, response

MEBIBYTE = 1 << 20
BOMB = gzip.compress(bytes(64 * MEBIBYTE), 9)
"""64 MiB of zeros; gzip members that follow each other are one stream."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its status, stderr, seconds, and most bytes of memory that it had."""

    status: int
    err: str
    seconds: float
    peak_bytes: int


def run(module: str, *args: str, limit_bytes: int = 4096 * MEBIBYTE) -> Ended:
    """Run a program in an address space of bounded size, to its end."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", module, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes)),
    )
    assert process.stderr is not None
    err = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    return Ended(process.returncode, err, time.monotonic() - began_s, usage.ru_maxrss * 1024)


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
    """A plain body without end."""
    yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    yield from repeat(b"x 1 1\n" * 10_000)


def one_line() -> Iterable[bytes]:
    """One without a line's end."""
    yield b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"metric": {"'
    yield from repeat(b"x" * 60_000)


@pytest.mark.parametrize("body", [zeros, lines, one_line])
@pytest.mark.parametrize(
    ("answer", "most_bytes"),
    [
        (as_prometheus, 400 * MEBIBYTE),
        (as_exporter, 1300 * MEBIBYTE),
        (lambda body: lambda _: body(), 400 * MEBIBYTE),
        (redirected, 400 * MEBIBYTE),
    ],
    ids=["prometheus", "exporter", "anything", "redirected"],
)
def test_an_answer_without_end_is_given_up(
    answer: Callable[[Callable[[], Iterable[bytes]]], Answer],
    most_bytes: int,
    body: Callable[[], Iterable[bytes]],
) -> None:
    """In one line, with no more memory than the longest answer that may come; found here: all was filled."""
    with HostilePeer(answer(body)) as peer:
        ended = run("llem_integrator", "--source", peer.url, "--window", WINDOW)
    assert ended.status == 1, ended
    assert ended.err.startswith("error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert ended.peak_bytes < most_bytes, ended
    assert ended.seconds < 60, ended


def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long each byte may take, all of them together may not."""
    monkeypatch.setattr(http, "_LONGEST_S", 1.0)

    def drip() -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        for _ in range(600):
            time.sleep(0.1)
            yield b"x"

    with HostilePeer(as_prometheus(drip)) as peer:
        outcome = integrate("--source", peer.url, "--window", WINDOW)
    assert outcome.status == 1
    assert "given up" in outcome.err


def test_numbers_of_many_digits_are_no_work() -> None:
    """A page of 10 MB in which each sample has a value and a time of 4000 digits."""
    line = f"x {'9' * 4000} {'1' * 4000}\n"
    with HostilePeer(as_exporter(lambda: [response((line * 1200 + "# EOF\n").encode())])) as peer:
        ended = run("llem_integrator", "--source", peer.url, "--window", WINDOW)
    assert ended.status in (1, 3), ended
    assert ended.err.count("\n") <= 1, ended
    assert ended.seconds < 20, ended


def test_a_line_of_100_mb_in_a_file_is_one_line(tmp_path: Path) -> None:
    """Of an OpenMetrics file and of a trace to replay; the memory is a few times the file's."""
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
