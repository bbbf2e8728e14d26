"""Replay a trace instead of reading GPUs: a CSV file with columns seconds,gpu,watts and optionally joules."""

import csv
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from llem_core.energy import power_within
from llem_core.errors import ConfigError
from llem_measure.sampling.devices import DeviceInfo, Status

DEMO: Final = "demo"
_DEMO_PATH: Final = Path(__file__).parent / "traces" / "llm_serving.csv"

_REQUIRED: Final = ("seconds", "gpu", "watts")
_MAX_GPUS: Final = 256
_MAX: Final = {"seconds": 1e11, "gpu": 1e6, "watts": 1e7, "joules": 1e13}
"""Larger than any GPU's values, and small enough for exact milliseconds and eighths in a float."""
_MIN_STEP_S: Final = 0.001


@dataclass(slots=True)
class Rows:
    """One GPU's rows in ascending order of time. `joules` is empty if the trace has no such column."""

    seconds: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """The rows by GPU index. A loop begins at `start_s` and lasts until one step after the last row."""

    name: str
    start_s: float
    period_s: float
    rows: dict[int, Rows]


def open_devices(source: str, start_ms: int, steps_s: Callable[[], float] = float) -> "list[ReplayDevice]":
    """Return the GPUs of a trace file, or of the packaged trace ("demo"), whose first row is at `start_ms`.

    `steps_s` returns the sum of all steps of the wall clock since then [s], by which the trace is not moved.
    Raises ConfigError with the file, the line and the invalid value.
    """
    trace = load(_DEMO_PATH if source == DEMO else Path(source))
    return [ReplayDevice(trace, index, start_ms, steps_s) for index in sorted(trace.rows)]


def load(path: Path) -> Trace:
    """Read a trace. Raises ConfigError."""
    by_gpu: dict[int, Rows] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for line, row in _parsed(csv.reader(lines, strict=True)):
                rows = by_gpu.setdefault(int(row["gpu"]), Rows())
                if len(by_gpu) > _MAX_GPUS:
                    raise _LineError(line, f"more than {_MAX_GPUS} GPUs")
                _append(rows, row, line)
    except _LineError as exc:
        raise ConfigError(f"{path}, line {exc.line}: {exc}") from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(f"{path}: not a readable trace: {exc}") from exc
    for gpu, rows in by_gpu.items():
        if len(rows.seconds) < 2:
            raise ConfigError(
                f"{path}: GPU {gpu} has only one row; a trace needs at least two rows for each GPU"
            )
    if not by_gpu:
        raise ConfigError(f"{path}: no rows under the header")
    start_s = min(rows.seconds[0] for rows in by_gpu.values())
    end_s = max(rows.seconds[-1] for rows in by_gpu.values())
    step_s = median(
        after - before
        for rows in by_gpu.values()
        for before, after in zip(rows.seconds, rows.seconds[1:], strict=False)
    )
    return Trace(path.name, start_s, end_s - start_s + step_s, by_gpu)


class _LineError(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _parsed(lines: Iterator[list[str]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Return the line number and the values of each row."""
    header = [name.strip() for name in next(lines, [])]
    allowed = {*_REQUIRED, "joules"}
    if not set(_REQUIRED) <= set(header) <= allowed or len(set(header)) != len(header):
        raise _LineError(1, f"columns must be seconds,gpu,watts[,joules], not {','.join(header)[:80]!r}")
    for number, values in enumerate(lines, start=2):
        if not values:
            continue
        if len(values) != len(header):
            raise _LineError(number, f"{len(values)} values for {len(header)} columns")
        yield number, {name: _number(text, name, number) for name, text in zip(header, values, strict=True)}


def _number(text: str, name: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    whole = name != "gpu" or value == value // 1
    if not isfinite(value) or (value < 0 and name != "seconds") or not whole:
        wanted = "a whole number >= 0" if name == "gpu" else "a number" + " >= 0" * (name != "seconds")
        raise _LineError(line, f"{name} must be {wanted}, not {text[:40]!r}")
    if abs(value) > _MAX[name]:
        raise _LineError(line, f"{name} must be at most {_MAX[name]:g}, not {text[:40]!r}")
    return value


def _append(rows: Rows, row: dict[str, float], line: int) -> None:
    seconds, joules = row["seconds"], row.get("joules")
    if rows.seconds and seconds <= rows.seconds[-1]:
        raise _LineError(line, f"seconds must ascend for each GPU: {seconds} after {rows.seconds[-1]}")
    if rows.seconds and round(seconds - rows.seconds[-1], 6) < _MIN_STEP_S:
        raise _LineError(
            line, f"rows of a GPU must be 1 ms apart or more: {seconds} after {rows.seconds[-1]}"
        )
    if joules is not None:
        if rows.joules and joules < rows.joules[-1]:
            raise _LineError(line, f"joules must not fall: {joules} after {rows.joules[-1]}")
        rows.joules.append(joules)
    rows.seconds.append(seconds)
    rows.watts.append(row["watts"])


class ReplayDevice:
    """One GPU of a repeated trace. Values are linear between rows, also from the last to the first."""

    def __init__(self, trace: Trace, index: int, start_ms: int, steps_s: Callable[[], float] = float) -> None:
        uuid = f"GPU-{uuid5(NAMESPACE_URL, f'{trace.name}/{index}')}"
        self.info = DeviceInfo(index, uuid, "replay", power_source="replay")
        self._trace, self._rows, self._start_ms = trace, trace.rows[index], start_ms
        self._steps_s = steps_s
        rows = self._rows
        self._wrap_s = rows.seconds[0] + trace.period_s - rows.seconds[-1]
        self._loop_joules = 0.0
        if rows.joules:
            wrap_joules = (rows.watts[-1] + rows.watts[0]) / 2 * self._wrap_s
            self._loop_joules = rows.joules[-1] - rows.joules[0] + wrap_joules

    @property
    def has_joules(self) -> bool:
        """Whether the trace has joules."""
        return bool(self._rows.joules)

    def read_watts(self, unix_ms: int) -> float:
        """Return the power of the trace at this time."""
        watts = self._rows.watts
        _, before, fraction = self._position(unix_ms)
        return power_within(watts[before], watts[(before + 1) % len(watts)], fraction)

    def read_joules(self, unix_ms: int) -> float:
        """Return the joules of the trace, plus those of all previous loops."""
        joules = self._rows.joules
        loop, before, fraction = self._position(unix_ms)
        end = joules[before + 1] if before + 1 < len(joules) else joules[0] + self._loop_joules
        return joules[before] + (end - joules[before]) * fraction + loop * self._loop_joules

    def read_status(self) -> Status:
        """Return no slow readings: a trace has none."""
        return Status()

    def open(self) -> bool:
        """Return True: a trace is always open."""
        return True

    def _position(self, unix_ms: int) -> tuple[int, int, float]:
        """Return the loop, the row before this time, and the position between it and the next (0 to 1)."""
        seconds, trace = self._rows.seconds, self._trace
        played_s = (unix_ms - self._start_ms) / 1000 - self._steps_s()
        loop, into_s = divmod(played_s, trace.period_s)
        at_s = trace.start_s + into_s
        if at_s < seconds[0]:  # before this GPU's first row: interpolate from the previous loop
            loop, at_s = loop - 1, at_s + trace.period_s
        before = bisect_right(seconds, at_s) - 1
        last = before + 1 == len(seconds)
        step_s = self._wrap_s if last else seconds[before + 1] - seconds[before]
        return int(loop), before, (at_s - seconds[before]) / step_s
