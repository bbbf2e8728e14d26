"""Blocks of lines made columns: runs of one series in bulk, everything else line by line."""

from collections.abc import Collection, Mapping
from itertools import pairwise
from math import isnan, nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.errors import SourceError
from llem_integrator.series.samples import Series, Times, Values, whole_ms
from llem_integrator.stores.base import LARGEST, plausible
from llem_integrator.stores.columns import Columns
from llem_integrator.stores.held import HeldSource, fact
from llem_integrator.text.line import Line, is_dumped, number, parse_line, parse_series
from llem_integrator.text.runs import Block

_MOST_KNOWN: Final = 100_000
"""So many spellings of series are remembered."""
_MIXED_LINES: Final = 64
"""After so many lines that were no run, those of known series are read together in any order."""
_MOST_MIXED_LINES: Final = 8192

Mask = NDArray[np.bool_]

_NOT_KEPT: Final = -1
_UNKNOWN: Final = -9
_LARGEST_MS: Final = 2**53
_NO_MS: Final = "a timestamp is not in unix milliseconds"
_NO_SECONDS: Final = "a timestamp is not in unix seconds"


class Page:
    """What a text has said so far; `origin` names it in errors.

    `extra_labels` are added to each series, as a scrape adds them. Of metrics that are not in `names`
    nothing is kept; None is all.
    """

    def __init__(self, origin: str, extra_labels: Mapping[str, str], names: Collection[str] | None) -> None:
        self._origin, self._extra_labels, self._names = origin, extra_labels, names
        self._columns = Columns(origin)
        self._known: dict[bytes, int] = {}
        self._metric: dict[int, str] = {}
        self._untimed: dict[int, float] = {}
        self._timed: set[int] = set()
        self._lines = 0
        self._forms: set[bool] = set()
        self._last_line = self._end_line = 0
        self._whole = True
        # Of the sample before: a run of its series may follow.
        self._head, self._series, self._dumped = b"", _NOT_KEPT, False

    def feed(self, text: bytes) -> None:
        """Lines, of which only the text's very last may have no end."""
        self._whole = text.endswith(b"\n")
        if not self._whole:
            text += b"\n"
        block = Block(text)
        line, batch = 0, 1
        while line < len(block):
            if self._head and (taken := self._run(block, line)):
                line += taken
                batch = 1 if taken >= batch else batch
                continue
            stop = min(line + batch, len(block))
            rest = np.arange(line, stop)
            if batch >= _MIXED_LINES:
                rest = rest[~self._mixed(block, line, stop)]
            for row in rest.tolist():
                self._single(block.line(row), self._lines + row + 1)
            line, batch = stop, min(2 * batch, _MOST_MIXED_LINES)
        self._lines += len(block)

    def source(self, *, maybe_empty: bool) -> HeldSource:
        """All that was said, once the text is over; raises SourceError where that is cut, or no history."""
        ended = 0 < self._last_line == self._end_line
        if not ended and self._forms != {True}:
            # Otherwise missing samples would not be noticed.
            raise SourceError(
                f"{self._origin}: no '# EOF' at the end: cut short, or not OpenMetrics "
                "(if it is whole, add that line)"
            )
        if not ended and not self._whole:
            raise SourceError(f"{self._origin}: its last line, {self._lines}, has no end: cut short")
        if self._forms and not self._timed and not maybe_empty:
            raise SourceError(
                f"{self._origin}: no sample has a timestamp: one page of /metrics is not a history"
            )
        self._columns.close()
        plain: dict[str, list[Series]] = {}
        for series, value in self._untimed.items():
            if series not in self._timed and len(one := fact(self._columns.labels[series], value)):
                plain.setdefault(self._metric[series], []).append(one)
        return HeldSource(self._origin, self._columns, plain)

    def _run(self, block: Block, line: int) -> int:
        """How many lines from here on are of the same series as the sample before, and were taken."""
        numbers = block.run(line, self._head)
        if not len(numbers):
            return 0
        try:
            unix_ms = _whole_ms(numbers[:, 1], dumped=self._dumped)
        except ValueError:  # whose line it is, is found one by one
            return 0
        self._last_line = self._lines + line + len(numbers)
        self._take(self._series, unix_ms, numbers[:, 0])
        return len(numbers)

    def _mixed(self, block: Block, line: int, stop: int) -> Mask:
        """Takes plain samples of known series, in whatever order these come; says which lines they were."""
        heads, lengths = block.heads(line, stop)
        codes = np.array([self._known.get(head, _UNKNOWN) for head in heads])
        known: Mask = codes != _UNKNOWN
        none: Mask = np.zeros(len(codes), np.bool_)
        rows = np.flatnonzero(known)
        numbers = block.numbers(line + rows, lengths[rows] + 1) if len(rows) else None
        if numbers is None:
            return none
        codes, unix_ms = codes[rows], np.empty(len(rows), np.int64)
        try:
            for dumped in (False, True):
                mask = (codes & 1) == dumped
                unix_ms[mask] = _whole_ms(numbers[mask, 1], dumped=dumped)
        except ValueError:
            return none
        order = np.argsort(codes, kind="stable")
        bounds = np.flatnonzero(np.diff(codes[order], prepend=_UNKNOWN, append=_UNKNOWN)).tolist()
        for begin, end in pairwise(bounds):
            some = order[begin:end]
            self._take(int(codes[some[0]]) >> 1, unix_ms[some], numbers[some, 0])
        self._last_line = max(self._last_line, self._lines + line + int(rows[-1]) + 1)
        return known

    def _take(self, series: int, unix_ms: Times, values: Values) -> None:
        """Samples (n,) of one series."""
        self._timed.add(series)
        if series == _NOT_KEPT:
            return
        # A stale marker is printed as NaN: the end of a series, and no bad reading.
        good = ~np.isnan(values)
        if not good.all():
            unix_ms, values = unix_ms[good], values[good]
        if len(values):
            self._columns.add(series, unix_ms, plausible(values))

    def _single(self, text: bytes, line: int) -> None:
        """One line, of which only the end is not there."""
        stripped = text.strip()
        if not stripped:
            return
        self._last_line = max(self._last_line, line)
        if stripped == b"# EOF":
            self._end_line = line
        if text.startswith(b"#"):
            return
        try:
            self._sample(parse_line(text))
        except ValueError as exc:
            shown = text[:80].decode("utf-8", "replace")
            raise SourceError(f"{self._origin}: line {line}: {_fault(text, exc)}: {shown!r}") from None

    def _sample(self, found: Line) -> None:
        code = self._code(found.series)
        series, dumped = code >> 1, bool(code & 1)
        self._forms.add(dumped)
        self._head, self._series, self._dumped = found.series + b" ", series, dumped
        if series == _NOT_KEPT and found.value.startswith(b"{"):
            self._timed.add(series)
            return  # another program's native histogram
        value = number(found.value)
        if found.time is None:
            if series != _NOT_KEPT:
                self._untimed[series] = value
            return
        unix_ms = _one_ms(number(found.time), dumped=dumped)
        self._timed.add(series)
        if series != _NOT_KEPT and not isnan(value):
            self._columns.add_one(series, unix_ms, value if abs(value) <= LARGEST else nan)

    def _code(self, written: bytes) -> int:
        """Twice the number of a series as it is written, and 1 more if it is dumped; raises ValueError."""
        found = self._known.get(written)
        if found is None:
            metric, labels = parse_series(written)
            series = _NOT_KEPT
            if self._names is None or metric in self._names:
                series = self._columns.number(metric, {**labels, **self._extra_labels})
                self._metric[series] = metric
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[written] = 2 * series + is_dumped(written)
        return found


def _fault(text: bytes, found: ValueError) -> str:
    """What is wrong with a line."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return "not text"
    return str(found)


def _whole_ms(times: Values, *, dumped: bool) -> Times:
    """Times (n,) as written, in ms; raises ValueError where one is none."""
    if not dumped:
        return whole_ms(times)
    if not np.all(np.abs(times) < _LARGEST_MS):
        raise ValueError(_NO_MS)
    return np.rint(times).astype(np.int64)


def _one_ms(time: float, *, dumped: bool) -> int:
    """The same of one time."""
    if not abs(time) < (_LARGEST_MS if dumped else _LARGEST_MS / 1000):
        raise ValueError(_NO_MS if dumped else _NO_SECONDS)
    return round(time if dumped else time * 1000)
