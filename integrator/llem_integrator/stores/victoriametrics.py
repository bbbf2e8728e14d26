"""VictoriaMetrics: raw samples by /api/v1/export, as lines of JSON; it has no remote read.

Source: https://docs.victoriametrics.com/victoriametrics/#how-to-export-data-in-json-line-format
"""

import json
import re
import reprlib
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from typing import Final

import numpy as np

from llem_core.errors import SourceError
from llem_integrator.http.client import Abort, Http, Stream
from llem_integrator.series.matchers import Selector, query
from llem_integrator.series.samples import Series
from llem_integrator.stores.ahead import Ahead
from llem_integrator.stores.base import Piece, Progress, Summary
from llem_integrator.stores.parts import Part, joined, trimmed
from llem_integrator.stores.promql import RANGE, Promql
from llem_integrator.stores.slabs import Slabs, TooMuchError

_PARAMETERS: Final = {"deny_partial_response": "1", "nocache": "1"}
"""All nodes of a cluster or an error, and nothing that was computed before the newest samples came."""
_TARGET_SAMPLES: Final = 200_000
"""As objects of Python, before they are arrays, samples take 100 bytes each."""
_ROWS_A_LINE: Final = 10_000
_BLOCK: Final = 1 << 18
_HELD_SLABS: Final = 2
_LONGEST_LINE: Final = 1 << 24

_TOO_MUCH: Final = ("max", "limit", "too many")
_VALUES: Final = b'},"values":['
"""No label holds this: its quotes would be escaped."""
_INFINITY: Final = re.compile(rb"(?<![\w])\+?(-?)Inf(?=[,\]])")
"""Versions of 2022 write +Inf, which is not JSON."""
_ANY_INSIDE: Final = f"increase_prometheus({RANGE}) != bool delta_prometheus({RANGE})"
"""Neither looks at the sample before the range. Equal to the last bit where no value falls."""

Key = tuple[tuple[str, str], ...]


class VictoriaMetricsSource:
    """A VictoriaMetrics, single or as a cluster (the URL then ends with /select/TENANT/prometheus)."""

    at_once: Final = 2
    """Connections are each thread's own while it reads; nothing else is shared but what is only added to."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._promql = Promql(http, _PARAMETERS)

    @property
    def address(self) -> str:
        return self._http.address

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._promql.warnings

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        abort, slabs = Abort(), Slabs(start_ms, end_ms, _TARGET_SAMPLES)
        fetched = self._fetched(query(metric, selector), slabs, abort)
        with Ahead(fetched, _HELD_SLABS, abort) as ahead:
            for piece in ahead:
                yield piece
                progress((piece.end_ms - start_ms + 1) / (end_ms - start_ms + 1))

    def summary(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, kind: Summary
    ) -> Iterator[Series]:
        found = self._promql.summary(metric, selector, start_ms, end_ms, kind)
        if kind is not Summary.RESETS:
            return found
        return self._inner_resets(list(found), query(metric, selector), start_ms, end_ms)

    def _inner_resets(self, found: list[Series], wanted: str, start_ms: int, end_ms: int) -> Iterator[Series]:
        """Resets in the range: to resets() a fall into it, from the sample before, is one more.

        _ANY_INSIDE tells whether a value falls inside at all. Where one does and one falls into the range as
        well, the count is one too high.
        """
        inside: dict[Key, bool] = {}
        if any(one.values[0] for one in found):
            told = self._promql.over_range(_ANY_INSIDE, wanted, start_ms, end_ms, Summary.MAX)
            inside = {_key(one.labels): bool(one.values[0]) for one in told}
        for one in found:
            counts = one.values if inside.get(_key(one.labels)) else np.zeros(1)
            yield Series(one.labels, one.unix_ms, counts)

    def _fetched(self, wanted: str, slabs: Slabs, abort: Abort) -> Generator[Piece, None, None]:
        while bounds := slabs.next():
            try:
                piece = self._http.patiently(partial(self._piece, wanted, *bounds, slabs.limit, abort))
            except TooMuchError as exc:
                if not slabs.shorten():
                    raise SourceError(f"{self.address}: 1 s of {wanted} is {exc}") from exc
                continue
            slabs.taken(sum(map(len, piece.series)))
            yield piece

    def _piece(self, wanted: str, start_ms: int, end_ms: int, limit: int, abort: Abort) -> Piece:
        # Seconds become ms by cutting off what follows: 1 ms more on both sides.
        edges = {"start": _seconds(max(0, start_ms - 1)), "end": _seconds(end_ms + 1)}
        fields = {"match[]": wanted, **edges}
        fields |= {**_PARAMETERS, "max_rows_per_line": str(_ROWS_A_LINE)}
        parts: dict[Key, list[Part]] = {}
        count = 0
        with self._http.open("POST", "/api/v1/export", fields) as stream, abort.of(stream):
            self._refused(stream)
            for line in _lines(stream, self.address):
                key, part = _part(line, self.address, start_ms, end_ms)
                parts.setdefault(key, []).append(part)
                count += len(part.unix_ms)
                if count > limit:
                    raise TooMuchError(f"more than {limit} samples")
        return Piece(start_ms, end_ms, tuple(_series(key, found) for key, found in parts.items()))

    def _refused(self, stream: Stream) -> None:
        if stream.status != 200:
            said = stream.rest()[:200].decode("utf-8", "replace").strip()
            if any(words in said for words in _TOO_MUCH):
                raise TooMuchError(f"refused: {said}")
            raise SourceError(f"{self.address} answered {stream.status} to /api/v1/export: {said}")
        if not stream.ends:
            raise SourceError(
                f"{self.address}: the end of its answers cannot be told from a broken connection"
            )


def _series(key: Key, parts: list[Part]) -> Series:
    labels = dict(key)
    return joined(labels.pop("__name__", ""), labels, parts)


def _seconds(unix_ms: int) -> str:
    """A time as all versions read it; numbers of few digits they take for seconds."""
    return f"{unix_ms // 1000}.{unix_ms % 1000:03d}"


def _key(labels: Mapping[str, str]) -> Key:
    return tuple(sorted(labels.items()))


def _lines(stream: Stream, address: str) -> Iterator[bytes]:
    """The lines of a body; the last one must be whole, too."""
    held = b""
    while block := stream.read(_BLOCK):
        *lines, held = (held + block).split(b"\n")
        yield from lines
        if len(held) > _LONGEST_LINE:
            raise SourceError(f"{address} exports a line without an end")
    if held:
        raise SourceError(f"{address}: its export ends in the middle of a line: {held[:60]!r}")


def _part(line: bytes, address: str, start_ms: int, end_ms: int) -> tuple[Key, Part]:
    """One line's labels and samples; null is a stale marker, which is none."""
    try:
        labels, begin, samples = line.rpartition(_VALUES)
        found = json.loads(labels + begin + _INFINITY.sub(rb"\1Infinity", samples))
        values = np.array(found["values"], np.float64)  # null becomes NaN
        unix_ms = np.array(found["timestamps"], np.int64)
        if values.shape != unix_ms.shape or values.ndim != 1:
            raise ValueError("values and timestamps")
        named = {str(name): str(value) for name, value in found["metric"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        raise SourceError(f"{address} exports what is not samples: {reprlib.repr(line)}") from exc
    stale = np.isnan(values)
    if stale.any():
        unix_ms, values = unix_ms[~stale], values[~stale]
    return _key(named), trimmed(unix_ms, values, start_ms, end_ms)
