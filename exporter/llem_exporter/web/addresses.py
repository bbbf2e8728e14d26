"""The addresses that the exporter listens on."""

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from llem_core.errors import ConfigError

BACKLOG: Final = 512

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; `host` None means every interface."""

    host: str | None
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host or ''}:{self.port}"


def listen(address: Address) -> socket.socket:
    """Return a listening socket. Raises ConfigError.

    As in Go, a host name means its first IPv4 address if it has one, and [::] accepts IPv4, too.
    """
    has_ipv6 = socket.has_dualstack_ipv6()
    host = address.host or ("::" if has_ipv6 else "0.0.0.0")
    try:
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
        family, _, _, _, name = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        dualstack = has_ipv6 and family == socket.AF_INET6
        return socket.create_server(name, family=family, backlog=BACKLOG, dualstack_ipv6=dualstack)
    except (OSError, UnicodeError) as exc:
        # create_server() appends the address to the system's message.
        reason = str(getattr(exc, "strerror", exc)).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {address}: {reason}") from exc


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


def _name(listener: socket.socket) -> str:
    name = listener.getsockname()
    return str(Address(*name[:2])) if isinstance(name, tuple) else f"unix:{name}"


def _is_wide(listener: socket.socket) -> bool:
    name = listener.getsockname()
    return isinstance(name, tuple) and not ip_address(name[0]).is_loopback
