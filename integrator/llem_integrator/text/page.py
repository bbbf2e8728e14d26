"""Collects the samples of a text: most lines in bulk, unusual ones one by one."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from math import nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.errors import SourceError
from llem_integrator.series.samples import Values, make_series
from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.stores.spool import Spool
from llem_integrator.text.line import Sample, has_shape_of_sample, number, pairs, parse_line, parse_series

_MOST_KNOWN: Final = 100_000
"""Spellings of series that are remembered."""
_SPACE, _NEWLINE = b" \n"
_NOT_KEPT: Final = -1
_UNUSUAL: Final = -9
_LEAST_MS: Final = 1e11
"""A larger time is in milliseconds (from March 1973 on). In seconds it would be after the year 5138."""
_END_MS: Final = 1e14


Places = NDArray[np.int64]
Codes = NDArray[np.int64]
"""For each sample twice the number of its series (_NOT_KEPT for other programs'), plus 1 if it is dumped."""


class Page:
    """The samples of a text so far; `origin` names it in errors.

    Times are in seconds in OpenMetrics, and in milliseconds in promtool's dumps and in Prometheus's text
    format 0.0.4, which is recognised by the size of its times. Only OpenMetrics has an end mark.

    A line that is not a valid sample is an error, unless it must be another program's: it has the shape of a
    sample, and none of `names` is in it.
    """

    def __init__(self, origin: str, extra_labels: Mapping[str, str], names: Collection[str] | None) -> None:
        self._origin, self._extra_labels, self._names = origin, extra_labels, names
        own = b"|".join(re.escape(name.encode()) for name in names or ())
        self._own = re.compile(rb'(?:%b)[{ ]|(?:\{|__name__=)"(?:%b)"' % (own, own))
        self._spool = Spool(origin)
        self._known: dict[bytes, int] = {}
        self._facts: dict[int, float] = {}
        self._timed: set[int] = set()
        self._lines = 0
        self._other_metric = ""
        self._any_samples = self._in_seconds = self._in_ms = False
        self._ended, self._complete = False, True

    def feed(self, text: bytes) -> None:
        """Add lines. Only the very last line of a text may lack its newline."""
        self._complete = text.endswith(b"\n")
        if not self._complete:
            text += b"\n"
        if stripped := text.rstrip():
            self._ended = stripped[stripped.rfind(b"\n") + 1 :].strip() == b"# EOF"
        starts, tails, ends = _places(text)
        changes = _changes(text, starts, tails)
        codes = self._codes(_slices(text, starts[changes], tails[changes]))
        codes = np.repeat(codes, np.diff(changes, append=len(starts)))
        unusual = np.flatnonzero(codes == _UNUSUAL).tolist()
        for rows, add in (
            (np.flatnonzero(codes >= 0), self._add),
            (np.flatnonzero((codes < 0) & (codes != _UNUSUAL)), self._note_others),
        ):
            try:
                add(codes[rows], *pairs(_slices(text, tails[rows], ends[rows] + 1)))
            except ValueError:
                unusual += rows.tolist()
        for row in sorted(unusual):
            self._read_alone(text[starts[row] : ends[row]], self._lines + row + 1)
        self._lines += len(starts)

    def source(self, *, maybe_empty: bool) -> LoadedSource:
        """Return the source; raises SourceError if the text is truncated or has no timestamps."""
        if self._any_samples and not self._timed and not maybe_empty:
            raise SourceError(
                f"{self._origin}: no sample has a timestamp: a page of /metrics is not a history"
            )
        if not self._ended and (self._in_seconds or not self._in_ms):
            raise SourceError(
                f"{self._origin}: its last line is not '# EOF': truncated, or not OpenMetrics "
                "(if it is complete, append that line)"
            )
        if not self._ended and not self._complete:
            raise SourceError(f"{self._origin}: truncated: its last line, {self._lines}, has no newline")
        self._spool.close()
        labels, metrics = self._spool.labels, self._spool.metrics
        facts = (
            make_series(labels[number], np.zeros(1, np.int64), np.array([value]), metrics[number])
            for number, value in self._facts.items()
            if number not in self._timed
        )
        own_facts = [fact for fact in facts if len(fact)]
        return LoadedSource(self._origin, self._spool, own_facts, self._other_metric)

    def _codes(self, written: Sequence[bytes]) -> Codes:
        """Return the code of each series as it is written, and _UNUSUAL for what is not a series."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        for series in set(written) - self._known.keys():
            with suppress(ValueError):
                self._code(series)
        return np.array([self._known.get(series, _UNUSUAL) for series in written], np.int64)

    def _code(self, written: bytes) -> int:
        """Return twice the number of a series, plus 1 if dumped; raises ValueError for invalid text."""
        if written not in self._known:
            metric, labels, dumped = parse_series(written)
            series = _NOT_KEPT
            if self._names is None or metric in self._names:
                series = self._spool.number(metric, {**labels, **self._extra_labels})
            else:
                self._other_metric = self._other_metric or metric
            self._known[written] = 2 * series + dumped
        return self._known[written]

    def _add(self, codes: Codes, values: Values, times: Values) -> None:
        """Add samples (n,); raises ValueError, and adds nothing, if a time is out of range."""
        in_ms = (codes & 1 == 1) | (np.abs(times) >= _LEAST_MS)
        unix_ms = np.where(in_ms, times, times * 1000)
        if not np.all(np.abs(unix_ms) < _END_MS):  # NaN compares as false
            raise ValueError("a timestamp is not in unix seconds or milliseconds")
        self._any_samples |= len(codes) > 0
        self._in_ms |= bool(in_ms.any())
        self._in_seconds |= not in_ms.all()
        series = codes >> 1
        self._timed.update(np.unique(series).tolist())
        real = ~np.isnan(values)  # stale markers are printed as NaN
        self._spool.add(series[real], np.rint(unix_ms[real]).astype(np.int64), values[real])

    def _note_others(self, codes: Codes, _: Values, times: Values) -> None:
        """Note the form of other programs' samples (n,)."""
        if len(codes):
            self._any_samples = True
            self._timed.add(_NOT_KEPT)
            self._in_ms |= bool(codes[0] & 1) or bool(_LEAST_MS <= times[0] < _END_MS)

    def _read_alone(self, line: bytes, line_number: int) -> None:
        """Add a line that may be anything."""
        if not line.strip() or line.startswith(b"#"):
            return
        try:
            self._add_alone(parse_line(line))
        except ValueError as exc:
            if self._names is not None and not self._own.search(line) and has_shape_of_sample(line):
                return
            shown = line[:80].decode("utf-8", "replace")
            what = _fault(line, exc)
            raise SourceError(f"{self._origin}: line {line_number}: {what}: {shown!r}") from None

    def _add_alone(self, sample: Sample) -> None:
        code = self._code(sample.series)
        histogram = code < 0 and sample.value.startswith(b"{")
        value = nan if histogram else number(sample.value)
        self._any_samples = True
        if sample.time is not None:
            add = self._note_others if code < 0 else self._add
            add(np.array([code]), np.array([value]), np.array([number(sample.time)]))
        elif code >= 0:
            self._facts[code >> 1] = value


def _places(text: bytes) -> tuple[Places, Places, Places]:
    """Return where each line (n,) starts, where its last but one space is, and where it ends.

    A line with fewer than two spaces has its start instead.
    """
    raw = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(raw == _NEWLINE)
    starts = np.append(0, ends[:-1] + 1)
    spaces = np.concatenate([[-1, -1], np.flatnonzero(raw == _SPACE)])
    tails = spaces[np.searchsorted(spaces, ends) - 2]
    return starts, np.maximum(tails, starts), ends


def _changes(text: bytes, starts: Places, tails: Places) -> Places:
    """Return the rows that may be of another series than the row before: all of them if widths differ."""
    widths = np.unique(tails - starts)
    if len(widths) != 1 or not widths[0]:
        return np.arange(len(starts))
    raw = np.frombuffer(text, np.uint8)
    series = np.lib.stride_tricks.sliding_window_view(raw, int(widths[0]))[starts]
    return np.flatnonzero(np.append(True, (series[1:] != series[:-1]).any(axis=1)))


def _slices(text: bytes, starts: Places, ends: Places) -> list[bytes]:
    # Lists of tokens, one per line, would keep the garbage collector busy for most of the time.
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _fault(line: bytes, error: ValueError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    return str(error)
