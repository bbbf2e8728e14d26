"""Servers on loopback that stand between a source and a real store, or in its place."""

import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

import urllib3

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its path has the query, its headers are by lower-case name."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; of its body only the first `cut` bytes go out, then the connection closes.

    `length` is what is announced: None is the body's own, and with `chunked`, or below 0, none is.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    length: int | None = None
    chunked: bool = False


class StandIn:
    """A server whose answers are made by `reply`; `asked` has every request."""

    def __init__(self, reply: Callable[[Asked], Reply], port: int = 0) -> None:
        self.asked: list[Asked] = []
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # head and body in one packet: two wait 40 ms for each other

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                stand_in.asked.append(asked)
                self._send(reply(asked))

            def do_POST(self) -> None:
                self.do_GET()

            def _send(self, answer: Reply) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    length = len(answer.body) if answer.length is None else answer.length
                    if length >= 0:
                        self.send_header("Content-Length", str(length))
                self.end_headers()
                body = answer.body if answer.cut is None else answer.body[: answer.cut]
                if answer.chunked and body:
                    body = b"%x\r\n%b\r\n" % (len(body), body)
                if answer.chunked and answer.cut is None:
                    body += b"0\r\n\r\n"
                self.close_connection = answer.cut is not None or answer.length is not None
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def always(reply: Reply) -> Callable[[Asked], Reply]:
    """The same answer to everything."""
    return lambda _: reply


def _same(_: Asked, reply: Reply) -> Reply:
    return reply


def between(
    upstream: str,
    change: Callable[[Asked, Reply], Reply] = _same,
    before: Callable[[Asked], Reply | None] = lambda _: None,
    sent: Callable[[Asked], Asked] = lambda asked: asked,
) -> StandIn:
    """A proxy: `before` may answer a request itself; else `upstream` gets it as `sent` makes it.

    `change` is applied to the answer of `upstream`.
    """
    pool = urllib3.PoolManager(retries=False, timeout=TIMEOUT_S)

    def reply(asked: Asked) -> Reply:
        if (own := before(asked)) is not None:
            return own
        asked = sent(asked)
        own_headers = ("host", "connection", "content-length")
        passed_on = {name: value for name, value in asked.headers.items() if name not in own_headers}
        url = upstream + asked.path
        got = pool.request(asked.method, url, body=asked.body, headers=passed_on, decode_content=False)
        dropped = ("transfer-encoding", "content-length", "connection", "date", "server")
        headers = {name: value for name, value in got.headers.items() if name.lower() not in dropped}
        chunked = got.headers.get("transfer-encoding") == "chunked"
        return change(asked, Reply(got.status, got.data, headers, chunked=chunked))

    return StandIn(reply)


@contextmanager
def answering(
    status: int, body: bytes, length: int | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The URL of a server that answers everything so."""
    with StandIn(always(Reply(status, body, headers or {}, length=length))) as server:
        yield server.url


def cut_at(size: int) -> Callable[[Asked, Reply], Reply]:
    """Of each answer only so many bytes of the body go out."""
    return lambda _, reply: replace(reply, cut=size) if size < len(reply.body) else reply
