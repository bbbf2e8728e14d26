"""HTTP as the stores use it: whole answers and streams, complete or an error."""

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote, urlencode

import urllib3
from urllib3.util import make_headers, parse_url

from llem_core import __version__
from llem_core.errors import SourceError
from llem_integrator.http.access import HttpConfig
from llem_integrator.http.connections import environment_proxy, open_pool, retries
from llem_integrator.http.urls import without_secrets

_TIMEOUT: Final = urllib3.Timeout(connect=5, read=120)
_TRANSFERS: Final = 5
"""A transfer that breaks is attempted this many times in all."""
_MOST_BYTES: Final = 256 << 20
"""The largest body that is read as a whole, decompressed."""
_LONGEST_S: Final = 900.0
"""The longest time for such a body: one byte a minute never runs into a timeout."""
_BLOCK: Final = 1 << 16
"""Bytes that are read at once; decompressed, they may become a thousand times as many."""

_NOT_BY_CA: Final = (10, 62, 64)
"""OpenSSL's codes of certificates that are expired, or of another host or address."""

_LONGEST_REASON: Final = 4000
SHOWN_REASON: Final = 300
"""Characters of a server's reason that a message shows."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """The status and the whole body of a response, and where a redirect leads."""

    status: int
    body: bytes
    location: str = ""

    @property
    def reason(self) -> str:
        """The server's own words: the `error` of a JSON answer, else the beginning of its text."""
        try:
            error = json.loads(self.body)["error"]
        except (ValueError, RecursionError, KeyError, TypeError):
            error = re.sub(r"<[^>]*>", " ", self.body[:_LONGEST_REASON].decode("utf-8", "replace"))
        return " ".join(str(error)[:_LONGEST_REASON].split())


class InterruptedTransferError(SourceError):
    """A transfer broke in the middle of the body; it may be complete the next time."""


class Http:
    """A store's URL, and all that goes with a request to it."""

    def __init__(
        self,
        url: str,
        config: HttpConfig | None = None,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        config = config or HttpConfig()
        self.address = without_secrets(url)
        self._monotonic_s = monotonic_s
        self._headers = {"User-Agent": f"llem-integrate/{__version__}", **dict(config.headers)}
        user = parse_url(url).auth
        if user and "authorization" not in {name.lower() for name in self._headers}:
            self._headers |= make_headers(basic_auth=unquote(user))
        self._own_headers = frozenset(name.lower() for name in self._headers) - {"user-agent"}
        proxy_url = config.proxy_url or environment_proxy(url)
        self._pool = open_pool(url, config, proxy_url)
        self._through = f" through the proxy {without_secrets(proxy_url)}" if proxy_url else ""
        # A store that cannot be reached is an error at once; one that has answered is tried again.
        self._reached = False
        self._follow_redirects = config.follow_redirects

    def request(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the whole answer, whatever its status.

        Raises SourceError if there is none, if it is incomplete, or if it is larger than 256 MiB.
        """

        def ask() -> Answer:
            with self.open(method, path, fields, body=body, headers=headers) as stream:
                return stream.answer()

        return self.patiently(ask)

    def patiently(self, ask: Callable[[], Result]) -> Result:
        """Return what `ask` returns; a transfer that breaks is repeated up to four times."""
        for _ in range(_TRANSFERS - 1):
            with suppress(InterruptedTransferError):
                return ask()
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
        """Yield an answer whose body is read as it arrives; raises SourceError if there is no answer."""
        target, form = f"{self.address}{path}", urlencode(fields or {})
        sent = {"Accept": "application/json", "Accept-Encoding": "gzip", **self._headers, **(headers or {})}
        if method == "POST" and body is None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            body = form.encode()
        elif form:
            target = f"{target}?{form}"
        try:
            response = self._pool.request(
                method,
                target,
                body=body,
                headers=sent,
                retries=retries(self._own_headers, connect=self._reached),
                redirect=self._follow_redirects,
                timeout=_TIMEOUT,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as exc:  # ValueError: an invalid redirect
            origin = f"{self.address}{path}{self._through}"
            if words := _tls_words(exc):
                raise SourceError(f"cannot connect to {origin}: {words}") from exc
            raise SourceError(f"no answer from {origin}: {_words(exc)}") from exc
        self._reached = True
        try:
            yield Stream(response, f"{self.address}{path}", self._monotonic_s)
        finally:
            response.close()  # a connection is only used again if the body was read to its end

    def refusal(self, path: str, answer: Answer) -> SourceError:
        """Return the error for an answer that is not what was asked for, with the reason and what to do."""
        reason = f": {answer.reason[:SHOWN_REASON]}" if answer.reason else ""
        hint = ""
        if "org id" in reason:
            hint = " (set the tenant: --http.header 'X-Scope-OrgID: TENANT')"
        elif answer.status in (401, 403):
            hint = " (set the credentials: --http.user, --http.bearer-token-file or --http.config.file)"
        elif 300 <= answer.status < 400 and answer.location:
            ignored = "" if self._follow_redirects else "follow_redirects is false; "
            hint = f" (a redirect to {_shown(answer.location)}; {ignored}set --source to the final URL)"
        return SourceError(f"{self.address}{path} answered {answer.status}{reason}{hint}")

    def not_json(self, path: str, answer: Answer) -> SourceError:
        """Return the error for a successful answer that is not JSON."""
        start = answer.body[:60].decode("utf-8", "replace").strip()
        return SourceError(f"{self.address}{path} answered with something that is not JSON: {start!r}")


class Stream:
    """An answer whose body is still being received; `headers` are by lower-case name."""

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        origin: str,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._response, self._origin, self._monotonic_s = response, origin, monotonic_s
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    def check_end(self) -> None:
        """Raise SourceError if a complete body could not be told from one that was cut."""
        if "content-length" not in self.headers and self.headers.get("transfer-encoding") != "chunked":
            raise SourceError(
                f"{self._origin}: the response has neither Content-Length nor chunked encoding, "
                "so a truncated one could not be detected; read from the store directly, or fix the proxy "
                "in between"
            )

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer only at the end of the body."""
        with self._translated():
            return self._response.read(size)

    def answer(self) -> Answer:
        """Return the answer as a whole."""
        return Answer(self.status, self.rest(), self.headers.get("location", ""))

    def rest(self) -> bytes:
        """Return the rest of the body. Raises SourceError if it is too large."""
        return b"".join(self.blocks(_MOST_BYTES))

    def blocks(self, most_bytes: int) -> Iterator[bytes]:
        """Yield the rest of the body as it arrives. Raises SourceError if it is too large."""
        size, begun_s = 0, self._monotonic_s()
        while True:
            with self._translated():
                block = self._response.read1(_BLOCK)
            if not block:
                return
            size += len(block)
            fault = f"is larger than {most_bytes >> 20} MiB" if size > most_bytes else ""
            if self._monotonic_s() - begun_s > _LONGEST_S:
                fault = f"was not complete after {_LONGEST_S / 60:.0f} minutes"
            if fault:
                remedy = "use a shorter --window or a narrower --match"
                raise SourceError(f"{self._origin}: the response {fault}; {remedy}")
            yield block

    def abort(self) -> None:
        """End a read() in another thread now."""
        with suppress(Exception):
            self._response.shutdown()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise urllib3's errors as SourceError."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, ValueError, OSError) as exc:
            broken = isinstance(exc, (urllib3.exceptions.ProtocolError, OSError))
            error = InterruptedTransferError if broken else SourceError
            raise error(f"cannot read the answer from {self._origin}: {_words(exc)}") from exc


class Abort:
    """Ends the answer that another thread is reading, if any."""

    def __init__(self) -> None:
        self._stream: Stream | None = None

    @contextmanager
    def of(self, stream: Stream) -> Iterator[None]:
        """Make this stream the one to end, for as long as the context lasts."""
        self._stream = stream
        try:
            yield
        finally:
            self._stream = None

    def __call__(self) -> None:
        if (stream := self._stream) is not None:
            stream.abort()


def _shown(location: str) -> str:
    """Return the target of a redirect without its secrets."""
    try:
        return without_secrets(location)[:SHOWN_REASON]
    except ValueError:
        return "an invalid URL"


def _tls_words(error: BaseException) -> str | None:
    """Return why TLS did not begin and what to do, or None if that is not the cause."""
    cause = _cause(error)
    cause = cause.args[-1] if cause.args and isinstance(cause.args[-1], ssl.SSLError) else cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "" if cause.verify_code in _NOT_BY_CA else "; set --http.ca-file"
        return f"the certificate is not trusted ({cause.verify_message.rstrip('.')}){hint}"
    return "the server does not use TLS; write http://" if "WRONG_VERSION_NUMBER" in str(cause) else None


def _words(error: BaseException) -> str:
    """Return the cause of one of urllib3's errors in a few words, without the objects that it prints."""
    error = _cause(error)
    words = re.sub(r" \(_ssl\.c:\d+\)", "", str(error.args[-1])) if error.args else ""
    if isinstance(error, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ReadTimeoutError)):
        words = words.rpartition(": ")[2]
    return words or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    while cause := getattr(error, "reason", None) or getattr(error, "original_error", None):
        if not isinstance(cause, BaseException):
            break
        error = cause
    return error
