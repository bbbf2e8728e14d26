"""Blocks of lines made columns: runs of one series in bulk, everything else line by line."""

from collections.abc import Collection, Mapping
from math import isnan, nan
from typing import Final

import numpy as np

from llem_core.errors import SourceError
from llem_integrator.series import Series, Times, Values, whole_ms
from llem_integrator.sources.base import LARGEST, plausible
from llem_integrator.sources.columns import Columns
from llem_integrator.sources.exposition import Line, is_dumped, number, parse_line, parse_series
from llem_integrator.sources.held import HeldSource, fact
from llem_integrator.sources.runs import Block

_MOST_KNOWN: Final = 100_000
"""So many spellings of series are remembered."""
_MOST_SINGLE: Final = 256
"""Lines that are read one by one before runs are looked for again."""
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
        self._known: dict[bytes, int | None] = {}
        self._metric: dict[int, str] = {}
        self._untimed: dict[int, float] = {}
        self._timed: set[int | None] = set()
        self._lines = 0
        self._forms: set[bool] = set()
        self._last_line = b""
        self._whole = True
        # Of the sample before: a run of its series may follow.
        self._head, self._dumped = b"", False
        self._series: int | None = None

    def feed(self, text: bytes) -> None:
        """Lines, of which only the text's very last may have no end."""
        self._whole = text.endswith(b"\n")
        if not self._whole:
            text += b"\n"
        block = Block(text)
        line, singles = 0, 1
        while line < len(block):
            if self._head and (taken := self._run(block, line)):
                line, singles = line + taken, 1
                continue
            stop = min(line + singles, len(block))
            for single in text[block.starts[line] : block.ends[stop - 1]].split(b"\n"):
                line += 1
                self._single(single, self._lines + line)
            singles = min(2 * singles, _MOST_SINGLE)
        self._lines += len(block)

    def source(self, *, maybe_empty: bool) -> HeldSource:
        """All that was said, once the text is over; raises SourceError where that is cut, or no history."""
        ended = self._last_line == b"# EOF"
        if not ended and self._forms != {True}:
            # The samples that are missing, nobody would miss.
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
        self._timed.add(self._series)
        self._last_line = b""
        if self._series is not None:
            values = numbers[:, 0]
            # A stale marker is printed as NaN: the end of a series, and no bad reading.
            good = ~np.isnan(values)
            if not good.all():
                unix_ms, values = unix_ms[good], values[good]
            if len(values):
                self._columns.add(self._series, unix_ms, plausible(values))
        return len(numbers)

    def _single(self, text: bytes, line: int) -> None:
        """One line, of which only the end is not there."""
        stripped = text.strip()
        if not stripped:
            return
        self._last_line = stripped[:8]
        if text.startswith(b"#"):
            return
        try:
            self._sample(parse_line(text))
        except ValueError as exc:
            shown = text[:80].decode("utf-8", "replace")
            raise SourceError(f"{self._origin}: line {line}: {_fault(text, exc)}: {shown!r}") from None

    def _sample(self, found: Line) -> None:
        series = self._number(found.series)
        dumped = is_dumped(found.series)
        self._forms.add(dumped)
        self._head, self._series, self._dumped = found.series + b" ", series, dumped
        if series is None and found.value.startswith(b"{"):
            self._timed.add(None)
            return  # another program's native histogram
        value = number(found.value)
        if found.time is None:
            if series is not None:
                self._untimed[series] = value
            return
        unix_ms = _one_ms(number(found.time), dumped=dumped)
        self._timed.add(series)
        if series is not None and not isnan(value):
            self._columns.add_one(series, unix_ms, value if abs(value) <= LARGEST else nan)

    def _number(self, written: bytes) -> int | None:
        """The number of a series as it is written; None where it is not kept. Raises ValueError."""
        if written in self._known:
            return self._known[written]
        metric, labels = parse_series(written)
        found = None
        if self._names is None or metric in self._names:
            found = self._columns.number(metric, {**labels, **self._extra_labels})
            self._metric[found] = metric
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[written] = found
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
