"""A trace of power over time in place of GPUs: CSV with columns seconds,gpu,watts and perhaps joules."""

import csv
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from llem_core.energy import power_within
from llem_core.errors import ConfigError
from llem_measure.sampling.devices import DeviceInfo, Status

DEMO: Final = "demo"
_DEMO_PATH: Final = Path(__file__).parent / "traces" / "llm_serving.csv"

_REQUIRED: Final = {"seconds", "gpu", "watts"}
_MAX_GPUS: Final = 256
_MAX_VALUE: Final = 1e12
"""More than any GPU can have, and exact in milliseconds and eighths."""
_MIN_STEP_S: Final = 0.001


@dataclass(slots=True)
class Rows:
    """One GPU's rows, seconds ascending; `joules` is empty if the trace has no such column."""

    seconds: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """The rows by GPU index. A loop begins at `start_s` and lasts `period_s`, a step beyond the last row."""

    name: str
    start_s: float
    period_s: float
    rows: dict[int, Rows]


def open_devices(source: str, start_ms: int, steps_s: Callable[[], float] = float) -> "list[ReplayDevice]":
    """Return the GPUs of a trace file, or of the packaged one ("demo"). The first row is at `start_ms`.

    `steps_s` returns by how much the wall clock has been set since then [s]; it does not move the trace.
    Raises ConfigError with the file, the line and the reason.
    """
    trace = load(_DEMO_PATH if source == DEMO else Path(source))
    return [ReplayDevice(trace, index, start_ms, steps_s) for index in sorted(trace.rows)]


def load(path: Path) -> Trace:
    """Read a trace. Raises ConfigError with the file, the line and the reason."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            by_gpu = _read(csv.reader(lines, strict=True))
    except ConfigError as exc:
        raise ConfigError(f"{path}, {exc}") from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(f"{path}: not a readable trace: {exc}") from exc
    if not by_gpu:
        raise ConfigError(f"{path}: no rows under the header")
    for gpu, rows in by_gpu.items():
        if len(rows.seconds) < 2:
            raise ConfigError(f"{path}: GPU {gpu} has only one row; each GPU needs at least two")
    start_s = min(rows.seconds[0] for rows in by_gpu.values())
    end_s = max(rows.seconds[-1] for rows in by_gpu.values())
    step_s = median(after - before for rows in by_gpu.values() for before, after in pairwise(rows.seconds))
    return Trace(path.name, start_s, end_s - start_s + step_s, by_gpu)


def _read(lines: Iterator[list[str]]) -> dict[int, Rows]:
    """Return the rows by GPU index. Raises ConfigError with the line and the reason."""
    header = [name.strip() for name in next(lines, [])]
    if not _REQUIRED <= set(header) <= {*_REQUIRED, "joules"} or len(set(header)) != len(header):
        found = ",".join(header)[:80]
        raise ConfigError(f"line 1: columns must be seconds,gpu,watts[,joules], not {found!r}")
    by_gpu: dict[int, Rows] = {}
    for number, texts in enumerate(lines, start=2):
        if not texts:
            continue
        try:
            if len(texts) != len(header):
                raise ConfigError(f"{len(texts)} values for {len(header)} columns")
            row = {name: _number(text, name) for name, text in zip(header, texts, strict=True)}
            _append(by_gpu.setdefault(int(row["gpu"]), Rows()), row)
            if len(by_gpu) > _MAX_GPUS:
                raise ConfigError(f"more than {_MAX_GPUS} GPUs")
        except ConfigError as exc:
            raise ConfigError(f"line {number}: {exc}") from exc
    return by_gpu


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= _MAX_VALUE or (name == "gpu" and not value.is_integer()):
        kind = "whole number" if name == "gpu" else "number"
        raise ConfigError(f"{name} must be a {kind} from 0 to {_MAX_VALUE:g}, not {text[:40]!r}")
    return value


def _append(rows: Rows, row: dict[str, float]) -> None:
    seconds, joules = row["seconds"], row.get("joules")
    if rows.seconds and round(seconds - rows.seconds[-1], 6) < _MIN_STEP_S:
        last = rows.seconds[-1]
        raise ConfigError(
            f"the seconds of each GPU must increase by at least {_MIN_STEP_S} from row to row: "
            f"found {seconds} after {last}"
        )
    if joules is not None:
        if rows.joules and joules < rows.joules[-1]:
            raise ConfigError(f"joules must not decrease: {joules} after {rows.joules[-1]}")
        rows.joules.append(joules)
    rows.seconds.append(seconds)
    rows.watts.append(row["watts"])


class ReplayDevice:
    """One GPU of a trace, in a loop: linear between rows, and from the last to the first of the next loop."""

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
        """Whether the trace has a counter."""
        return bool(self._rows.joules)

    def read_watts(self, unix_ms: int) -> float:
        """Return the power at this time."""
        watts = self._rows.watts
        _, before, fraction = self._position(unix_ms)
        return power_within(watts[before], watts[(before + 1) % len(watts)], fraction)

    def read_joules(self, unix_ms: int) -> float:
        """Return the trace's counter at this time, plus the joules of all loops before."""
        joules = self._rows.joules
        loop, before, fraction = self._position(unix_ms)
        end = joules[before + 1] if before + 1 < len(joules) else joules[0] + self._loop_joules
        return joules[before] + (end - joules[before]) * fraction + loop * self._loop_joules

    def read_status(self) -> Status:
        """Return an empty status."""
        return Status()

    def open(self) -> bool:
        """Return True: a trace is always open."""
        return True

    def _position(self, unix_ms: int) -> tuple[int, int, float]:
        """Return the loop, the row before this time, and the fraction of the step after that row (0 to 1)."""
        seconds, trace = self._rows.seconds, self._trace
        played_s = (unix_ms - self._start_ms) / 1000 - self._steps_s()
        loop, into_s = divmod(played_s, trace.period_s)
        at_s = trace.start_s + into_s
        if at_s < seconds[0]:  # before this GPU's first row: still in the last step of the loop before
            loop, at_s = loop - 1, at_s + trace.period_s
        before = bisect_right(seconds, at_s) - 1
        last = before + 1 == len(seconds)
        step_s = self._wrap_s if last else seconds[before + 1] - seconds[before]
        return int(loop), before, (at_s - seconds[before]) / step_s
