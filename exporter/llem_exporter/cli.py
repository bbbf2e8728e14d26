"""The command line: the only reader of arguments and environment."""

import logging
import os
import re
import sys
from decimal import Decimal
from typing import Final

import click

from llem_core import __version__
from llem_core.errors import LLEMError

SWITCH_SECONDS: Final = 0.0005
"""How long a thread may keep the interpreter from one that waits, and so delay a GPU's tick."""

_MS_PER_UNIT: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


class Duration(click.ParamType[int]):
    """Whole milliseconds, written as 100ms, 1.5s or 15m, between two of them."""

    name = "duration"

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        milliseconds = _milliseconds(str(value))
        if milliseconds is None:
            self.fail(f"{value!r} is no duration in whole milliseconds, as 100ms, 1.5s or 15m", param, ctx)
        if not (_milliseconds(self._low) or 0) <= milliseconds <= (_milliseconds(self._high) or 0):
            self.fail(f"{value} is not between {self._low} and {self._high}", param, ctx)
        return milliseconds


def _milliseconds(text: str) -> int | None:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", text, re.ASCII)
    if found is None:
        return None
    milliseconds = Decimal(found[1]) * _MS_PER_UNIT[found[2]]
    return int(milliseconds) if milliseconds == int(milliseconds) else None


class ListenAddress(click.ParamType[tuple[str | None, int]]):
    """HOST:PORT, [IPV6]:PORT, or :PORT for every interface (host None)."""

    name = "host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, int]:
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]]*)):(\d{1,5})", str(value), re.ASCII)
        if found is None or int(found[3]) > 65_535:
            self.fail(f"{value!r} is not HOST:PORT, as 127.0.0.1:9955 or [::]:9955", param, ctx)
        return found[1] or found[2] or None, int(found[3])


def _names(gpus: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in gpus.split(",") if name.strip())
    if gpus and not names:
        raise click.ClickException(f"--gpus {gpus!r} names no GPU; leave it out for all of them")
    return names


@click.command(context_settings={"auto_envvar_prefix": "LLEM_EXPORTER", "show_default": True})
@click.option(
    "--web.listen-address",
    "web_listen_address",
    type=ListenAddress(),
    default="127.0.0.1:9955",
    help="Where to serve; port 0 takes a free one.",
)
@click.option(
    "--sample-interval",
    type=Duration("20ms", "10s"),
    default="100ms",
    help="Time between power samples: whole milliseconds, 20ms to 10s.",
)
@click.option(
    "--gpus",
    default="",
    help="GPUs to read, by index or UUID: 0,1 or GPU-...; none for a node without.  [default: all]",
)
@click.option(
    "--collector.zeus/--no-collector.zeus",
    "collector_zeus",
    default=True,
    help="Read the hardware's energy counters through Zeus, where it is installed and works.",
)
@click.option(
    "--collector.codecarbon/--no-collector.codecarbon",
    "collector_codecarbon",
    default=True,
    help="Count this node's energy with CodeCarbon, where it is installed and works.",
)
@click.option(
    "--codecarbon.country-iso-code",
    "codecarbon_country_iso_code",
    metavar="DEU",
    help="Country whose grid CodeCarbon's emissions are of; without one there are no grams.",
)
@click.option(
    "--history.retention",
    "history_retention",
    type=Duration("10s", "55m"),
    default="15m",
    help="How long /history keeps samples, at most 55m: Prometheus takes none older than an hour.",
)
@click.option(
    "--history.max-samples",
    "history_max_samples",
    type=click.IntRange(min=1),
    help="Most new samples in one answer to a scraper.  [default: three scrape intervals' worth]",
)
@click.option("--replay", help="Play a trace in place of GPUs: a CSV file, or 'demo'.")
@click.option(
    "--log.level",
    "log_level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
)
@click.version_option(__version__)
def main(
    web_listen_address: tuple[str | None, int],
    sample_interval: int,
    gpus: str,
    collector_zeus: bool,
    collector_codecarbon: bool,
    codecarbon_country_iso_code: str | None,
    history_retention: int,
    history_max_samples: int | None,
    replay: str | None,
    log_level: str,
) -> None:
    """Publish GPU power and energy for Prometheus, sampled every 100 ms.

    Every option can also be set in the environment, as LLEM_EXPORTER_SAMPLE_INTERVAL.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(
        stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("zeus").setLevel(logging.WARNING)
    # It would hide GPUs from Zeus and renumber the others; NVML does not heed it.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    from llem_exporter.exporter import Settings, run

    host, port = web_listen_address
    settings = Settings(
        host=host,
        port=port,
        interval_ms=sample_interval,
        retention_ms=history_retention,
        max_samples=history_max_samples,
        gpus=_names(gpus),
        use_zeus=collector_zeus,
        use_codecarbon=collector_codecarbon,
        country_iso_code=codecarbon_country_iso_code.upper() if codecarbon_country_iso_code else None,
        replay=replay,
    )
    try:
        run(settings)
    except LLEMError as exc:
        raise click.ClickException(str(exc)) from exc
