"""llem-measure: run a command and report the energy that the GPUs used meanwhile."""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import click

from llem_core import __version__
from llem_core.errors import ConfigError, DeviceError, LLEMError
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_measure import Measured, child, list_backends, measure
from llem_measure.nvml import device as nvml_device
from llem_measure.nvml import discovery
from llem_measure.report import Amount, CommandRun, NamedGpu, document, table, write_file

STOP_SECONDS: Final = 10.0
"""How long the end of the measurement may take after the command has ended."""

EXIT_INTERRUPTED: Final = 130


class _Measuring:
    """The measurement, in a thread of its own: if the driver hangs, the command still runs."""

    def __init__(self, backend: str, gpus: Sequence[str], timeout_s: float) -> None:
        """Start the measurement and wait until it has started.

        `failure` is the reason if nothing is measured, `no_gpu` the reason if only CPU and memory are.
        """
        self._backend, self._asked = backend, gpus
        self._started, self._command_ended = threading.Event(), threading.Event()
        self._step = "loading NVML"
        self._started_as = Measured()
        self.measured = Measured()
        self.gpus: tuple[NamedGpu, ...] = ()
        self.failure = ""
        self.no_gpu = ""
        self.usage_error = ""
        self._thread = threading.Thread(target=self._run, name="measuring", daemon=True)
        mask = child.block_signals()  # in the thread too: it must not receive the command's signals
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if self._started.wait(timeout_s):
            self.measured = self._started_as
        else:
            self.failure = f"the driver did not answer within {timeout_s:g} s ({self._step})"

    def end(self) -> bool:
        """End the measurement; return whether it ended in time."""
        self._command_ended.set()
        if not self.failure:
            self._thread.join(STOP_SECONDS)
            if self._thread.is_alive():
                self.failure = f"the measurement did not end within {STOP_SECONDS:g} s"
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            indices = self._find_gpus()
            self._step = f"starting backend {self._backend}"
            with measure(self._backend, indices) as measured:
                if not self._works(measured):
                    self.failure = "; ".join(warning.message for warning in measured.warnings)
                self._started_as = measured
                self._started.set()
                self._command_ended.wait()
        except click.UsageError as exc:
            self.usage_error = exc.message
        except Exception as exc:  # noqa: BLE001 - a failed measurement must not stop the command
            self.failure = str(exc) if isinstance(exc, LLEMError) else f"{type(exc).__name__}: {exc}"
        finally:
            self._started.set()

    @staticmethod
    def _works(measured: Measured) -> bool:
        """Return whether a backend has started; `considered` is empty where the backend was named."""
        return not measured.considered or any(tried.usable for tried in measured.considered)

    def _find_gpus(self) -> list[int] | None:
        """Name the GPUs; return the indices to measure, or None for all visible GPUs."""
        if self._asked:
            uuids = self._uuids()
            indices = list(dict.fromkeys(_index_of(gpu, uuids) for gpu in self._asked))
            self.gpus = tuple(self._named(index, uuids[index]) for index in indices)
            return indices
        visible = os.environ.get(discovery.VISIBLE)
        try:
            found = discovery.visible(visible, self._uuids(), nvml_device.index_of_mig)
        except ConfigError as exc:
            self.no_gpu = str(exc)
        else:
            self.gpus = tuple(self._named(gpu.index, gpu.uuid) for gpu in found)
            self.no_gpu = "" if found else f"no GPU is visible ({discovery.VISIBLE} is {visible!r})"
        return None

    def _uuids(self) -> dict[int, str]:
        """Return the UUIDs of the GPUs that answer; if GPUs are asked for by index, only theirs."""
        indices = range(nvml_device.count_gpus())
        if self._asked and all(gpu.isdecimal() for gpu in self._asked):
            indices = [index for index in map(int, self._asked) if index in indices]
        uuids: dict[int, str] = {}
        for index in indices:
            self._step = f"reading the UUID of GPU {index}"
            with suppress(DeviceError):
                uuids[index] = nvml_device.uuid_at(index)
        return uuids

    def _named(self, index: int, uuid: str) -> NamedGpu:
        self._step = f"reading the name of GPU {index}"
        try:
            return NamedGpu(index, uuid, nvml_device.name_at(index))
        except DeviceError:
            return NamedGpu(index, uuid)


def _index_of(gpu: str, uuids: dict[int, str]) -> int:
    """Return the NVML index of a GPU that is named by index, UUID or start of a UUID."""
    if gpu.isdecimal():
        found = [int(gpu)] if int(gpu) in uuids else []
    else:
        found = [index for index, uuid in uuids.items() if uuid.startswith(gpu)]
    if len(found) == 1:
        return found[0]
    if found:
        matches = ", ".join(uuids[index] for index in found)
        raise click.UsageError(f"--gpus: {gpu!r} matches several GPUs: {matches}")
    raise click.UsageError(f"--gpus: there is no GPU {gpu!r}, or it does not answer")


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
        measuring = _Measuring(backend, gpus, driver_timeout)
    except KeyboardInterrupt:
        _exit(EXIT_INTERRUPTED, ended=False)
    if measuring.usage_error:
        raise click.UsageError(measuring.usage_error)
    if measuring.failure:
        _print(f"llem-measure: no energy is measured: {_one_line(measuring.failure)}")
    elif measuring.no_gpu:
        _print(f"llem-measure: no GPU is measured, only CPU and memory: {_one_line(measuring.no_gpu)}")
    is_measuring = not measuring.failure
    mask = child.block_signals()  # to the end: a late signal must not change the exit code
    start_unix_s, start_s = time.time(), time.monotonic()
    try:
        exit_code = child.wait(child.start(command, env, mask))
    except child.StartError as exc:
        _print(f"llem-measure: {exc}")
        _exit(exc.exit_code, ended=measuring.end())
    duration_s = time.monotonic() - start_s
    ended = measuring.end()
    run = _command_run(measuring, command, exit_code, (start_unix_s, duration_s), amounts)
    if form == "json":
        _report(json.dumps(document(run), indent=2, allow_nan=False) + "\n", output)
    elif is_measuring or output is not None:
        _report(table(run), output)
    _exit(exit_code, ended=ended)


def _command_run(
    measuring: _Measuring,
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
