"""Socket activation and readiness notification of systemd.

Source: sd_listen_fds(3), sd_notify(3).
"""

import re
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

from llem_core.errors import ConfigError

FIRST_DESCRIPTOR: Final = 3


def take_sockets(environ: MutableMapping[str, str], pid: int) -> tuple[socket.socket, ...]:
    """Return the listening sockets that systemd passed to this process. Raises ConfigError without any.

    The variables are removed from the environment, so that no child process uses them.
    """
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    addressee, count, _ = (environ.pop(name, "") for name in names)
    if addressee != str(pid) or not re.fullmatch("[1-9][0-9]{0,3}", count):
        raise ConfigError("--web.systemd-socket: systemd passed no socket; use a .socket unit")
    return tuple(_adopted(FIRST_DESCRIPTOR + number) for number in range(int(count)))


def _adopted(descriptor: int) -> socket.socket:
    with suppress(OSError):
        adopted = socket.socket(fileno=descriptor)
        listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if adopted.type == socket.SOCK_STREAM and listens:
            adopted.set_inheritable(False)
            return adopted
    problem = f"file descriptor {descriptor} is not a listening stream socket; use ListenStream="
    raise ConfigError(f"--web.systemd-socket: {problem}")


def notify(address: str | None, state: str) -> None:
    """Send a state, for example READY=1, to the service manager. Do nothing without an address."""
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())
