"""URLs of stores: which text is one, and how a URL is shown."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from urllib3.util import parse_url

from llem_core.errors import ConfigError

_HOST_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d+(/\S*)?")


def store_url(where: str) -> str | None:
    """Return the http or https URL that `where` is, or None for a file or "-".

    A scheme is added to HOST:PORT, and a query or fragment is removed. Raises ConfigError for an invalid URL
    or another scheme.
    """
    if _HOST_AND_PORT.fullmatch(where) and not Path(where).exists():
        where = f"http://{where}"
    parts = split(where)
    if parts.scheme in ("http", "https"):
        return parts._replace(query="", fragment="").geturl()
    if "://" in where:
        raise ConfigError(f"cannot read {parts.scheme}:// (give an http or https URL, a file, or -)")
    return None


def split(url: str) -> SplitResult:
    """Return the parts of a URL or of a path. Raises ConfigError for an http URL that is not valid."""
    try:
        parts = urlsplit(url)
        parse_url(url if parts.netloc else "")
        if parts.scheme not in ("http", "https"):
            return parts
        if parts.hostname and parts.port != 0 and not re.search(r"\s", parts.netloc):
            return parts
    except ValueError:  # an invalid port, or a bracket that is not closed
        pass
    shown = re.sub(r"//.*@", "//", url)
    raise ConfigError(f"not a URL: {shown!r} (write http://HOST:PORT)")


def without_secrets(url: str) -> str:
    """Return the URL without user and password, for messages and results."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
