"""systemd's two protocols: sockets that it hands over, and word that the program is ready.

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
    """The listening sockets that systemd opened for this process. Raises ConfigError where there are none.

    The variables that name them are taken out of the environment: no child is to think them its own.
    """
    named = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    count = int(named["LISTEN_FDS"]) if re.fullmatch("[0-9]{1,4}", named["LISTEN_FDS"]) else 0
    if named["LISTEN_PID"] != str(pid) or count < 1:
        raise ConfigError("--web.systemd-socket: systemd hands over no socket; start this by a .socket unit")
    return tuple(_adopted(FIRST_DESCRIPTOR + number) for number in range(count))


def _adopted(descriptor: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise ConfigError(
            f"--web.systemd-socket: descriptor {descriptor} is no socket: {exc.strerror}"
        ) from exc
    listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if adopted.type != socket.SOCK_STREAM or not listens:
        raise ConfigError(
            f"--web.systemd-socket: descriptor {descriptor} does not listen for streams; write ListenStream="
        )
    adopted.set_inheritable(False)
    return adopted


def notify(address: str | None, state: str) -> None:
    """Tell the service manager a state, as READY=1; without an address nobody asked."""
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.send(state.encode())
