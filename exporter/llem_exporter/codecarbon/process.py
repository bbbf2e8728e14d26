"""The worker process of carbon.py, listened to with patience."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any, Final

from llem_core.errors import ConfigError, LLEMError

END_SECONDS: Final = 1.0
"""How long to wait for a process that ends; one that the driver holds does so when the driver lets go."""


class Worker:
    """A process that measures until the with-block ends, or this process does."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        """Raises LLEMError where none can be started."""
        # -P: Python must not import a package from the working directory instead of the installed one.
        command = [sys.executable, "-P", "-m", "llem_exporter.codecarbon.worker"]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace"
            )
        except OSError as exc:
            raise LLEMError(f"its worker cannot run: {exc}") from exc
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._complaint = ""
        _listen(self._process.stdout, self._lines.put)
        self._noting = _listen(self._process.stderr, self._note)
        if stdin := self._process.stdin:  # it stays open: the worker ends with it
            with suppress(BrokenPipeError):  # who ended before that says why
                stdin.write(json.dumps(settings) + "\n")
                stdin.flush()

    def hear(self, patience_s: float) -> dict[str, Any]:
        """The next measurement.

        Raises ConfigError for what will not mend, and LLEMError where the worker says nothing, cannot
        measure, or has ended.
        """
        try:
            line = self._lines.get(timeout=patience_s)
        except Empty:
            raise LLEMError(f"it measured nothing for {patience_s:g} s; it is started again") from None
        if not line:
            raise LLEMError(self._ending())
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise (ConfigError if said["for_good"] else LLEMError)(said["error"])
        return said

    @property
    def ended(self) -> bool:
        """Whether the process is no more. One that hangs in the driver cannot be killed before it returns."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it; it heeds no gentler signal, and has nothing to save."""
        self._process.kill()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        if stdin := self._process.stdin:
            with suppress(BrokenPipeError):
                stdin.close()

    def _note(self, line: str) -> None:
        self._complaint = line.strip() or self._complaint

    def _ending(self) -> str:
        self._noting.join(END_SECONDS)
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its worker says no more"
        return f"its worker ended with status {status}{self._complaint and ': '}{self._complaint}"


def _listen(pipe: IO[str] | None, take: Callable[[str], None]) -> Thread:
    """Hand on each line, and at last an empty one, in a thread."""

    def listen() -> None:
        if pipe:
            with pipe:
                for line in pipe:
                    take(line)
        take("")

    thread = Thread(target=listen, name="codecarbon-pipe", daemon=True)
    thread.start()
    return thread
