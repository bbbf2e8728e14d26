"""HTTP as the sources use it: one way to ask, to ask again, and to fail."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlencode, urljoin

import urllib3
from urllib3.util import make_headers, parse_url

from llem_core import __version__
from llem_core.errors import SourceError
from llem_integrator.http.access import HttpConfig
from llem_integrator.http.urls import place, split, without_secrets

_TIMEOUT: Final = urllib3.Timeout(connect=5, read=120)
_WAITS_S: Final = (0.3, 0.6, 1.2, 2.4)
"""Before each further try; some 4 s in all."""
_REDIRECTS: Final = 5
_LONGEST_WAIT_S: Final = 15.0
"""A store that asks for more patience is given up."""
_ALL_TRIES_S: Final = 60.0
"""After so long no other try begins."""
MOST_BYTES: Final = 256 << 20  # of a body that is read as a whole, unzipped: that of ten pages
_LONGEST_S: Final = 900.0  # for such a body; a byte a minute never runs into a timeout
_BLOCK: Final = 1 << 16  # zipped, and a thousand times as much at the most

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back whole; `headers` are by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class InterruptedTransferError(SourceError):
    """A store that was busy, or went away in the middle: the same question may be answered later."""

    def __init__(self, message: str, wait_s: float = 0.0, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.answer = answer


class Http:
    """One store's URL, and all that goes with a request to it."""

    def __init__(
        self,
        url: str,
        config: HttpConfig | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        config = config or HttpConfig()
        self.address = without_secrets(url)
        self._sleep, self._monotonic_s = sleep, monotonic_s
        self._headers = {"User-Agent": f"llem-integrate/{__version__}", **dict(config.headers)}
        user = parse_url(url).auth
        if user and "authorization" not in {name.lower() for name in self._headers}:
            self._headers |= make_headers(basic_auth=unquote(user))
        self._own_headers = {*self._headers} - {"User-Agent"}
        self._pool = _pool(url, config)
        # A store that is not there is said at once; one that was there is asked again.
        self._reached = False
        self._redirects = _REDIRECTS if config.follow_redirects else 0

    def request(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> Answer:
        """The whole answer, whatever its status, asked for again where the store was busy or went away.

        Raises SourceError where there is none, less than was announced, or more than `most_bytes`.
        """

        def ask() -> Answer:
            with self.open(method, path, fields, body=body, headers=headers) as stream:
                return Answer(stream.status, stream.headers, stream.rest(most_bytes))

        try:
            return self.patiently(ask)
        except InterruptedTransferError as exc:
            if exc.answer is None:
                raise
            return exc.answer

    def patiently(self, ask: Callable[[], Found]) -> Found:
        """What `ask` returns, tried again a few times where it is interrupted; raises what it raised last."""
        deadline_s = time.monotonic() + _ALL_TRIES_S
        for wait_s in _WAITS_S:
            try:
                return ask()
            except InterruptedTransferError as exc:
                if exc.wait_s > _LONGEST_WAIT_S or time.monotonic() > deadline_s:
                    raise
                self._sleep(max(wait_s, exc.wait_s))
        return ask()

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "Iterator[Stream]":
        """An answer to be read as it comes; InterruptedTransferError where the store is busy or goes away."""
        target, form = f"{self.address}{path}", urlencode(fields or {})
        sent = {"Accept": "application/json", "Accept-Encoding": "gzip", **self._headers, **(headers or {})}
        if method == "POST" and body is None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            body = form.encode()
        elif form:
            target = f"{target}?{form}"
        with self._said(path):
            response = self._exchange(method, target, body, sent)
        self._reached = True
        stream = Stream(response, f"{self.address}{path}", partial(self._said, path), self._monotonic_s)
        try:
            if response.status == 429 or (response.status >= 500 and response.status != 501):
                self._refuse(Answer(response.status, stream.headers, stream.rest()))
            yield stream
        finally:
            response.close()  # what was not read to its end is no connection to use again

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """The answer, of wherever redirects lead; another host gets no headers of ours."""
        left = self._redirects
        while True:
            response = self._pool.request(
                method,
                target,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=_TIMEOUT,
                preload_content=False,
            )
            location = response.get_redirect_location()
            if not location or not left:
                return response
            left -= 1
            response.close()  # its body may have no end
            before, target = target, urljoin(target, location)
            if place(before) != place(target):
                headers = {name: value for name, value in headers.items() if name not in self._own_headers}
            if response.status == 303:
                method, body = "GET", None

    def _refuse(self, answer: Answer) -> None:
        """Raises where it is worth to ask again: a query that took too long will again."""
        if b'"errorType":"timeout"' in answer.body:
            return
        asked = answer.headers.get("retry-after", "")
        wait_s = float(asked) if asked.isdecimal() else 0.0
        raise InterruptedTransferError(f"{self.address} answered {answer.status}", wait_s, answer)

    @contextmanager
    def _said(self, path: str) -> Iterator[None]:
        """urllib3's errors as ours."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as exc:
            # ValueError: sent on to what is no URL. A proxy's error has the cause in it.
            reason = getattr(exc, "original_error", None) or exc
            message = f"no answer from {self.address}{path}: {_words(reason)}"
            passing = isinstance(reason, _PASSING) and not isinstance(reason, _LASTING)
            if passing and (self._reached or not isinstance(reason, _ABSENT)):
                raise InterruptedTransferError(message) from exc
            raise SourceError(message) from exc


_PASSING: Final = (
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    urllib3.exceptions.NewConnectionError,
    OSError,
)
_ABSENT: Final = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
_LASTING: Final = (urllib3.exceptions.SSLError,)


class Stream:
    """An answer whose body is still on the wire."""

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        origin: str,
        said: Callable[[], Any],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._response, self._origin, self._said, self._monotonic_s = response, origin, said, monotonic_s
        self._rest: bytes | None = None
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    @property
    def ends(self) -> bool:
        """Whether the end of the body can be told from a connection that broke."""
        return "content-length" in self.headers or self.headers.get("transfer-encoding") == "chunked"

    def read(self, size: int) -> bytes:
        """The next bytes: as many as asked for, fewer only at the end of the body."""
        with self._said():
            return self._response.read(size)

    def rest(self, most_bytes: int = MOST_BYTES) -> bytes:
        """All that is left; the same again if asked again. Raises SourceError where that is too much."""
        if self._rest is None:
            self._rest = b"".join(self.blocks(most_bytes))
        return self._rest

    def blocks(self, most_bytes: int) -> Iterator[bytes]:
        """All that is left, as it comes. Raises SourceError where that is too much."""
        size, begun_s = 0, self._monotonic_s()
        while True:
            with self._said():
                block = self._response.read1(_BLOCK)
            if not block:
                return
            size, took_s = size + len(block), self._monotonic_s() - begun_s
            if size > most_bytes or took_s > _LONGEST_S:
                much = f"{size >> 20} MiB and {took_s:.0f} s"
                raise SourceError(f"{self._origin} still answers after {much}, and is given up")
            yield block

    def abort(self) -> None:
        """Have a read() in another thread end now."""
        with suppress(Exception):
            self._response.shutdown()


class Abort:
    """What ends the answer that another thread reads now, if any."""

    def __init__(self) -> None:
        self._stream: Stream | None = None

    @contextmanager
    def of(self, stream: Stream) -> Iterator[None]:
        """While it lasts this stream is the one to end."""
        self._stream = stream
        try:
            yield
        finally:
            self._stream = None

    def __call__(self) -> None:
        if (stream := self._stream) is not None:
            stream.abort()


def _pool(url: str, config: HttpConfig) -> urllib3.PoolManager:
    """Connections by the configuration; a TLS context is made only where one may be needed."""
    settings: dict[str, Any] = {}
    if url.lower().startswith("https:") or config.tls != type(config.tls)():
        settings["ssl_context"] = config.tls.context()
        if config.tls.server_name:
            settings |= {"server_hostname": config.tls.server_name}
        if config.tls.insecure_skip_verify:  # as asked for: no warning with each request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    if config.proxy_url is None:
        return urllib3.PoolManager(maxsize=4, **settings)
    split(config.proxy_url)
    user = parse_url(config.proxy_url).auth
    proxy_headers = make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(without_secrets(config.proxy_url), proxy_headers=proxy_headers, **settings)


def _words(reason: object) -> str:
    """A cause in a few words; urllib3 puts its own objects before some."""
    words = str(reason)
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        words = words.rpartition(": ")[2]
    return words or type(reason).__name__


def parse_json(address: str, answer: Answer) -> Any:
    """What the body says; raises SourceError with the status, where that is to blame."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as exc:
        start = answer.body[:60].decode("utf-8", "replace").strip()
        what = "something that is not JSON" if answer.status == 200 else str(answer.status)
        raise SourceError(f"{address} answered {what}: {start!r}") from exc
