"""OpenMetrics text: samples with timestamps, from a file or from an exporter's own history."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from llem_core.errors import SourceError
from llem_integrator.series import Series, Values, make_series, whole_ms
from llem_integrator.sources.base import Piece, Progress, Summary, plausible
from llem_integrator.sources.matchers import Selector

_SAMPLE: Final = re.compile(
    r"""([^\s{]+(?:\{[^"}]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[^"}]*)*\})?) (\S+)(?: (\S+))?(?: # .*)?\r?"""
)
"""Series, value and unix seconds; what follows is an exemplar."""
_LABEL: Final = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_ESCAPE: Final = re.compile(r"\\(.)")


def parse(
    text: str, origin: str, extra_labels: Mapping[str, str] | None = None, *, maybe_empty: bool = False
) -> "OpenMetricsSource":
    """The source of an OpenMetrics text; raises SourceError that names `origin` and the line.

    `extra_labels` are added to each series, as a scrape adds them. A text in which no sample has a
    timestamp is no history, unless it is `maybe_empty`.
    """
    timed: dict[str, list[Series]] = {}
    plain: dict[str, list[Series]] = {}
    columns = _columns(text, origin)
    for series, (times, values) in columns.items():
        name, labels = _labels(series, origin)
        labels |= extra_labels or {}
        unix_s, numbers = np.array(times), plausible(np.array(values))
        stamped = unix_s != -np.inf
        if stamped.any():
            try:
                unix_ms = whole_ms(unix_s[stamped])
            except ValueError as exc:
                raise SourceError(f"{origin}: {series[:80]}: {exc}") from exc
            timed.setdefault(name, []).append(make_series(labels, unix_ms, numbers[stamped]))
        elif len(fact := make_series(labels, np.zeros(1, np.int64), numbers[-1:])):
            plain.setdefault(name, []).append(fact)
    if columns and not timed and not maybe_empty:
        raise SourceError(f"{origin}: no sample has a timestamp: one page of /metrics is not a history")
    return OpenMetricsSource(origin, timed, plain)


def _columns(text: str, origin: str) -> dict[str, tuple[list[float], list[float]]]:
    """Unix seconds (-inf without) and values, by series as it is written."""
    if not text.rstrip().endswith("# EOF"):
        raise SourceError(f"{origin}: no '# EOF' at the end: cut short, or not OpenMetrics")
    columns: dict[str, tuple[list[float], list[float]]] = {}
    # Not splitlines(): a label may hold U+2028 and whatever else that splits at.
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#") or not line.strip():
            continue
        try:
            series, value, time_s = _fields(line)
        except ValueError:
            raise SourceError(f"{origin}: line {number} is not a sample: {line[:80]!r}") from None
        times, values = columns.setdefault(series, ([], []))
        times.append(time_s)
        values.append(value)
    return columns


def _fields(line: str) -> tuple[str, float, float]:
    """Series, value and unix seconds (-inf without) of a sample's line; raises ValueError."""
    found = _SAMPLE.fullmatch(line)
    if not found:
        raise ValueError(line)
    series, value, time_s = found.groups()
    return series, float(value), -np.inf if time_s is None else float(time_s)


def _labels(series: str, origin: str) -> tuple[str, dict[str, str]]:
    name, brace, body = series.partition("{")
    body = body.removesuffix("}")
    labels: dict[str, str] = {}
    position = 0
    while brace and position < len(body):
        pair = _LABEL.match(body, position)
        if not pair:
            raise SourceError(f"{origin}: not a series: {series[:80]!r}")
        labels[pair[1]] = _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], pair[2])
        position = pair.end()
    return name, labels


class OpenMetricsSource:
    """What one OpenMetrics text holds, answered from memory.

    `timed` are series by metric name. `plain` are those whose samples carry no timestamp, the
    facts beside a trace: they hold for any window, and are no samples of it.
    """

    def __init__(self, address: str, timed: dict[str, list[Series]], plain: dict[str, list[Series]]) -> None:
        self.address = address
        self.warnings: tuple[str, ...] = ()
        self._timed = timed
        self._plain = plain

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        yield Piece(start_ms, end_ms, tuple(self._inside(metric, selector, start_ms, end_ms)))
        progress(1.0)

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        for one in self._inside(metric, selector, start_ms, end_ms):
            yield Series(one.labels, one.unix_ms[-1:], np.array([_summarised(one.values, kind)]))
        if kind in (Summary.LAST, Summary.MAX):
            yield from _matching(self._plain, metric, selector)

    def _inside(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Series]:
        for one in _matching(self._timed, metric, selector):
            inside = slice(*np.searchsorted(one.unix_ms, [start_ms, end_ms + 1]))
            if len(one.unix_ms[inside]):
                yield Series(one.labels, one.unix_ms[inside], one.values[inside], one.bad, one.conflicts)


def _summarised(values: Values, kind: Summary) -> float:
    match kind:
        case Summary.LAST:
            return float(values[-1])
        case Summary.MAX:
            return float(np.max(values))
        case Summary.COUNT:
            return float(len(values))
        case Summary.RESETS:
            return float(np.count_nonzero(np.diff(values) < 0))


def _matching(found: dict[str, list[Series]], metric: str, selector: Selector) -> Iterator[Series]:
    return (one for one in found.get(metric, []) if all(matcher(one.labels) for matcher in selector))


def read_file(path: str) -> OpenMetricsSource:
    """The source of a file, or of standard input for "-"; raises SourceError."""
    if path == "-" and sys.stdin is None:
        raise SourceError("standard input is closed")
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode("utf-8")
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SourceError(f"{path}: not text (byte {exc.start})") from exc
    origin = "standard input" if path == "-" else path
    return parse(text, origin)
