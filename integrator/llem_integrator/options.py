"""The options of llem-integrate."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

from llem_core.backend import Backend
from llem_integrator.report import FORMATS
from llem_integrator.results.request import LIMITS


@dataclass(frozen=True, slots=True)
class Options:
    """The values of all options. Texts are not yet parsed, and None means that the option was not given."""

    windows: tuple[str, ...]
    window_list: str | None
    job: str | None
    list: bool
    demo: bool
    source: str
    wait: str | None
    dask: str | None
    matches: tuple[str, ...]
    gpus: str | None
    node_label: str
    timezone: str | None
    backend: str
    max_gap: str
    min_coverage: float
    form: str | None
    output: str
    plots: tuple[str, ...]
    progress: bool | None
    emissions: bool
    carbon_intensity: float | None
    pue: float
    price: float | None
    calibration: str | None
    idle_watts: float | None
    http: dict[str, Any]
    """The --http options, by the parameters of http_config()."""


class _Lines(click.types.StringParamType):
    """Text that is repeated. Windows and matchers contain spaces, so a variable has one value per line."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.split("\n") if line.strip()]


class _Number(click.types.FloatParamType):
    """A number within the limits of a field of Request. FloatRange would accept NaN."""

    def __init__(self, field: str) -> None:
        self._lowest, self._highest = LIMITS[field]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not self._lowest <= number <= self._highest:
            self.fail(f"{value} is not between {self._lowest:g} and {self._highest:g}.", param, ctx)
        return number


def _option(flags: str, text: str, field: str | None = None, **more: Any) -> click.Option:
    """Return an option. `flags` includes its metavar. By default, its field is named like the option."""
    flags, _, metavar = flags.partition(" ")
    name = flags.partition("/")[0].lstrip("-").replace("-", "_").replace(".", "_")
    if more.get("multiple"):
        more["type"] = _Lines()
    more.setdefault("show_default", "default" in more)
    more |= {"metavar": metavar or None, "envvar": f"LLEM_INTEGRATE_{name.upper()}"}
    return click.Option([flags, field or name], help=text, **more)


GROUPS: Final = {
    "What to measure": (
        _option(
            "--window START,END|START,+DURATION", "Window of time. Can be repeated.", "windows", multiple=True
        ),
        _option(
            "--windows FILE|-",
            "List of windows: CSV with the columns name,start,end[,match][,gpu], or the output of sacct -P.",
            "window_list",
        ),
        _option("--job ID", "Windows and GPUs of a job, from llem_gpu_job_info."),
        _option("--list", "List what the source contains, and exit.", is_flag=True),
        _option("--demo", "Start an exporter, measure for 20 s, and show the result.", is_flag=True),
    ),
    "Source": (
        _option(
            "--source URL|FILE|-",
            "A Prometheus, Mimir, Thanos, VictoriaMetrics or llem-exporter, or a file: OpenMetrics text, or "
            "the output of promtool tsdb dump.",
            default="http://localhost:9090",
        ),
        _option(
            "--wait DURATION", "Wait up to this time for the samples that follow the end of the last window."
        ),
        _option(
            "--dask ADDRESS",
            "Read 10 Hz traces with the workers of a Dask scheduler, for example tcp://head:8786.",
        ),
    ),
    "Selection": (
        _option(
            "--match MATCHERS",
            "Only series with these labels, as in PromQL: 'instance=\"node1:9955\"'. If repeated, series "
            "must match any of them.",
            "matches",
            multiple=True,
        ),
        _option(
            "--gpus LIST",
            "Comma-separated list of GPU indices, UUIDs or UUID prefixes, for example 0,1.  [default: all]",
        ),
        _option(
            "--node-label LABEL",
            "Label that contains the node name. Hosts in sacct output are matched to it.",
            default="instance",
        ),
        _option("--timezone ZONE", "Zone of times without an offset, for example Europe/Berlin."),
    ),
    "Measurement": (
        _option(
            "--backend",
            "Backend that measures. auto is the first of zeus, nvml and codecarbon whose coverage reaches "
            "--min-coverage; none measures nothing.",
            type=click.Choice(["auto", *map(str, Backend)]),
            default="auto",
        ),
        _option(
            "--max-gap auto|DURATION",
            "Longest step between samples that is not a gap. auto is 3 x the sample interval.",
            default="auto",
        ),
        _option(
            "--min-coverage FRACTION",
            "Covered fraction of a window, from 0 to 1, that makes a result valid.",
            type=_Number("min_coverage"),
            default=0.99,
        ),
    ),
    "Output": (
        _option(
            "--format",
            "Format of the results.  [default: by the suffix of --output, else table]",
            "form",
            type=click.Choice(FORMATS),
        ),
        _option(
            "--output FILE|-",
            "Write to FILE, atomically, instead of standard output.",
            default="-",
            show_default=False,
        ),
        _option(
            "--plot FILE.png|svg|html",
            "Plot the power of each GPU; html can be zoomed. Can be repeated.",
            "plots",
            multiple=True,
        ),
        _option(
            "--progress/--no-progress",
            "Show a progress bar on standard error.  [default: on a terminal]",
            default=None,
            show_default=False,
        ),
    ),
    "Figures": (
        _option(
            "--emissions",
            "Add grams of CO2 equivalent of each GPU: operational and location-based, at the node's rate "
            "according to CodeCarbon or at --carbon-intensity.",
            is_flag=True,
        ),
        _option(
            "--carbon-intensity G_PER_KWH",
            "Carbon intensity of the grid; implies --emissions.",
            type=_Number("grams_per_kwh"),
        ),
        _option(
            "--pue RATIO",
            "Facility energy divided by IT energy. It multiplies emissions and price, never joules.",
            type=_Number("pue"),
            default=1.0,
        ),
        _option("--price PER_KWH", "Price of electricity, in any currency.", type=_Number("price_per_kwh")),
        _option(
            "--calibration FILE",
            "CSV file with the columns uuid,gain,offset_watts: true watts = gain x reading + offset.",
        ),
        _option(
            "--idle-watts W",
            "Divide joules into idle energy, which is W x covered time, and active energy.",
            type=_Number("idle_watts"),
        ),
    ),
    "HTTP": (
        _option(
            "--http.config.file FILE",
            "File with headers, passwords, tokens and TLS settings, in the format of promtool.",
            "http_base",
        ),
        _option(
            "--http.header 'NAME: VALUE'",
            "Header of each request, for example 'X-Scope-OrgID: team'. Can be repeated.",
            "http_headers",
            multiple=True,
        ),
        _option("--http.bearer-token-file FILE", "File with a bearer token."),
        _option("--http.user NAME", "User for basic auth, with --http.password-file."),
        _option("--http.password-file FILE", "File with the password of the user."),
        _option("--http.ca-file FILE", "CA certificates that verify the server."),
        _option("--http.cert-file FILE", "Client certificate."),
        _option("--http.key-file FILE", "Key of the client certificate, if it is in another file."),
    ),
}
"""The options in the order of --help."""


class GroupedCommand(click.Command):
    """A command whose --help shows the options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        grouped = {option for group in GROUPS.values() for option in group}
        other = [option for option in self.get_params(ctx) if option not in grouped]
        for title, options in [*GROUPS.items(), ("Other", other)]:
            with formatter.section(title):
                formatter.write_dl([record for one in options if (record := one.get_help_record(ctx))])


def with_options(command: Callable[[Options], int]) -> Callable[..., int]:
    """Pass the values of all options to a command as one object."""

    @functools.wraps(command)
    def run(**values: Any) -> int:
        http = {name: values.pop(name) for name in list(values) if name.startswith("http_")}
        return command(
            Options(**values, http={name.removeprefix("http_"): value for name, value in http.items()})
        )

    return run
