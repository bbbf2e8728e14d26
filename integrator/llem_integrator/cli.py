"""llem-integrate: joules per GPU for windows that are over. The only reader of argv and environment."""

import io
import os
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import tzinfo
from typing import TYPE_CHECKING, Final, NoReturn

import click

from llem_core import __version__
from llem_core.backend import Backend
from llem_core.errors import ConfigError, LLEMError
from llem_integrator.options import Options, options

if TYPE_CHECKING:
    from llem_integrator.energy.request import Request
    from llem_integrator.http.access import HttpConfig
    from llem_integrator.power import Reader
    from llem_integrator.report.presentation import Presentation
    from llem_integrator.stores import Source
    from llem_integrator.windows.window import Window

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
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


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@options
@click.version_option(__version__, prog_name="llem-integrate")
def command(given: Options) -> int:
    from llem_integrator.energy.request import Request
    from llem_integrator.report import presentation
    from llem_integrator.stores import parse_selector
    from llem_integrator.windows.window import parse_duration_us

    presented = presentation.of(given)
    request = Request(
        backend=None if given.backend == "auto" else Backend(given.backend),
        selectors=tuple(parse_selector(text) for text in given.matches) or ((),),
        gpus=() if given.gpus is None else _gpus(given.gpus),
        max_gap_ms=None if given.max_gap == "auto" else parse_duration_us(given.max_gap) / 1000,
        min_coverage=given.min_coverage,
        emissions=presented.figures.by_codecarbon,
    )
    if given.demo:
        if given.windows or given.window_list is not None or given.job is not None:
            raise ConfigError("--demo chooses its own window; leave --window, --windows and --job out")
        if given.dask is not None:
            raise ConfigError("--demo measures on this machine; leave --dask out")
        source = click.get_current_context().get_parameter_source("source")
        if source is click.core.ParameterSource.COMMANDLINE:
            raise ConfigError("--demo starts its own source; leave --source out")
        return _demo(request, presented, given.progress)
    return _integrate(given, request, presented)


def _gpus(text: str) -> tuple[str, ...]:
    tokens = tuple(token.strip() for token in text.split(",") if token.strip())
    if not tokens:
        raise ConfigError(f"--gpu names no GPU: {text!r} (write 0,1 or GPU-..., or leave it out for all)")
    return tokens


def _integrate(given: Options, request: "Request", presented: "Presentation") -> int:
    from llem_integrator.allocator import keep_freed
    from llem_integrator.integration import integrate
    from llem_integrator.plot.reading import Asked
    from llem_integrator.progress import bar

    keep_freed()
    wait_s = _wait_s(given)
    source, windows = _asked(given, request, time.time_ns() // 1000)
    if wait_s is not None:
        from llem_integrator.windows.wait import wait

        wait(lambda: _open(given), request.selectors, max(w.end_us for w in windows), wait_s)
        source = _open(given)
    with _reader(given, source) as reader, bar(given.progress, "reading samples", len(windows)) as shown:
        results = integrate(source, windows, request, shown.advance, reader)
        asked = Asked(source, windows, request.selectors, request.max_gap_ms)
        return presented.give(asked, results, shown)


def _wait_s(given: Options) -> float | None:
    from llem_integrator.windows.window import parse_duration_us

    if given.wait is None:
        return None
    if given.source == "-" or "://" not in given.source:
        raise ConfigError(f"--wait is for a store that goes on; {given.source!r} does not")
    return parse_duration_us(given.wait) / 1e6


def _reader(given: Options, source: "Source") -> "AbstractContextManager[Reader | None]":
    """Who reads the power traces, if that is not this process."""
    if given.dask is None:
        return nullcontext()
    from llem_integrator.dask.cluster import DaskCluster, quiet_log
    from llem_integrator.dask.tasks import Store
    from llem_integrator.stores.exporter import ExporterSource

    if given.source == "-" or isinstance(source, ExporterSource):
        raise ConfigError(f"--dask is for a store that many can ask; {source.address} is not")
    quiet_log()
    return DaskCluster(given.dask, Store(given.source, _http_config(given)))


def _open(given: Options) -> "Source":
    """The source, reached as the --http options say."""
    from llem_integrator.stores import open_source

    return open_source(given.source, _http_config(given))


def _http_config(given: Options) -> "HttpConfig":
    from llem_integrator.http.access import HttpConfig, with_options

    config = HttpConfig()
    if given.http_config_file is not None:
        from llem_integrator.http.config_file import read_config

        config = read_config(given.http_config_file)
    return with_options(
        config,
        headers=given.http_headers,
        bearer_token_file=given.http_bearer_token_file,
        user=given.http_user,
        password_file=given.http_password_file,
        ca_file=given.http_ca_file,
        cert_file=given.http_cert_file,
        key_file=given.http_key_file,
    )


def _asked(given: Options, request: "Request", now_us: int) -> "tuple[Source, list[Window]]":
    """The source, and the windows in the order they were asked for."""
    from llem_integrator.series.matchers import LABEL
    from llem_integrator.windows.window import parse_window

    if given.job is not None and given.gpus is not None:
        raise ConfigError("--job finds the job's GPUs by itself; leave --gpu out")
    if not LABEL.fullmatch(given.node_label):
        raise ConfigError(f"--node-label is not the name of a label: {given.node_label!r}")
    zone = _zone(given.timezone)
    windows = [parse_window(text, now_us, zone) for text in given.windows]
    if given.window_list is not None:
        from llem_integrator.windows import lists

        if given.window_list == given.source == "-":
            raise ConfigError("--windows and --source cannot both be standard input")
        windows += lists.read(given.window_list, lists.Reading(now_us, zone, given.node_label))
    if not windows and given.job is None:
        raise ConfigError("no window given (--window now-15m,now), no --windows, no --job and no --demo")
    source = _open(given)
    if given.job is not None:
        from llem_integrator.progress import bar
        from llem_integrator.windows import job_lookup

        with bar(given.progress, f"looking for job {given.job}", 1) as shown:
            windows += job_lookup.find(source, given.job, request.selectors, now_us, shown.advance)
    return source, windows


def _demo(request: "Request", presented: "Presentation", progress: bool | None) -> int:
    from llem_integrator import demo
    from llem_integrator.plot.reading import Asked
    from llem_integrator.progress import bar
    from llem_integrator.report.presentation import terminated
    from llem_integrator.windows.window import Window

    signal.signal(signal.SIGTERM, terminated)  # its exporter must end with it
    with bar(progress, f"measuring {demo.MEASURE_SECONDS} s", 1) as shown:
        source, result, what = demo.run(request, shown.advance)
    if presented.on_stdout and presented.form == "table":
        click.echo(f"demo: {what}\n")
    exact = any(gpu.exact_j is not None for gpu in result.gpus)
    window = Window(round(result.start * 1e6), round(result.end * 1e6))
    asked = Asked(source, [window], request.selectors, request.max_gap_ms)
    return presented.give(asked, [result], shown, ("exact_j",) if exact else ())


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ConfigError(f"no such time zone: {name!r} (write Europe/Berlin or UTC)") from exc


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
    except BrokenPipeError:  # the reader has closed the pipe
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
