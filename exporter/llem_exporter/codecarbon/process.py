"""Start the worker process, receive its measurements, and end it."""

import json
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import IO, Any, Final, cast

from llem_core.errors import ConfigError, LLEMError

END_SECONDS: Final = 1.0
"""How long to wait for the process to end. A process that hangs in the driver ends when the call returns."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What CodeCarbon counted from the worker's start until `unix_s`.

    `joules` has the components cpu, gpu and ram. `grams` are CO2 equivalent, by the grid of `region`.
    `duration_s` is how long measuring took.
    """

    unix_s: float
    duration_s: float
    joules: dict[str, float]
    grams: float
    version: str
    region: str


class Worker:
    """A running worker process. It ends with the with-block or with this process."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        """Start the process. Raises LLEMError if that fails."""
        # -P: Python must not import a package from the working directory instead of the installed one.
        command = [sys.executable, "-P", "-m", "llem_exporter.codecarbon.worker", json.dumps(settings)]
        pipe = subprocess.PIPE
        try:
            # bufsize=0: poll() does not see lines that have been read into a buffer.
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        except OSError as exc:
            raise LLEMError(f"cannot start the CodeCarbon process: {exc}") from exc
        self._process = process
        # Standard input stays open and empty: the worker ends when it is closed.
        self._pipes = cast("tuple[IO[bytes], ...]", (process.stdin, process.stdout, process.stderr))
        self._last_error = ""
        self._error_reader = Thread(target=self._read_errors, name="codecarbon-stderr", daemon=True)
        self._error_reader.start()

    def next_measurement(self, timeout_s: float) -> Measurement:
        """Wait for the next measurement.

        Raises ConfigError for an error that a restart cannot fix, and LLEMError if the worker times out,
        cannot measure or has ended.
        """
        _, stdout, _ = self._pipes
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise LLEMError(
                f"the CodeCarbon process sent no measurement for {timeout_s:g} s; it will be restarted"
            )
        line = stdout.readline()  # the worker writes whole lines
        if not line:
            raise LLEMError(self._exit_reason())
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise (ConfigError if message["permanent"] else LLEMError)(message["error"])
        return Measurement(**message)

    @property
    def ended(self) -> bool:
        """Whether the process has ended. A killed process that hangs in the driver has not."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill the process. It ignores other signals and has nothing to save."""
        self._process.kill()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        for pipe in self._pipes[:2]:  # the thread closes the third
            pipe.close()

    def _read_errors(self) -> None:
        with self._pipes[2] as stderr:
            for line in stderr:
                self._last_error = line.decode(errors="replace").strip() or self._last_error

    def _exit_reason(self) -> str:
        self._error_reader.join(END_SECONDS)
        status = self._process.wait(END_SECONDS)
        reason = f": {self._last_error}" if self._last_error else ""
        return f"the CodeCarbon process ended with status {status}{reason}; it will be restarted"
