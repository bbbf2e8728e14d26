"""The options of llem-integrate: one field each, and how it is written on the command line."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

FORMATS: Final = ("table", "json", "csv", "parquet", "openmetrics")
_MOST: Final = 1e9
"""No figure that is given is larger, so that nothing made of it ends at infinity."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, as text where it is not a number; None is what was not given."""

    windows: tuple[str, ...]
    window_list: str | None
    job: str | None
    source: str
    backend: str
    matches: tuple[str, ...]
    gpus: str | None
    max_gap: str
    min_coverage: float
    form: str
    output: str
    plots: tuple[str, ...]
    emissions: bool
    carbon_intensity: float | None
    pue: float
    price: float | None
    calibration: str | None
    idle_watts: float | None
    wait: str | None
    timezone: str | None
    node_label: str
    dask: str | None
    http_config_file: str | None
    http_headers: tuple[str, ...]
    http_bearer_token_file: str | None
    http_user: str | None
    http_password_file: str | None
    http_ca_file: str | None
    http_cert_file: str | None
    http_key_file: str | None
    progress: bool | None
    demo: bool


class _Line(click.types.StringParamType):
    """Text, of which a variable of the environment holds one a line: windows and matchers have spaces."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.split("\n") if line.strip()]


class _Number(click.types.FloatParamType):
    """A number from `least` to `most`; nan is none."""

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not self._least <= number <= self._most:  # as with nan
            self.fail(f"{value} is not from {self._least:g} to {self._most:g}.", param, ctx)
        return number


def _option(name: str, *declarations: str, **attributes: Any) -> Callable[[_Command], _Command]:
    """An option whose variable in the environment is named after it, not after its parameter."""
    variable = name.partition("/")[0].removeprefix("--").upper()
    for sign in "-.":
        variable = variable.replace(sign, "_")
    return click.option(name, *declarations, envvar=f"LLEM_INTEGRATE_{variable}", **attributes)


_WHICH: Final = (
    _option(
        "--window",
        "windows",
        type=_Line(),
        multiple=True,
        metavar="START,END|START,+DURATION",
        help="May be repeated.",
    ),
    _option(
        "--windows",
        "window_list",
        metavar="FILE|-",
        help="A list of windows: CSV with the columns name,start,end[,match][,gpu], or what sacct -P prints.",
    ),
    _option("--job", metavar="ID", help="A job's own GPUs and times, as llem_gpu_job_info shows them."),
    _option(
        "--source",
        default="http://localhost:9090",
        show_default=True,
        metavar="URL|FILE|-",
        help="A Prometheus, Mimir, Thanos, VictoriaMetrics or llem-exporter; OpenMetrics or promtool's dump.",
    ),
    _option(
        "--match",
        "matches",
        type=_Line(),
        multiple=True,
        metavar="MATCHERS",
        help="Only series with these labels, as in PromQL: 'instance=\"node1:9955\"'. Repeated: any of them.",
    ),
    _option("--gpu", "gpus", metavar="0,1|UUID,...", help="Only these GPUs.  [default: all in the window]"),
    _option(
        "--node-label",
        default="instance",
        show_default=True,
        metavar="LABEL",
        help="The label that holds the node's name, for the hosts of a sacct list.",
    ),
    _option("--timezone", metavar="ZONE", help="Of times without one, e.g. Europe/Berlin."),
    _option(
        "--wait", metavar="DURATION", help="Wait so long for the samples that follow the last window's end."
    ),
    _option(
        "--dask",
        metavar="ADDRESS",
        help="Read 10 Hz traces with the workers of a Dask scheduler, as tcp://host:8786.",
    ),
)

_ACCESS: Final = (
    _option(
        "--http.config.file",
        "http_config_file",
        metavar="FILE",
        help="How to reach the store, as promtool has it: headers, passwords, tokens, TLS.",
    ),
    _option(
        "--http.header",
        "http_headers",
        type=_Line(),
        multiple=True,
        metavar="'NAME: VALUE'",
        help="Sent with each request, as X-Scope-OrgID. May be repeated.",
    ),
    _option("--http.bearer-token-file", "http_bearer_token_file", metavar="FILE", help="A token in a file."),
    _option("--http.user", "http_user", metavar="NAME", help="For basic auth, with --http.password-file."),
    _option("--http.password-file", "http_password_file", metavar="FILE", help="The user's password."),
    _option("--http.ca-file", "http_ca_file", metavar="FILE", help="Who signs the store's certificate."),
    _option("--http.cert-file", "http_cert_file", metavar="FILE", help="A client certificate."),
    _option("--http.key-file", "http_key_file", metavar="FILE", help="Its key, if in another file."),
)

_HOW: Final = (
    _option(
        "--backend",
        type=click.Choice(["auto", "zeus", "nvml", "codecarbon", "none"]),
        default="auto",
        show_default=True,
        help="Whose joules. auto: the first by priority that covers enough.",
    ),
    _option(
        "--max-gap",
        metavar="auto|DURATION",
        default="auto",
        show_default=True,
        help="Longest step between samples that is bridged. auto: 3 x the sample interval.",
    ),
    _option(
        "--min-coverage",
        type=_Number(0, 1),
        default=0.99,
        show_default=True,
        metavar="SHARE",
        help="Covered share of the window that makes a result valid, from 0 to 1.",
    ),
)

_ANSWER: Final = (
    _option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True),
    _option(
        "--output",
        default="-",
        metavar="FILE|-",
        help="Where the answer goes; a file is there when it is whole.  [default: standard output]",
    ),
    _option(
        "--plot",
        "plots",
        type=_Line(),
        multiple=True,
        metavar="FILE.png|svg|html",
        help="Power of each GPU over the windows, gaps and joules; html has zoom. May be repeated.",
    ),
    _option(
        "--emissions",
        is_flag=True,
        help="Grams of CO2 equivalent of each GPU: operational, location-based, its own share. At the "
        "node's rate by CodeCarbon, or at --carbon-intensity.",
    ),
    _option(
        "--carbon-intensity",
        type=_Number(0, _MOST),
        metavar="G_PER_KWH",
        help="Of the grid, in gCO2e per kWh; implies --emissions.",
    ),
    _option(
        "--pue",
        type=_Number(1, 10),
        default=1.0,
        show_default=True,
        metavar="RATIO",
        help="Facility energy over IT energy; multiplies emissions and price, never joules.",
    ),
    _option(
        "--price", type=_Number(-_MOST, _MOST), metavar="PER_KWH", help="Of electricity, in any currency."
    ),
    _option(
        "--calibration",
        metavar="FILE",
        help="CSV uuid,gain,offset_watts by a power meter: true = gain x reading + offset.",
    ),
    _option(
        "--idle-watts",
        type=_Number(0, _MOST),
        metavar="W",
        help="Splits joules: idle is W over the covered time, at most the joules; active is the rest.",
    ),
    _option(
        "--progress/--no-progress", default=None, help="A progress bar on stderr.  [default: on a terminal]"
    ),
    _option("--demo", is_flag=True, help="Start an exporter, measure 20 s, and show it. Needs nothing else."),
)


def options(command: Callable[[Options], int]) -> Callable[..., int]:
    """The command with all options, which gets them as one."""

    @functools.wraps(command)
    def given(**values: Any) -> int:
        return command(Options(**values))

    decorated: Callable[..., int] = given
    for add in reversed((*_WHICH, *_ACCESS, *_HOW, *_ANSWER)):
        decorated = add(decorated)
    return decorated
