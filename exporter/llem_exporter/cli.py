"""The command line: the only reader of arguments and environment."""

import logging
import os
import signal
import sys
from typing import Any, Final

import click

from llem_core import __version__
from llem_core.errors import LLEMError
from llem_exporter import logs, systemd
from llem_exporter.options import OPTIONS

SWITCH_SECONDS: Final = 0.0005
"""How long a thread may keep the interpreter from one that waits, and so delay a GPU's tick."""

_FIELD_OF: Final = {
    "web_listen_address": "addresses",
    "sample_interval": "interval_ms",
    "driver_timeout": "driver_timeout_ms",
    "collector_zeus": "use_zeus",
    "collector_codecarbon": "use_codecarbon",
    "codecarbon_country_iso_code": "country_iso_code",
    "history_retention": "retention_ms",
    "history_max_samples": "max_samples",
}
"""Where the name of an option's setting is not the option's own."""


@click.command(params=OPTIONS, context_settings={"auto_envvar_prefix": "LLEM_EXPORTER", "show_default": True})
@click.version_option(__version__)
def main(log_level: str, log_format: str, web_systemd_socket: bool, **chosen: Any) -> None:
    """Publish GPU power and energy for Prometheus, sampled every 100 ms.

    Every option can also be set in the environment, as LLEM_EXPORTER_SAMPLE_INTERVAL.
    SIGHUP reads --web.config.file again.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server heeds it: never the end
    sys.setswitchinterval(SWITCH_SECONDS)
    logs.configure(log_level, log_format)
    # It would hide GPUs from Zeus and renumber the others; NVML does not heed it.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    from llem_exporter.exporter import Settings, run

    settings = {_FIELD_OF.get(name, name): value for name, value in chosen.items()}
    try:
        inherited = systemd.take_sockets(os.environ, os.getpid()) if web_systemd_socket else None
        run(Settings(**settings, inherited=inherited, notify_socket=os.environ.get("NOTIFY_SOCKET")))
    except LLEMError as exc:
        if log_format == "json":
            logging.getLogger(__name__).error("%s", exc)
            sys.exit(1)
        raise click.ClickException(str(exc)) from exc
