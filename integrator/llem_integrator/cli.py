"""llem-integrate: joules per GPU for windows that are over. The only reader of argv and environment."""

import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

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
EXIT_TERMINATED: Final = 143

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

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Line(click.types.StringParamType):
    """Text, of which a variable of the environment holds one a line: windows and matchers have spaces."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.split("\n") if line.strip()]


def _option(name: str, *declarations: str, **attributes: Any) -> Callable[[_Command], _Command]:
    """An option whose variable in the environment is named after it, not after its parameter."""
    variable = name.partition("/")[0].removeprefix("--").upper().replace("-", "_")
    return click.option(name, *declarations, envvar=f"LLEM_INTEGRATE_{variable}", **attributes)


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@_option(
    "--window",
    "windows",
    type=_Line(),
    multiple=True,
    metavar="START,END|START,+DURATION",
    help="May be repeated.",
)
@_option(
    "--source",
    default="http://localhost:9090",
    show_default=True,
    metavar="URL|FILE|-",
    help="A Prometheus, an exporter, or OpenMetrics text.",
)
@_option(
    "--backend",
    type=click.Choice(["auto", "zeus", "nvml", "codecarbon", "none"]),
    default="auto",
    show_default=True,
    help="Whose joules. auto: the first by priority that covers enough.",
)
@_option(
    "--match",
    "matches",
    type=_Line(),
    multiple=True,
    metavar="MATCHERS",
    help="Only series with these labels, as in PromQL: 'instance=\"node1:9955\"'. Repeated: any of them.",
)
@_option("--gpu", "gpus", metavar="0,1|UUID,...", help="Only these GPUs.  [default: all in the window]")
@_option(
    "--max-gap",
    metavar="auto|DURATION",
    default="auto",
    show_default=True,
    help="Longest step between samples that is bridged. auto: 3 x the sample interval.",
)
@_option(
    "--min-coverage",
    type=click.FloatRange(0, 1),
    default=0.99,
    show_default=True,
    help="Covered share of the window that makes a result valid.",
)
@_option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_option("--emissions", is_flag=True, help="Grams of CO2 equivalent, at the node's rate by CodeCarbon.")
@_option("--timezone", metavar="ZONE", help="Of times without one, e.g. Europe/Berlin.")
@_option("--progress/--no-progress", default=None, help="A progress bar on stderr.  [default: on a terminal]")
@_option("--demo", is_flag=True, help="Start an exporter, measure 20 s, and show it. Needs nothing else.")
@click.version_option(__version__, prog_name="llem-integrate")
def command(
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

    if math.isnan(min_coverage):
        raise ConfigError("--min-coverage is a share from 0 to 1, not nan")
    request = Request(
        backend=None if backend == "auto" else Backend(backend),
        selectors=tuple(parse_selector(text) for text in matches) or ((),),
        gpus=() if gpus is None else _gpus(gpus),
        max_gap_ms=None if max_gap == "auto" else parse_duration_us(max_gap) / 1000,
        min_coverage=min_coverage,
        emissions=emissions,
    )
    if demo:
        if windows:
            raise ConfigError("--demo chooses its own window; leave --window out")
        given = click.get_current_context().get_parameter_source("source")
        if given is click.core.ParameterSource.COMMANDLINE:
            raise ConfigError("--demo starts its own source; leave --source out")
        return _demo(request, form, progress)
    if not windows:
        raise ConfigError("no window given (--window now-15m,now), and no --demo")
    return _integrate(windows, source, request, form, timezone, progress)


def _gpus(text: str) -> tuple[str, ...]:
    tokens = tuple(token.strip() for token in text.split(",") if token.strip())
    if not tokens:
        raise ConfigError(f"--gpu names no GPU: {text!r} (write 0,1 or GPU-..., or leave it out for all)")
    return tokens


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

    signal.signal(signal.SIGTERM, _terminated)  # its exporter must end with it
    with _bar(progress, f"measuring {demo.MEASURE_SECONDS} s", 1) as advance:
        address, result, what = demo.run(request, advance)
    if form == "table":
        click.echo(f"demo: {what}\n")
    return _show(address, [result], form)


def _terminated(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is not interrupted again
    raise SystemExit(EXIT_TERMINATED)


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
    if sys.stderr is None or not (sys.stderr.isatty() if wanted is None else wanted):
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
    if sys.stdout is None:
        _fail("standard output is closed", EXIT_FAILED)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no sign that it lacks is worth a result
    try:
        code = command(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        code = exc.exit_code
    except click.ClickException as exc:
        _fail(exc.format_message(), exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except ConfigError as exc:
        _fail(str(exc), EXIT_USAGE)
    except LLEMError as exc:
        _fail(str(exc), EXIT_FAILED)
    except BrokenPipeError:  # whoever read has gone
        _discard_output()
        code = EXIT_FAILED
    except OSError as exc:
        _discard_output()
        _fail(str(exc), EXIT_FAILED)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    """Ends with a message of one line, whatever a server or a file put into it."""
    printable = "".join(sign if sign.isprintable() else " " for sign in message)
    click.echo(f"error: {' '.join(printable.split())}", err=True)
    sys.exit(code)


def _discard_output() -> None:
    """What Python still flushes at its end goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
