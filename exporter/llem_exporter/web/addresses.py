"""The addresses that the exporter listens on."""

import errno
import logging
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from llem_core.errors import ConfigError

BACKLOG: Final = 512
_NOT_ON_THIS_MACHINE: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; `host` None means every interface."""

    host: str | None
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host or '')}:{self.port}"


def listen(addresses: Iterable[Address]) -> list[socket.socket]:
    """Listening sockets for each address; a name may have several. Raises ConfigError."""
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            listeners += _listen(address)
    except ConfigError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def announce(listeners: Sequence[socket.socket], *, tls: bool, guarded: bool) -> None:
    """Log the URLs, and a warning if other hosts can read the pages without TLS and passwords."""
    scheme = "https" if tls else "http"
    for listener in listeners:
        url = f"{scheme}://{_name(listener)}"
        _log.info("listening on %s", url, extra={"url": url})
    wide = [_name(listener) for listener in listeners if _is_wide(listener)]
    if wide and not (tls or guarded):
        _log.warning(
            "anyone who can connect to %s can read the pages: set TLS or passwords with --web.config.file",
            " and ".join(wide),
        )


def _listen(address: Address) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, name in found:
            try:
                listeners.append(_listener(family, name, shared=address.host is not None))
            except OSError as exc:
                if exc.errno not in _NOT_ON_THIS_MACHINE:
                    raise
                missing = exc
        if not listeners and missing:
            raise missing
    except (OSError, UnicodeError) as exc:
        for listener in listeners:
            listener.close()
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise ConfigError(f"cannot listen on {address}: {reason or exc}") from exc
    return listeners


def _listener(family: int, name: object, *, shared: bool) -> socket.socket:
    """A listening socket. If `shared`, [::] also accepts IPv4, as in Go; :PORT has a socket for each."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not shared)
        listener.bind(name)  # type: ignore[arg-type]  # as getaddrinfo returned it
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _name(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{_bracketed(name[0])}:{name[1]}" if isinstance(name, tuple) else f"unix:{name}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_wide(listener: socket.socket) -> bool:
    name = listener.getsockname()
    return isinstance(name, tuple) and not ip_address(name[0].partition("%")[0]).is_loopback
