"""The addresses that the exporter listens on."""

import errno
import logging
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
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
    """Listening sockets for each address; a host name may have several. Raises ConfigError."""
    with ExitStack() as opened:
        listeners = [opened.enter_context(listener) for address in addresses for listener in _listen(address)]
        opened.pop_all()
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


def _listen(address: Address) -> Iterator[socket.socket]:
    missing: OSError | None = None
    count = 0
    try:
        for family, _, _, _, name in socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            # As in Go, [::] accepts IPv4 as well. For :PORT there is a socket for each.
            dualstack = family == socket.AF_INET6 and address.host is not None
            try:
                yield socket.create_server(name, family=family, backlog=BACKLOG, dualstack_ipv6=dualstack)
                count += 1
            except OSError as exc:
                if exc.errno not in _NOT_ON_THIS_MACHINE:
                    raise
                missing = exc
        if missing and not count:
            raise missing
    except (OSError, UnicodeError) as exc:
        # create_server() appends the address to the system's message.
        reason = str(getattr(exc, "strerror", exc)).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {address}: {reason}") from exc


def _name(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{_bracketed(name[0])}:{name[1]}" if isinstance(name, tuple) else f"unix:{name}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_wide(listener: socket.socket) -> bool:
    name = listener.getsockname()
    return isinstance(name, tuple) and not ip_address(name[0].partition("%")[0]).is_loopback
