"""The options of the command line: their names, values and defaults."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Final

import click

from llem_exporter.web.addresses import Address


class Duration(click.ParamType[int]):
    """A duration such as 100ms, 1.5s or 15m, in whole milliseconds, from `low` to `high`."""

    name = "duration"

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        milliseconds = _milliseconds(str(value))
        if milliseconds is None:
            self.fail(
                f"{value!r} is not a duration in whole milliseconds, such as 100ms, 1.5s or 15m", param, ctx
            )
        if not (_milliseconds(self._low) or 0) <= milliseconds <= (_milliseconds(self._high) or 0):
            self.fail(f"{value} is not between {self._low} and {self._high}", param, ctx)
        return milliseconds


_MS_PER_UNIT: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


def _milliseconds(text: str) -> int | None:
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
            self.fail(f"{value!r} is not HOST:PORT, as 127.0.0.1:9955 or [::]:9955", param, ctx)
        return Address(found[1] or found[2] or None, int(found[3]))


def _names(_ctx: click.Context, _param: click.Parameter, gpus: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in gpus.split(",") if name.strip())
    if gpus and not names:
        raise click.ClickException(f"--gpus {gpus!r} is empty; omit the option to read all GPUs")
    return names


def _upper(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    return text.upper() if text else None


_WEB: Final = [
    click.Option(
        ["--web.listen-address", "web_listen_address"],
        type=ListenAddress(),
        multiple=True,
        default=["127.0.0.1:9955"],
        help="Address to listen on; can be repeated. :9955 is every interface. Port 0 is any free port.",
    ),
    click.Option(
        ["--web.systemd-socket", "web_systemd_socket"],
        is_flag=True,
        help="Use the sockets that systemd passes instead of --web.listen-address.",
    ),
    click.Option(
        ["--web.config.file", "web_config_file"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File with TLS settings, users and headers, in exporter-toolkit's format; reloaded on change.",
    ),
]

_MEASURING: Final = [
    click.Option(
        ["--sample-interval", "sample_interval"],
        type=Duration("20ms", "10s"),
        default="100ms",
        help="Time between two power samples, 20ms to 10s.",
    ),
    click.Option(
        ["--gpus", "gpus"],
        default="",
        show_default=False,
        callback=_names,
        metavar="LIST",
        help="GPUs to read, as NVML indices or UUIDs separated by commas: 0,1 or GPU-...; "
        "'none' reads no GPU, for a node on which only CodeCarbon measures.  [default: all]",
    ),
    click.Option(
        ["--collector.zeus/--no-collector.zeus", "collector_zeus"],
        default=True,
        help="Read the GPUs' hardware energy counters through Zeus, if it is installed.",
    ),
    click.Option(
        ["--collector.codecarbon/--no-collector.codecarbon", "collector_codecarbon"],
        default=True,
        help="Measure this node's energy with CodeCarbon if it is installed.",
    ),
    click.Option(
        ["--codecarbon.country-iso-code", "codecarbon_country_iso_code"],
        metavar="DEU",
        callback=_upper,
        help="Country of the electricity grid, as ISO 3166 alpha-3. Emissions are published only with it.",
    ),
    click.Option(
        ["--history.retention", "history_retention"],
        type=Duration("10s", "55m"),
        default="15m",
        help="How long /history keeps samples, 10s to 55m. Prometheus rejects samples older than an hour.",
    ),
    click.Option(
        ["--history.max-samples", "history_max_samples"],
        type=click.IntRange(min=1),
        metavar="NUMBER",
        help="Maximum number of new samples in one response of /history, for scrapers with a sample limit.  "
        "[default: the samples of three scrape intervals]",
    ),
    click.Option(
        ["--driver.timeout", "driver_timeout"],
        type=Duration("1s", "1h"),
        default="1m",
        help="How long to wait at the start for a driver or GPUs that do not answer, 1s to 1h.",
    ),
    click.Option(
        ["--replay", "replay"],
        metavar="FILE",
        help="Replay a trace in a CSV file instead of reading GPUs; 'demo' is a trace that comes with llem.",
    ),
    click.Option(
        ["--jobs.dir", "jobs_dir"],
        metavar="DIR",
        help="Directory of job files, named by GPU UUID, with lines job_id=, user=, account= and partition=.",
    ),
]

_LOG: Final = [
    click.Option(
        ["--log.level", "log_level"],
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        help="Lowest level of the messages that are written to standard error.",
    ),
    click.Option(
        ["--log.format", "log_format"],
        type=click.Choice(["text", "json"]),
        default="text",
        help="Format of the log. json writes one object per line, with ts, level, msg and logger.",
    ),
]

OPTIONS: Final[list[click.Parameter]] = [*_WEB, *_MEASURING, *_LOG]
