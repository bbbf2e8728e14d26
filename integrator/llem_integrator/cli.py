"""llem-integrate: the only module that reads arguments and environment variables."""

import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import click

from llem_core import __version__
from llem_core.errors import ConfigError, LLEMError
from llem_integrator.options import GROUPS, GroupedCommand, Options, with_options

if TYPE_CHECKING:
    from llem_integrator.presentation import Presentation

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

Exit status: 0 done, 1 failed, 2 usage error, 3 no joules for a requested window or GPU, or a row of --windows
was left out, 4 result printed but coverage below --min-coverage, 130 Ctrl-C.
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
    from llem_integrator.presentation import presentation

    if not (_names_windows(given) or given.list or given.demo):
        return _no_window()
    presented = presentation(given)
    if given.demo:
        return _demo(given, presented)
    return _list(given, presented) if given.list else _integrate(given, presented)


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


def _integrate(given: Options, presented: "Presentation") -> int:
    from llem_integrator import inputs
    from llem_integrator.api import stream
    from llem_integrator.plot.reading import Asked
    from llem_integrator.presentation import EXIT_NO_JOULES
    from llem_integrator.progress import bar
    from llem_integrator.report.figures import about

    request = inputs.request_of(given)
    source, windows, left_out = inputs.source_and_windows(given, request)
    with (
        inputs.reader(given, source) as reader,
        bar(given.progress, "reading samples", len(windows)) as shown,
    ):
        results = stream(source, windows, request, shown.advance, reader)
        asked = Asked(source, windows, request.selectors, request.max_gap_ms)
        code = presented.show(results, about(source.address, request), asked, shown)
    return EXIT_NO_JOULES if left_out else code


def _list(given: Options, presented: "Presentation") -> int:
    """Print what the source contains, or what it contains in the windows if there are any."""
    from llem_integrator import inputs
    from llem_integrator.contents import list_contents
    from llem_integrator.presentation import EXIT_NO_JOULES
    from llem_integrator.report import listing, output

    if presented.form not in ("table", "json"):
        raise ConfigError(f"--list has the formats table and json, not {presented.form}")
    request = inputs.request_of(given)
    source, windows, left_out = inputs.source_and_windows(given, request)
    start_ms = min((window.start_us // 1000 for window in windows), default=None)
    end_ms = max((-(-window.end_us // 1000) for window in windows), default=None)
    listed = list_contents(source, request.selectors, start_ms, end_ms)
    with output.opened(presented.path, binary=False) as out:
        listing.write(listed, source.address, presented.form, out)
    return EXIT_NO_JOULES if left_out or listed is None else 0


def _demo(given: Options, presented: "Presentation") -> int:
    from llem_integrator import demo, inputs
    from llem_integrator.plot.reading import Asked
    from llem_integrator.presentation import terminated
    from llem_integrator.progress import bar
    from llem_integrator.report.figures import about

    if _names_windows(given) or given.list:
        raise ConfigError("--demo chooses its own window; omit --window, --windows, --job and --list")
    if given.dask is not None:
        raise ConfigError("--demo measures on this machine; omit --dask")
    if click.get_current_context().get_parameter_source("source") is click.core.ParameterSource.COMMANDLINE:
        raise ConfigError("--demo starts its own source; omit --source")
    request = inputs.request_of(given)
    signal.signal(signal.SIGTERM, terminated)  # so that the exporter ends, too
    with bar(given.progress, f"measuring for {demo.MEASURE_SECONDS} s", 1) as shown:
        source, window, result, measured = demo.run(request, shown.advance)
    if presented.is_printed and presented.form == "table":
        click.echo(f"demo: {measured}\n")
    asked = Asked(source, [window], request.selectors, request.max_gap_ms)
    return presented.show([result], about(source.address, request), asked, shown)


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
