"""llem-measure: run a command and report the energy that the GPUs use while it runs."""

import json
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import click

from llem_core import __version__
from llem_core.errors import ConfigError
from llem_measure import Measured, child, list_backends, measure
from llem_measure.backends import measurement_warnings
from llem_measure.nvml.calls import NoAnswerError
from llem_measure.nvml.discovery import Gpu, UnknownGpuError, find_gpus, indices_of
from llem_measure.report import Amount, CommandRun, document, table

EXIT_INTERRUPTED: Final = 130


class CommandMeasurement:
    """A measurement that begins when this object is made. A failure never raises, except UnknownGpuError.

    `gpus` are the GPUs that are measured. `message` says what is not measured, and why; "" if all is.
    `measured` has warnings before the end only if nothing is measured.
    """

    def __init__(self, backend: str, gpu_names: Sequence[str], driver_timeout_s: float) -> None:
        self.gpus: tuple[Gpu, ...] = ()
        self.measured = Measured()
        self.message = ""
        self._block = ExitStack()
        # The libraries' threads inherit the signal mask of this thread. The main thread still gets Ctrl-C.
        thread = ThreadPoolExecutor(1, "measuring", child.block_signals)
        thread.submit(self._begin, backend, gpu_names, driver_timeout_s).result()

    def end(self) -> None:
        """End the measurement, and fill in `measured`."""
        self._block.close()

    def _begin(self, backend: str, gpu_names: Sequence[str], driver_timeout_s: float) -> None:
        try:
            indices = indices_of(gpu_names, driver_timeout_s) if gpu_names else None
            self._find_gpus(indices, driver_timeout_s)
            block = measure(backend, indices, driver_timeout_s=driver_timeout_s)
            self.measured = self._block.enter_context(block)
        except UnknownGpuError:
            raise
        except Exception as exc:  # noqa: BLE001 - a failed measurement must not stop the command
            reason = measurement_warnings.describe(exc)
            self.measured = Measured(warnings=(measurement_warnings.unavailable([reason]),))
        if self.measured.warnings:
            self.message = self.measured.warnings[0].message

    def _find_gpus(self, indices: Sequence[int] | None, driver_timeout_s: float) -> None:
        """Find the GPUs. Without a driver, CPU and memory can still be measured."""
        try:
            self.gpus = find_gpus(indices, driver_timeout_s)
            reason = "" if self.gpus else "no GPU is visible"
        except ConfigError as exc:
            if indices is not None or isinstance(exc, NoAnswerError):
                raise
            reason = str(exc)
        if reason:
            self.message = f"no GPU is measured; CodeCarbon estimates CPU and memory: {reason}"


def _gpus(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(gpu.strip() for gpu in text.split(",")) if text else ()


def _amounts(_ctx: click.Context, _param: click.Parameter, texts: Sequence[str]) -> tuple[Amount, ...]:
    amounts: dict[str, Amount] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not name or not 0 < amount < math.inf:
            raise click.BadParameter(
                f"{text!r} is not NAME=N with a number N above 0, for example tokens=1000"
            )
        if name in amounts:
            raise click.BadParameter(f"{name!r} is given twice")
        amounts[name] = Amount(name, amount)
    return tuple(amounts.values())


def _output(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Path | None:
    if text is None:
        return None
    folder = Path(os.path.realpath(text)).parent
    if text == "-":
        raise click.BadParameter(
            "standard output is used by COMMAND; omit --output to write the report to standard error"
        )
    if not text or Path(text).is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise click.BadParameter(f"cannot write a file {text!r}")
    return Path(text)


@click.command(
    context_settings={
        "allow_interspersed_args": False,
        "auto_envvar_prefix": "LLEM_MEASURE",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    }
)
@click.option(
    "--backend",
    type=click.Choice(["auto", *list_backends()]),
    default="auto",
    help="Backend that measures; auto uses the first that works.",
)
@click.option(
    "--gpus",
    callback=_gpus,
    metavar="LIST",
    help="Comma-separated list of GPU indices, UUIDs or UUID prefixes to measure, for example 0,1."
    "  [default: those of CUDA_VISIBLE_DEVICES, else all]",
)
@click.option(
    "--format",
    "form",
    envvar="LLEM_MEASURE_FORMAT",
    type=click.Choice(["table", "json"]),
    default="table",
    help="Format of the report.",
)
@click.option(
    "--output",
    callback=_output,
    metavar="FILE",
    help="Write the report to FILE, atomically.  [default: standard error]",
)
@click.option(
    "--amount",
    "amounts",
    multiple=True,
    callback=_amounts,
    envvar="LLEM_MEASURE_AMOUNT",
    metavar="NAME=N",
    help="Amount of work that COMMAND does in total, for example tokens=1000, to report joules per token. "
    "Can be repeated.",
)
@click.option(
    "--driver.timeout",
    "driver_timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=60.0,
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

    All processes on a GPU count, not only COMMAND. Without a GPU, CodeCarbon estimates the energy of the CPU
    and memory. Without CodeCarbon, COMMAND runs and nothing is measured.

    \b
      llem-measure -- python train.py
      llem-measure --gpus 0 --amount tokens=50000 -- python generate.py
      llem-measure --format json --output energy.json -- ./job.sh

    The exit code is that of COMMAND, or 128+N if signal N ended it. It is 126 if COMMAND cannot be executed,
    127 if it was not found, and 2 after a usage error. A failed measurement does not change the exit code.

    Signals that llem-measure receives are forwarded to COMMAND. Each option can also be set by an
    environment variable, for example LLEM_MEASURE_BACKEND.
    """
    env = dict(os.environ)  # before a library changes it
    try:
        measuring = CommandMeasurement(backend, gpus, driver_timeout)
        mask = child.block_signals()  # to the end: a late signal must not change the exit code
    except UnknownGpuError as exc:
        raise click.UsageError(f"--gpus: {exc}") from exc
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)
    if measuring.message:
        _print(f"llem-measure: {' '.join(measuring.message.split())}")
    has_table = output is not None or not measuring.measured.warnings
    start_unix_s, start_s = time.time(), time.monotonic()
    try:
        exit_code = child.wait(child.start(command, env, mask))
    except child.StartError as exc:
        _print(f"llem-measure: {exc}")
        os._exit(exc.exit_code)
    duration_s = time.monotonic() - start_s
    try:
        measuring.end()
        run = CommandRun(
            command, exit_code, start_unix_s, duration_s, measuring.measured, measuring.gpus, amounts
        )
        if form == "json":
            _report(json.dumps(document(run), indent=2, allow_nan=False), output)
        elif has_table:
            _report(table(run), output)
    except Exception as exc:  # noqa: BLE001 - a failed report must not hide the command's exit code
        _print(f"llem-measure: cannot make the report: {type(exc).__name__}: {exc}")
    os._exit(exit_code)  # at once: the libraries' exit handlers would call a driver that may hang


def _report(text: str, output: Path | None) -> None:
    """Write the report; if the file cannot be written, print it on standard error."""
    if output is not None:
        target = os.path.realpath(output)
        atomic = not Path(target).exists() or Path(target).is_file()  # a pipe or a device cannot be replaced
        try:
            with click.open_file(target, "w", encoding="utf-8", atomic=atomic) as file:
                file.write(text + "\n")
        except OSError as exc:
            _print(f"llem-measure: cannot write {output}: {exc.strerror}")
        else:
            return
    _print(text)


def _print(text: str) -> None:
    with suppress(OSError):  # a closed standard error must not change the exit code
        click.echo(text, err=True)


if __name__ == "__main__":
    main()
