"""llem-measure: run a command and report the energy that the GPUs used meanwhile."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import click

from llem_core import __version__
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_measure import child, list_backends
from llem_measure.measuring_thread import MeasuringThread
from llem_measure.report import Amount, CommandRun, document, table, write_file

EXIT_INTERRUPTED: Final = 130


def _gpus(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[str, ...]:
    gpus = tuple(gpu.strip() for gpu in text.split(",") if gpu.strip())
    if text and not gpus:
        raise click.BadParameter(f"{text!r} names no GPU; write 0,1 or GPU-..., or omit it for all GPUs")
    return gpus


def _amounts(_ctx: click.Context, _param: click.Parameter, texts: Sequence[str]) -> tuple[Amount, ...]:
    amounts: dict[str, Amount] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not name or not 0 < amount < math.inf:
            raise click.BadParameter(f"{text!r} is not NAME=N with a number N above 0, as tokens=1000")
        if name in amounts:
            raise click.BadParameter(f"{name!r} is given twice")
        amounts[name] = Amount(name, amount)
    return tuple(amounts.values())


def _output(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Path | None:
    if text is None:
        return None
    folder = Path(os.path.realpath(text)).parent
    if text == "-":
        raise click.BadParameter("standard output belongs to the command; omit it for standard error")
    if not text or Path(text).is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise click.BadParameter(f"cannot write a file {text!r}")
    return Path(text)


@click.command(
    context_settings={
        "allow_interspersed_args": False,
        "auto_envvar_prefix": "LLEM_MEASURE",
        "help_option_names": ["-h", "--help"],
    }
)
@click.option(
    "--backend",
    type=click.Choice(["auto", *list_backends()]),
    default="auto",
    show_default=True,
    help="Backend that measures; auto takes the first that works.",
)
@click.option(
    "--gpus",
    default="",
    callback=_gpus,
    metavar="0,1|UUID|UUID-PREFIX",
    help="GPUs to measure.  [default: those of CUDA_VISIBLE_DEVICES, else all]",
)
@click.option(
    "--format",
    "form",
    envvar="LLEM_MEASURE_FORMAT",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of the report.",
)
@click.option(
    "--output",
    callback=_output,
    metavar="FILE",
    help="Write the report to FILE, atomically.  [default: standard error; standard output is the command's]",
)
@click.option(
    "--amount",
    "amounts",
    multiple=True,
    callback=_amounts,
    envvar="LLEM_MEASURE_AMOUNT",
    metavar="NAME=N",
    help="Also report joules per unit of work, as tokens=1000. May be repeated.",
)
@click.option(
    "--driver.timeout",
    "driver_timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="If the driver does not answer within this time, run the command without a measurement.",
)
@click.version_option(__version__, prog_name="llem-measure")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(
    backend: str,
    gpus: tuple[str, ...],
    form: str,
    output: Path | None,
    amounts: tuple[Amount, ...],
    driver_timeout: float,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND and report the energy that the GPUs use while it runs.

    All processes on a GPU count, not only COMMAND. Without a GPU, COMMAND runs without a measurement.

    \b
      llem-measure -- python train.py
      llem-measure --gpus 0 --amount tokens=50000 -- python generate.py
      llem-measure --format json --output energy.json -- ./job.sh

    Exit code: that of COMMAND; 128+N if signal N ended it, 126 if it cannot be executed, 127 if it was not
    found, 2 for a usage error. A failed measurement does not change the exit code.

    Signals that llem-measure receives are forwarded to COMMAND. Each option can also be set in the
    environment, as LLEM_MEASURE_BACKEND.
    """
    env = dict(os.environ)  # before a library changes it
    try:
        measuring = MeasuringThread(backend, gpus, driver_timeout)
        mask = child.block_signals()  # to the end: a late signal must not change the exit code
    except KeyboardInterrupt:
        _exit(EXIT_INTERRUPTED, ended=False)
    if measuring.usage_error:
        raise click.UsageError(f"--gpus: {measuring.usage_error}")
    if measuring.failure:
        _print(f"llem-measure: no energy is measured: {_one_line(measuring.failure)}")
    elif measuring.no_gpu:
        _print(f"llem-measure: no GPU is measured, only CPU and memory: {_one_line(measuring.no_gpu)}")
    is_measuring = not measuring.failure
    start_unix_s, start_s = time.time(), time.monotonic()
    try:
        exit_code = child.wait(child.start(command, env, mask))
    except child.StartError as exc:
        _print(f"llem-measure: {exc}")
        _exit(exc.exit_code, ended=measuring.end())
    duration_s = time.monotonic() - start_s
    ended = measuring.end()
    try:
        run = _command_run(measuring, command, exit_code, (start_unix_s, duration_s), amounts)
        if form == "json":
            _report(json.dumps(document(run), indent=2, allow_nan=False) + "\n", output)
        elif is_measuring or output is not None:
            _report(table(run), output)
    except Exception as exc:  # noqa: BLE001 - a failed report must not hide the command's exit code
        _print(f"llem-measure: cannot make the report: {type(exc).__name__}: {exc}")
    _exit(exit_code, ended=ended)


def _command_run(
    measuring: MeasuringThread,
    command: tuple[str, ...],
    exit_code: int,
    times: tuple[float, float],
    amounts: tuple[Amount, ...],
) -> CommandRun:
    measured = measuring.measured
    warnings = tuple(w for w in measured.warnings if w.code is not WarningCode.EMISSIONS_UNAVAILABLE)
    if measuring.failure and not warnings:
        warnings = (MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, f"no joules: {measuring.failure}"),)
    return CommandRun(
        command,
        exit_code,
        *times,
        gpus=measuring.gpus,
        measurement=measured.measurement,
        considered=measured.considered,
        warnings=warnings,
        amounts=amounts,
    )


def _report(text: str, output: Path | None) -> None:
    """Write the report; if the file cannot be written, print it on standard error."""
    if output is not None:
        try:
            write_file(output, text)
        except OSError as exc:
            _print(f"llem-measure: cannot write {output}: {exc.strerror}")
        else:
            return
    _print(text.rstrip("\n"))


def _print(text: str) -> None:
    with suppress(OSError):  # a closed standard error must not change the exit code
        click.echo(text, err=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _exit(exit_code: int, *, ended: bool) -> NoReturn:
    """Exit; at once if the driver hangs, because the libraries' exit handlers would call it again."""
    if not ended:
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
