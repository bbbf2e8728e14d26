"""llem-integrate: joules per GPU for windows that are over. The only reader of argv and environment."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import tzinfo
from typing import TYPE_CHECKING, Final

import click

from llem_core import __version__
from llem_core.backend import Backend
from llem_core.errors import ConfigError, LLEMError

if TYPE_CHECKING:
    from llem_integrator.backends import Request
    from llem_integrator.result import WindowResult

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_JOULES: Final = 3
EXIT_COVERAGE: Final = 4
EXIT_INTERRUPTED: Final = 130

_HELP = """Joules per GPU for time windows, from the samples that llem-exporter publishes.

Reads the samples back from a Prometheus, from the exporter itself or from an OpenMetrics file, and
gives for each window and GPU: joules with bounds, coverage, gaps, and which backend they come from
(zeus, then nvml, then codecarbon).

Times are RFC 3339, unix seconds, now, or now-1h.

\b
  llem-integrate --window now-15m,now
  llem-integrate --window 2026-01-31T12:00:00Z,+15m --format json
  llem-integrate --source http://localhost:9955 --window now-1m,now
  llem-integrate --demo

Exit: 0 done, 1 failed, 2 usage, 3 no joules for a window or a GPU asked for, 4 coverage below
--min-coverage (the result is printed all the same), 130 on Ctrl-C.
"""


@click.command(
    help=_HELP,
    context_settings={"auto_envvar_prefix": "LLEM_INTEGRATE", "help_option_names": ["-h", "--help"]},
)
@click.option(
    "--window", "windows", multiple=True, metavar="START,END|START,+DURATION", help="May be repeated."
)
@click.option(
    "--source",
    default="http://localhost:9090",
    show_default=True,
    metavar="URL|FILE|-",
    help="A Prometheus, an exporter, or OpenMetrics text.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "zeus", "nvml", "codecarbon", "none"]),
    default="auto",
    show_default=True,
    help="Whose joules. auto: the first by priority that covers enough.",
)
@click.option(
    "--match",
    "matches",
    multiple=True,
    metavar="MATCHERS",
    help="Only series with these labels, as in PromQL: 'instance=\"node1:9955\"'. Repeated: any of them.",
)
@click.option("--gpu", "gpus", metavar="0,1|UUID,...", help="Only these GPUs.  [default: all in the window]")
@click.option(
    "--max-gap",
    metavar="auto|DURATION",
    default="auto",
    show_default=True,
    help="Longest step between samples that is bridged. auto: 3 x the sample interval.",
)
@click.option(
    "--min-coverage",
    type=click.FloatRange(0, 1),
    default=0.99,
    show_default=True,
    help="Covered share of the window that makes a result valid.",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--emissions", is_flag=True, help="Grams of CO2 equivalent, at the node's rate by CodeCarbon.")
@click.option("--timezone", metavar="ZONE", help="Of times without one, e.g. Europe/Berlin.")
@click.option(
    "--progress/--no-progress", default=None, help="A progress bar on stderr.  [default: on a terminal]"
)
@click.option(
    "--demo", is_flag=True, help="Start an exporter, measure 20 s, and show it. Needs nothing else."
)
@click.version_option(__version__, prog_name="llem-integrate")
def _command(
    windows: tuple[str, ...],
    source: str,
    backend: str,
    matches: tuple[str, ...],
    gpus: str | None,
    max_gap: str,
    min_coverage: float,
    form: str,
    emissions: bool,
    timezone: str | None,
    progress: bool | None,
    demo: bool,
) -> int:
    from llem_integrator.backends import Request
    from llem_integrator.sources import parse_selector
    from llem_integrator.window import parse_duration_us

    request = Request(
        backend=None if backend == "auto" else Backend(backend),
        selectors=tuple(parse_selector(text) for text in matches) or ((),),
        gpus=tuple(token.strip() for token in gpus.split(",") if token.strip()) if gpus else (),
        max_gap_ms=None if max_gap == "auto" else parse_duration_us(max_gap) / 1000,
        min_coverage=min_coverage,
        emissions=emissions,
    )
    if demo:
        if windows:
            raise ConfigError("--demo chooses its own window; leave --window out")
        return _demo(request, form, progress)
    if not windows:
        raise ConfigError("no window given (--window now-15m,now), and no --demo")
    return _integrate(windows, source, request, form, timezone, progress)


def _integrate(
    texts: tuple[str, ...],
    where: str,
    request: "Request",
    form: str,
    timezone: str | None,
    progress: bool | None,
) -> int:
    from llem_integrator.integration import integrate
    from llem_integrator.sources import open_source
    from llem_integrator.window import parse_window

    now_us = time.time_ns() // 1000
    zone = _zone(timezone)
    windows = [parse_window(text, now_us, zone) for text in texts]
    source = open_source(where)
    with _bar(progress, "reading samples", len(windows)) as advance:
        results = list(integrate(source, windows, request, advance))
    return _show(source.address, results, form)


def _demo(request: "Request", form: str, progress: bool | None) -> int:
    from llem_integrator import demo

    with _bar(progress, f"measuring {demo.MEASURE_SECONDS} s", 1) as advance:
        address, result, what = demo.run(request, advance)
    if form == "table":
        click.echo(f"demo: {what}\n")
    return _show(address, [result], form)


def _show(address: str, results: "list[WindowResult]", form: str) -> int:
    from llem_integrator import report

    if form == "json":
        click.echo(report.to_json(address, results))
    else:
        report.print_table(results, sys.stdout)
    reasons = {reason for result in results for reason in result.reasons}
    if reasons & {"no_data", "no_gpu_split"}:
        return EXIT_NO_JOULES
    return EXIT_COVERAGE if "coverage" in reasons else 0


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ConfigError(f"no such time zone: {name!r} (write Europe/Berlin or UTC)") from exc


@contextmanager
def _bar(wanted: bool | None, title: str, total: float) -> "Iterator[Callable[[float], None]]":
    """A progress bar on stderr, told how much of `total` is done; shown where asked for or on a terminal."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def main() -> None:
    """The console script: one line for an error, no traceback, the exit codes of the contract."""
    try:
        code = _command(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        code = exc.exit_code
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except ConfigError as exc:
        click.echo(f"error: {exc}", err=True)
        code = EXIT_USAGE
    except LLEMError as exc:
        click.echo(f"error: {exc}", err=True)
        code = EXIT_FAILED
    except BrokenPipeError:
        # Whoever read has gone; what Python still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    sys.exit(code)
