"""`llem-integrate --demo`: an exporter of our own for half a minute, and its history integrated.

With a GPU it measures the GPU; without one it replays the packaged trace, whose exact joules are known.
"""

import csv
import importlib.util
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.errors import LLEMError, SourceError
from llem_integrator.energy.joules import trapezoid
from llem_integrator.energy.request import Request
from llem_integrator.energy.result import WindowResult
from llem_integrator.integration import integrate
from llem_integrator.series.samples import Series, Times, Values
from llem_integrator.stores import Progress, Source, open_source, whole
from llem_integrator.windows.window import Window

MEASURE_SECONDS: Final = 20
_START_SECONDS: Final = 20
_TICK_MS: Final = 100
_MOST_MISSED: Final = 50
_COMPARED: Final = 100
"""Samples, of which a few are not enough: a trace may begin with equal rows."""

Rows = list[tuple[int, float]]
"""Of one GPU of a trace: ms and watts."""

_LISTENING: Final = re.compile(r"listening on (http://\S+)")


def run(request: Request, progress: Progress) -> tuple[Source, WindowResult, str]:
    """Source, result and what it was of; raises LLEMError where no exporter can be started.

    The result's `exact_j` are the trace's own joules where the trace was replayed.
    """
    try:
        with _exporter() as url:
            source, result = _measure(url, request, progress)
            return source, result, "this machine's GPUs"
    except _NotStartedError as exc:
        with _exporter("--replay", "demo") as url:
            source, result = _measure(url, request, progress)
            return source, _with_exact(open_source(url), result), f"a replayed trace of two GPUs, since {exc}"


class _NotStartedError(LLEMError):
    """The exporter ended before it listened; the text is why."""


@contextmanager
def _exporter(*options: str) -> Iterator[str]:
    """A running exporter's URL."""
    # -P: Python must not import a package from the working directory instead of the installed one.
    command = [sys.executable, "-P", "-m", "llem_exporter", "--web.listen-address", "127.0.0.1:0", *options]
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=pipe, text=True) as process:
        watchdog = threading.Timer(_START_SECONDS, process.kill)
        try:
            watchdog.start()
            url, said = _wait_until_listening(process)
            watchdog.cancel()
            if url is None:
                raise _NotStartedError(_why_not(said))
            threading.Thread(target=process.stderr.read if process.stderr else None, daemon=True).start()
            yield url
        finally:
            watchdog.cancel()
            _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()


def _wait_until_listening(process: "subprocess.Popen[str]") -> tuple[str | None, str]:
    """The URL that it says it listens on, or None; and the last line it said."""
    last = ""
    for line in process.stderr or ():
        if found := _LISTENING.search(line):
            return found[1], line
        last = line.strip() or last
    return None, last


def _why_not(said: str) -> str:
    """Why an exporter did not start, after its last line."""
    reason, _, advice = said.removeprefix("Error: ").partition(";")
    if "without a GPU" in advice:
        return f"there is none here ({reason})"
    return f"the exporter did not start ({reason or f'nothing within {_START_SECONDS} s'})"


def _measure(url: str, request: Request, progress: Progress) -> tuple[Source, WindowResult]:
    """The next whole seconds of the exporter at the URL, integrated from its history."""
    start_s = int(time.time()) + 2
    end_s = start_s + MEASURE_SECONDS
    while (left_s := end_s + 1 - time.time()) > 0:
        progress(1 - left_s / (MEASURE_SECONDS + 3))
        time.sleep(min(0.25, left_s))
    source = open_source(url)
    window = Window(start_s * 1_000_000, end_s * 1_000_000, "demo")
    return source, next(iter(integrate(source, [window], request)))


def _with_exact(source: Source, result: WindowResult) -> WindowResult:
    """The result with the joules of the trace itself, looped from the replay's first tick."""
    trace = _trace()
    found = whole(source.pieces(metrics.GPU_POWER_TRACE.name, (), 0, 2**52, lambda _: None))
    started = _started_ms({one.labels["gpu"]: one for one in found}, trace)
    window = Window(round(result.start * 1e6), round(result.end * 1e6))
    exact = {gpu: _exact_joules(rows, started, window) for gpu, rows in trace.items()}
    return replace(result, gpus=tuple(gpu._replace(exact_j=exact.get(gpu.gpu)) for gpu in result.gpus))


def _started_ms(found: Mapping[str, Series], trace: Mapping[str, Rows]) -> int:
    """The tick at which the replay was at its first row: the samples fit the trace best from there.

    The first of them may belong to a later tick, and come late.
    """
    first = min(int(one.unix_ms[0]) for one in found.values())
    ticks = [first - first % _TICK_MS - missed * _TICK_MS for missed in range(_MOST_MISSED)]

    def misfit(started_ms: int) -> float:
        return sum(
            float(
                np.abs(
                    one.values[:_COMPARED] - _watts(trace[gpu], one.unix_ms[:_COMPARED] - started_ms)
                ).sum()
            )
            for gpu, one in found.items()
        )

    return min(ticks, key=misfit)


def _watts(rows: Rows, times_ms: Times) -> Values:
    times, watts = zip(*rows, strict=True)
    found: Values = np.interp(times_ms, np.array(times) - times[0], watts)
    return found


def _trace() -> dict[str, Rows]:
    """The packaged trace: rows of ms and watts by GPU."""
    spec = importlib.util.find_spec("llem_exporter")
    if spec is None or not spec.submodule_search_locations:
        raise SourceError("the exporter is not installed here, and the demo needs its trace")
    path = Path(spec.submodule_search_locations[0], "replay", "traces", "llm_serving.csv")
    rows: dict[str, Rows] = defaultdict(list)
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            rows[row["gpu"]].append((round(float(row["seconds"]) * 1000), float(row["watts"])))
    return rows


def _exact_joules(rows: Rows, started_ms: int, window: Window) -> float | None:
    """Joules of the trace's rows, linear in between and looped, over a window."""
    times, watts = (np.array(column) for column in zip(*rows, strict=True))
    times = times - times[0]
    period_ms = int(times[-1] + np.median(np.diff(times)))
    loops = range((window.end_us // 1000 - started_ms) // period_ms + 2)
    unix_ms = np.concatenate([started_ms + loop * period_ms + times for loop in loops])
    return trapezoid(unix_ms, np.tile(watts, len(loops)), window, float("inf"), None).joules
