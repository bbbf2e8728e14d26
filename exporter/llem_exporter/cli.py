"""The command line: the only module that reads arguments and environment variables."""

import logging
import os
import signal
import sys
from typing import Any

import click

from llem_core import __version__
from llem_core.errors import LLEMError
from llem_exporter import logs, systemd
from llem_exporter.options import OPTIONS


@click.command(params=OPTIONS, context_settings={"show_default": True})
@click.version_option(__version__)
def main(log_level: str, log_format: str, web_systemd_socket: bool, **chosen: Any) -> None:
    """Measure the power and energy of GPUs, and publish them for Prometheus.

    Each option can be set by an environment variable: LLEM_EXPORTER_ and the option's name in upper case,
    with dots and dashes as underscores, for example LLEM_EXPORTER_WEB_LISTEN_ADDRESS.

    SIGHUP reloads --web.config.file.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server handles it: it never ends the process
    logs.configure(log_level, log_format)
    # Zeus would hide and renumber GPUs by this variable, but NVML ignores it.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    from llem_exporter.exporter import Settings, run

    try:
        inherited = systemd.take_sockets(os.environ, os.getpid()) if web_systemd_socket else None
        run(Settings(**chosen, inherited=inherited, notify_socket=os.environ.get("NOTIFY_SOCKET")))
    except LLEMError as exc:
        if log_format == "json":
            logging.getLogger(__name__).error("%s", exc)
            sys.exit(1)
        raise click.ClickException(str(exc)) from exc
