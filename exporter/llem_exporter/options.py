"""The options of the command line: their names, values and defaults."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

from llem_exporter.web.addresses import Address

_MS_PER_UNIT: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


class Duration(click.ParamType[int]):
    """A number of whole milliseconds between two limits, written for example as 100ms, 1.5s or 15m."""

    name = "duration"

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = low, high
        self._low_ms, self._high_ms = _milliseconds(low) or 0, _milliseconds(high) or 0

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        milliseconds = _milliseconds(str(value))
        if milliseconds is None:
            self.fail(
                f"{value!r} is not a duration in whole milliseconds, for example 100ms, 1.5s or 15m",
                param,
                ctx,
            )
        if not self._low_ms <= milliseconds <= self._high_ms:
            self.fail(f"{value} is not between {self._low} and {self._high}", param, ctx)
        return milliseconds


def _milliseconds(text: str) -> int | None:
    """Return None for what is not a whole number of milliseconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", text, re.ASCII)
    if found is None:
        return None
    milliseconds = Decimal(found[1]) * _MS_PER_UNIT[found[2]]
    return int(milliseconds) if milliseconds == int(milliseconds) else None


class ListenAddress(click.ParamType[Address]):
    """HOST:PORT, [IPV6]:PORT, or :PORT for every interface (host None)."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]]*)):(\d{1,5})", str(value), re.ASCII)
        if found is None or int(found[3]) > 65_535:
            self.fail(f"{value!r} is not HOST:PORT, for example 127.0.0.1:9955 or [::]:9955", param, ctx)
        return Address(found[1] or found[2] or None, int(found[3]))


def _names(_ctx: click.Context, _param: click.Parameter, gpus: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in gpus.split(",") if name.strip())
    if gpus and not names:
        raise click.ClickException(f"--gpus {gpus!r} contains no GPU; omit the option to read all GPUs")
    return names


def _option(flags: str, text: str, setting: str | None = None, **more: Any) -> click.Option:
    """Return an option for a setting, which by default has the name of the option."""
    name = flags.partition("/")[0].lstrip("-").replace("-", "_").replace(".", "_")
    return click.Option([flags, setting or name], help=text, envvar=f"LLEM_EXPORTER_{name.upper()}", **more)


OPTIONS: Final[list[click.Parameter]] = [
    _option(
        "--web.listen-address",
        "Address to listen on; can be repeated. :9955 means every interface. Port 0 means any free port.",
        setting="addresses",
        type=ListenAddress(),
        multiple=True,
        default=["127.0.0.1:9955"],
    ),
    _option(
        "--web.systemd-socket",
        "Listen on the sockets that systemd passes, instead of --web.listen-address.",
        is_flag=True,
    ),
    _option(
        "--web.config.file",
        "File with TLS settings and users, in the format of exporter-toolkit; reloaded when it changes.",
        type=click.Path(path_type=Path),
        metavar="FILE",
    ),
    _option(
        "--sample-interval",
        "Time between power samples, 20ms to 10s.",
        setting="interval_ms",
        type=Duration("20ms", "10s"),
        default="100ms",
    ),
    _option(
        "--gpus",
        "Comma-separated list of GPU indices or UUIDs to read, for example 0,1. 'none' is for a node without "
        "GPUs, and requires CodeCarbon.  [default: all]",
        metavar="LIST",
        default="",
        show_default=False,
        callback=_names,
    ),
    _option(
        "--collector.zeus/--no-collector.zeus",
        "Read the hardware energy counters with Zeus if it is installed.",
        setting="use_zeus",
        default=True,
        show_default="enabled",
    ),
    _option(
        "--collector.codecarbon/--no-collector.codecarbon",
        "Measure the energy of the whole node with CodeCarbon if it is installed.",
        setting="use_codecarbon",
        default=True,
        show_default="enabled",
    ),
    _option(
        "--codecarbon.country-iso-code",
        "Country of the node, as an ISO 3166 code of three letters, for example DEU. Required for emissions.",
        setting="country_iso_code",
        metavar="CODE",
        type=str.upper,
    ),
    _option(
        "--history.retention",
        "How long samples are kept for /history, 10s to 55m. Prometheus rejects samples older than one hour.",
        setting="retention_ms",
        type=Duration("10s", "55m"),
        default="15m",
    ),
    _option(
        "--driver.timeout",
        "Maximum time to wait for the driver at the start, 1s to 1h. Then the exporter exits.",
        setting="driver_timeout_ms",
        type=Duration("1s", "1h"),
        default="1m",
    ),
    _option(
        "--replay",
        "Replay power from a CSV file instead of reading GPUs. 'demo' is an included file.",
        metavar="FILE",
    ),
    _option(
        "--jobs.dir",
        "Directory with job files, which name the jobs on each GPU. The README describes their format.",
        metavar="DIR",
    ),
    _option(
        "--log.level",
        "Lowest level of messages to log to standard error.",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
    ),
    _option(
        "--log.format",
        "Format of log lines. With json, each line is an object with ts, level, msg and logger.",
        type=click.Choice(["text", "json"]),
        default="text",
    ),
]
