"""HTTP as the sources use it: one pool, one way to fail."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import urllib3
from urllib3.util import make_headers, parse_url

from llem_core import __version__
from llem_core.errors import ConfigError, SourceError

# A store that is not there is said at once; one that is busy is asked again, for some 4 s in all.
_RETRIES = urllib3.Retry(
    total=4,
    connect=0,
    read=1,
    respect_retry_after_header=False,
    backoff_factor=0.3,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)
_TIMEOUT = urllib3.Timeout(connect=5, read=120)


@functools.cache
def _pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(retries=_RETRIES, timeout=_TIMEOUT)


def split(url: str) -> SplitResult:
    """The parts of a URL, or of a path; raises ConfigError for a URL to which no request can go."""
    try:
        parts = urlsplit(url)
        parse_url(url if parts.netloc else "")
        if parts.scheme not in ("http", "https"):
            return parts
        if parts.hostname and parts.port != 0 and not re.search(r"\s", parts.netloc):
            return parts
    except ValueError:  # a port that is none, a bracket that stays open
        pass
    shown = re.sub(r"//.*@", "//", url)
    raise ConfigError(f"not a URL: {shown!r} (write http://HOST:PORT)")


def without_secrets(url: str) -> str:
    """The URL with no user or password, for messages and results."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def request(
    method: str, url: str, fields: Mapping[str, str] | None = None, accept: str = "application/json"
) -> tuple[int, bytes]:
    """Status and whole body; raises SourceError where there is none, or less than was announced."""
    headers = {"Accept": accept, "Accept-Encoding": "gzip", "User-Agent": f"llem-integrate/{__version__}"}
    if user := parse_url(url).auth:
        headers |= make_headers(basic_auth=user)
    target, body = without_secrets(url), urlencode(fields or {})
    if method == "POST":
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    elif body:
        target, body = f"{target}?{body}", ""
    try:
        answer = _pool().request(method, target, body=body or None, headers=headers)
    except (urllib3.exceptions.HTTPError, ValueError) as exc:  # ValueError: sent on to what is no URL
        raise SourceError(f"no answer from {without_secrets(url)}: {_reason(exc)}") from exc
    return answer.status, answer.data


def _reason(exc: Exception) -> str:
    """The innermost cause in a few words; urllib3 wraps it in its own retries."""
    cause = getattr(exc, "reason", None) or exc
    words = (
        str(cause).rpartition(": ")[2]
        if isinstance(cause, urllib3.exceptions.NewConnectionError)
        else str(cause)
    )
    return words or type(cause).__name__


def parse_json(url: str, status: int, body: bytes) -> Any:
    """What the body says; raises SourceError with the status, where that is to blame."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        start = body[:60].decode("utf-8", "replace").strip()
        what = "something that is not JSON" if status == 200 else str(status)
        raise SourceError(f"{without_secrets(url)} answered {what}: {start!r}") from exc
