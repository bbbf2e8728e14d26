"""HTTP as the sources use it: one pool, one way to fail."""

import functools
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.util import make_headers, parse_url

from llem_core import __version__
from llem_core.errors import SourceError

# A store that is not there is said at once; one that is busy is asked again.
_RETRIES = urllib3.Retry(
    total=4,
    connect=0,
    backoff_factor=0.3,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)
_TIMEOUT = urllib3.Timeout(connect=5, read=120)


@functools.cache
def _pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(retries=_RETRIES, timeout=_TIMEOUT)


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
    except urllib3.exceptions.HTTPError as exc:
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


def parse_json(url: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as exc:
        start = body[:60].decode("utf-8", "replace").strip()
        raise SourceError(f"{without_secrets(url)} answered something that is not JSON: {start!r}") from exc
