"""llem-integrate: the only module that reads arguments and environment variables."""

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
from llem_core.errors import ConfigError, LLEMError
from llem_integrator.options import GROUPS, GroupedCommand, Options, with_options

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

_HELP = """Give the energy in joules of each GPU in windows of time, from samples of llem-exporter.

The samples are read from a Prometheus, from the exporter itself, or from a file. For each window and GPU,
the result has joules with bounds, the covered fraction of the window, and the backend: zeus (the hardware
counter), nvml (power samples) or codecarbon.

Times are RFC 3339, unix seconds, now, or now-1h. Each option can be set by an environment variable, for
example LLEM_INTEGRATE_SOURCE.

\b
  llem-integrate --window now-15m,now
  llem-integrate --window 2026-01-31T12:00:00Z,+15m --format json
  llem-integrate --source http://localhost:9955 --window now-1m,now
  llem-integrate --job 4711 --output job.csv
  llem-integrate --source http://prometheus:9090 --list
  llem-integrate --demo

Exit status: 0 done, 1 failed, 2 usage error, 3 no joules for a window or GPU that was requested, 4 coverage
below --min-coverage (the result is printed), 130 Ctrl-C.
"""


@click.command(
    cls=GroupedCommand,
    params=[option for group in GROUPS.values() for option in group],
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="llem-integrate")
@with_options
def command(given: Options) -> int:
    from llem_integrator.report.presentation import presentation

    if not (_names_windows(given) or given.list or given.demo):
        return _no_window()
    presented = presentation(given)
    request = _request(given)
    if given.demo:
        return _demo(given, request, presented)
    if given.list:
        return _list(given, request, presented)
    return _integrate(given, request, presented)


def _names_windows(given: Options) -> bool:
    return bool(given.windows) or given.window_list is not None or given.job is not None


def _no_window() -> int:
    """Print the usage if there are no arguments; otherwise say which one is missing."""
    if sys.argv[1:]:
        raise ConfigError("no window: use --window now-15m,now, --windows, --job, --list or --demo")
    examples = _HELP.split("\b\n")[1].partition("\n\n")[0]
    usage = click.get_current_context().get_usage()
    click.echo(f"{usage}\n\n{examples}\n\n--help lists all options.", err=True)
    return EXIT_USAGE


def _request(given: Options) -> "Request":
    from llem_integrator.energy.request import Request
    from llem_integrator.report import calibration
    from llem_integrator.windows.window import parse_duration_us

    return Request(
        given.backend,
        given.matches,
        () if given.gpus is None else given.gpus,
        None if given.max_gap == "auto" else parse_duration_us(given.max_gap) / 1000,
        given.min_coverage,
        emissions=given.emissions,
        grams_per_kwh=given.carbon_intensity,
        pue=given.pue,
        price_per_kwh=given.price,
        calibration=None if given.calibration is None else calibration.read(given.calibration),
        idle_watts=given.idle_watts,
    )


def _integrate(given: Options, request: "Request", presented: "Presentation") -> int:
    from llem_integrator.plot.reading import Asked
    from llem_integrator.progress import bar
    from llem_integrator.report.figures import about
    from llem_integrator.report.presentation import EXIT_NO_JOULES
    from llem_integrator.report.results import stream

    wait_s = _wait_s(given)
    source, windows, left_out = _asked(given, request, time.time_ns() // 1000)
    if wait_s is not None and windows:
        from llem_integrator.windows.wait import wait_for_samples

        wait_for_samples(lambda: _open(given), max(w.end_us for w in windows), wait_s, request.selectors)
        source = _open(given)
    with _reader(given, source) as reader, bar(given.progress, "reading samples", len(windows)) as shown:
        results = stream(source, windows, request, shown.advance, reader)
        asked = Asked(source, windows, request.selectors, request.max_gap_ms)
        code = presented.show(results, about(source.address, request), asked, shown)
    return EXIT_NO_JOULES if left_out else code


def _list(given: Options, request: "Request", presented: "Presentation") -> int:
    """Print what the source contains: in the windows, if there are any."""
    import json

    from llem_integrator.contents import contents
    from llem_integrator.report import output, printable
    from llem_integrator.report.presentation import EXIT_NO_JOULES

    if presented.form not in ("table", "json"):
        raise ConfigError(f"--list has the formats table and json, not {presented.form}")
    source, windows, _ = _asked(given, request, time.time_ns() // 1000)
    start_ms = min((window.start_us // 1000 for window in windows), default=None)
    end_ms = max((-(-window.end_us // 1000) for window in windows), default=None)
    listed = contents(source, request.selectors, start_ms, end_ms)
    with output.opened(presented.path, binary=False) as out:
        if presented.form == "json":
            json.dump({"schema": 1, "source": source.address, **(listed.document() if listed else {})}, out)
            out.write("\n")
        else:
            lines = listed.lines() if listed else [f"{source.address} contains no metrics of llem-exporter"]
            out.writelines(f"{printable(line)}\n" for line in lines)
    return 0 if listed else EXIT_NO_JOULES


def _wait_s(given: Options) -> float | None:
    from llem_integrator.windows.window import parse_duration_us

    if given.wait is None:
        return None
    if given.source == "-" or "://" not in given.source:
        raise ConfigError(f"--wait needs a live server; {given.source!r} is a file")
    return parse_duration_us(given.wait) / 1e6


def _reader(given: Options, source: "Source") -> "AbstractContextManager[Reader | None]":
    """Return the Dask cluster that reads the power traces, if there is one."""
    if given.dask is None:
        return nullcontext()
    from llem_integrator.dask.cluster import DaskCluster, quiet_log
    from llem_integrator.dask.tasks import Store
    from llem_integrator.stores.exporter import ExporterSource

    if given.source == "-" or isinstance(source, ExporterSource):
        raise ConfigError(f"--dask needs a source that many workers can read; {source.address} is not one")
    quiet_log()
    return DaskCluster(given.dask, Store(given.source, _http_config(given)))


def _open(given: Options) -> "Source":
    from llem_integrator.stores import open_source

    return open_source(given.source, _http_config(given))


def _http_config(given: Options) -> "HttpConfig":
    from llem_integrator.http.access import HttpConfig, with_options
    from llem_integrator.http.config_file import read_config

    options = {**given.http}
    path = options.pop("config_file")
    return with_options(HttpConfig() if path is None else read_config(path), **options)


def _asked(given: Options, request: "Request", now_us: int) -> "tuple[Source, list[Window], bool]":
    """Return the source, the windows in the order of the options, and whether rows were left out."""
    from llem_integrator.series.matchers import LABEL
    from llem_integrator.windows.window import parse_window

    if given.job is not None and given.gpus is not None:
        raise ConfigError("--job finds the GPUs of the job; omit --gpus")
    if not LABEL.fullmatch(given.node_label):
        raise ConfigError(f"--node-label is not the name of a label: {given.node_label!r}")
    zone = _zone(given.timezone)
    windows = [parse_window(text, now_us, zone) for text in given.windows]
    left_out: tuple[str, ...] = ()
    if given.window_list is not None:
        from llem_integrator.report import printable
        from llem_integrator.windows.lists import read_windows

        if given.window_list == given.source == "-":
            raise ConfigError("--windows and --source cannot both be standard input")
        listed = read_windows(
            given.window_list, zone, node_label=given.node_label, selectors=request.selectors, now_us=now_us
        )
        windows += listed.windows
        left_out = listed.left_out
        for line in left_out:
            click.echo(f"left out {printable(line)}", err=True)
    source = _open(given)
    if given.job is not None:
        from llem_integrator.progress import bar
        from llem_integrator.windows.job_lookup import find_job

        with bar(given.progress, f"looking for job {given.job}", 1) as shown:
            windows += find_job(
                source,
                given.job,
                request.selectors,
                node_label=given.node_label,
                now_us=now_us,
                progress=shown.advance,
            )
    return source, windows, bool(left_out)


def _demo(given: Options, request: "Request", presented: "Presentation") -> int:
    from llem_integrator import demo
    from llem_integrator.plot.reading import Asked
    from llem_integrator.progress import bar
    from llem_integrator.report.figures import about
    from llem_integrator.report.presentation import terminated

    if _names_windows(given) or given.list:
        raise ConfigError("--demo chooses its own window; omit --window, --windows, --job and --list")
    if given.dask is not None:
        raise ConfigError("--demo measures on this machine; omit --dask")
    if click.get_current_context().get_parameter_source("source") is click.core.ParameterSource.COMMANDLINE:
        raise ConfigError("--demo starts its own source; omit --source")
    signal.signal(signal.SIGTERM, terminated)  # so that the exporter ends, too
    with bar(given.progress, f"measuring for {demo.MEASURE_SECONDS} s", 1) as shown:
        source, window, result, measured = demo.run(request, shown.advance)
    if presented.is_printed and presented.form == "table":
        click.echo(f"demo: {measured}\n")
    asked = Asked(source, [window], request.selectors, request.max_gap_ms)
    return presented.show([result], about(source.address, request), asked, shown)


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ConfigError(f"no such time zone: {name!r} (for example Europe/Berlin or UTC)") from exc


def main() -> None:
    """Run the command. An error is one line on standard error, without a traceback."""
    if sys.stdout is None:
        _fail("standard output is closed", EXIT_FAILED)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the encoding lacks is not an error
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
    """Print an error as one line, whatever it quotes from a server or file, and exit."""
    printable = "".join(char if char.isprintable() else " " for char in message)
    click.echo(f"error: {' '.join(printable.split())}", err=True)
    sys.exit(code)


def _discard_output() -> None:
    """Discard the output that Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
