"""URLs of stores: what is one, whom it reaches, and how it is shown."""

import re
from urllib.parse import SplitResult, urlsplit

from urllib3.util import parse_url

from llem_core.errors import ConfigError


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


def place(url: str) -> tuple[str, str | None, int | None]:
    """Return the host of a URL. Raises ValueError if there is none."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not parts.hostname or port is None:
        raise ValueError(f"a redirect to what is no URL: {without_secrets(url)}")
    return parts.scheme, parts.hostname, port
