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
    """The listening sockets that systemd passed to this process. Raises ConfigError if there are none.

    The variables are removed from the environment, so that no child process uses them.
    """
    variables = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    count = int(variables["LISTEN_FDS"]) if re.fullmatch("[0-9]{1,4}", variables["LISTEN_FDS"]) else 0
    if variables["LISTEN_PID"] != str(pid) or count < 1:
        raise ConfigError("--web.systemd-socket: systemd passed no socket; use a .socket unit")
    return tuple(_adopted(FIRST_DESCRIPTOR + number) for number in range(count))


def _adopted(descriptor: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise ConfigError(
            f"--web.systemd-socket: file descriptor {descriptor} is not a socket: {exc.strerror}"
        ) from exc
    listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if adopted.type != socket.SOCK_STREAM or not listens:
        raise ConfigError(
            f"--web.systemd-socket: file descriptor {descriptor} is not a listening stream socket; "
            "use ListenStream="
        )
    adopted.set_inheritable(False)
    return adopted


def notify(address: str | None, state: str) -> None:
    """Send a state such as READY=1 to the service manager. Does nothing without an address."""
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())
