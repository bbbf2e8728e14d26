"""`llem-integrate --demo`: start an exporter, and integrate its history.

If there is a GPU, the exporter measures it. Otherwise it replays the packaged trace.
"""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from llem_core.errors import LLEMError
from llem_integrator.api import stream
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from llem_integrator.stores import Progress, Source, open_source
from llem_integrator.windows.window import Window

MEASURE_SECONDS: Final = 20
_START_SECONDS: Final = 20
_LISTENING: Final = re.compile(r"listening on (http://\S+)")


class _NotStartedError(LLEMError):
    """The exporter ended before it listened. The message is the reason."""


def run(request: Request, progress: Progress) -> tuple[Source, Window, WindowResult, str]:
    """Measure for 20 s. Return the source, the window, the result, and what was measured.

    Raises LLEMError if no exporter can be started.
    """
    try:
        with _exporter() as url:
            return *_measure(url, request, progress), "this machine's GPUs"
    except _NotStartedError as exc:
        with _exporter("--replay", "demo") as url:
            return *_measure(url, request, progress), f"a replayed trace of two GPUs, because {exc}"


@contextmanager
def _exporter(*options: str) -> Iterator[str]:
    """Run an exporter, and yield its URL."""
    # -P: Python must not import a package from the working directory instead of the installed one.
    command = [sys.executable, "-P", "-m", "llem_exporter", "--web.listen-address", "127.0.0.1:0", *options]
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=pipe, text=True) as process:
        watchdog = threading.Timer(_START_SECONDS, process.kill)
        try:
            watchdog.start()
            url = _wait_until_listening(process)
            watchdog.cancel()
            threading.Thread(target=process.stderr.read if process.stderr else None, daemon=True).start()
            yield url
        finally:
            watchdog.cancel()
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_listening(process: "subprocess.Popen[str]") -> str:
    """Return the URL from the log of an exporter. Raises _NotStartedError with its last line."""
    last = ""
    for line in process.stderr or ():
        if listening := _LISTENING.search(line):
            return listening[1]
        last = line.strip() or last
    reason, _, advice = last.removeprefix("Error: ").partition(";")
    if "without a GPU" in advice:
        raise _NotStartedError(f"this machine has no GPU ({reason})")
    reason = reason or f"it did not listen within {_START_SECONDS} s"
    raise _NotStartedError(f"the exporter did not start ({reason})")


def _measure(url: str, request: Request, progress: Progress) -> tuple[Source, Window, WindowResult]:
    """Integrate the history of the next 20 s, from whole second to whole second."""
    start_s = int(time.time()) + 2
    end_s = start_s + MEASURE_SECONDS
    while (left_s := end_s + 1 - time.time()) > 0:
        progress(1 - left_s / (MEASURE_SECONDS + 3))
        time.sleep(min(0.25, left_s))
    source = open_source(url)
    window = Window(start_s * 1_000_000, end_s * 1_000_000, "demo")
    return source, window, next(stream(source, [window], request))
