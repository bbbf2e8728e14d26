"""VictoriaMetrics: raw samples by /api/v1/export, as lines of JSON. It has no remote read.

Source: https://docs.victoriametrics.com/victoriametrics/#how-to-export-data-in-json-line-format
"""

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Final

import numpy as np

from llem_core.errors import SourceError
from llem_integrator.http.client import Abort, Http, Stream
from llem_integrator.series.matchers import Selector, query
from llem_integrator.series.samples import Key, Series, joined, make_series, whole_ms
from llem_integrator.stores.ahead import ahead
from llem_integrator.stores.base import Piece
from llem_integrator.stores.queries.promql import Promql
from llem_integrator.stores.queries.query_result import numbers
from llem_integrator.stores.queries.slabs import TooMuchError, in_slabs, refuse_too_much

_EXPORT: Final = "/api/v1/export"
_PARAMETERS: Final = {"deny_partial_response": "1", "nocache": "1"}
"""All nodes of a cluster or an error, and no cached results that lack the newest samples."""
_HEADERS: Final = {"Accept-Encoding": "identity"}
"""Compression costs the server more than the rest of the answer."""
_TARGET_SAMPLES: Final = 200_000
_ROWS_A_LINE: Final = 10_000
_BLOCK: Final = 1 << 18
_HELD_SLABS: Final = 2
_LONGEST_LINE: Final = 1 << 24

_VALUES: Final = b'},"values":['
"""No label contains this: its quotes would be escaped."""
_TIMES: Final = b'],"timestamps":['


class VictoriaMetricsSource:
    """A VictoriaMetrics, single or as a cluster (the URL then ends with /select/TENANT/prometheus)."""

    def __init__(self, http: Http) -> None:
        self._http = http

    @property
    def address(self) -> str:
        """The URL without secrets."""
        return self._http.address

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return nothing: an export is complete or an error."""
        return ()

    def pieces(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        """Yield every sample in [start_ms, end_ms]."""
        abort = Abort()
        export = partial(self._exported, query(metric, selector), abort)

        def read(first_ms: int, last_ms: int, limit: int) -> tuple[Piece, int]:
            return self._http.patiently(partial(export, first_ms, last_ms, limit))

        fetched = in_slabs(start_ms, end_ms, _TARGET_SAMPLES, read, f"{metric} of {self.address}")
        with closing(ahead(fetched, _HELD_SLABS, abort)) as pieces:
            yield from pieces

    def may_have(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> bool:
        """Return whether the index has such series. If the server does not say, there may be some."""
        return Promql(self._http, _PARAMETERS).label_names(metric, selector, start_ms, end_ms) != set()

    def timeless(self, _selectors: Sequence[Selector]) -> Iterable[Series]:
        return ()

    def _exported(
        self, wanted: str, abort: Abort, start_ms: int, end_ms: int, limit: int
    ) -> tuple[Piece, int]:
        """Return the samples in [start_ms, end_ms] and their number; raises TooMuchError beyond `limit`."""
        # The server truncates seconds to ms: ask for 1 ms more on both sides.
        edges = {"start": _seconds(max(0, start_ms - 1)), "end": _seconds(end_ms + 1)}
        fields = {"match[]": wanted, **edges}
        fields |= {**_PARAMETERS, "max_rows_per_line": str(_ROWS_A_LINE)}
        parts: dict[Key, list[Series]] = {}
        count = 0
        with self._http.open("POST", _EXPORT, fields, headers=_HEADERS) as stream, abort.of(stream):
            if stream.status != 200:
                answer = stream.answer()
                refuse_too_much(answer)
                raise self._http.refusal(_EXPORT, answer)
            stream.check_end()
            for line in _lines(stream, self.address):
                key, part = _part(line, self.address, start_ms, end_ms)
                parts.setdefault(key, []).append(part)
                count += len(part)
                if count > limit:
                    raise TooMuchError(f"more than {limit} samples")
        series = tuple(_series(key, pieces) for key, pieces in parts.items())
        return Piece(start_ms, end_ms, series), sum(map(len, series))


def _series(key: Key, parts: list[Series]) -> Series:
    labels = dict(key)
    metric = labels.pop("__name__", "")
    return joined(labels, parts, metric)


def _seconds(unix_ms: int) -> str:
    """Return a time as all versions read it; they take numbers of few digits for seconds."""
    return f"{unix_ms // 1000}.{unix_ms % 1000:03d}"


def _key(labels: Mapping[str, str]) -> Key:
    return tuple(sorted(labels.items()))


def _lines(stream: Stream, address: str) -> Iterator[bytes]:
    """Yield the lines of a body; raises SourceError if the last one is not complete."""
    held = b""
    while block := stream.read(_BLOCK):
        *lines, held = (held + block).split(b"\n")
        yield from lines
        if len(held) > _LONGEST_LINE:
            raise SourceError(f"{address}{_EXPORT}: a line is longer than {_LONGEST_LINE >> 20} MiB")
    if held:
        raise SourceError(f"{address}{_EXPORT} ends in the middle of a line: {held[:60]!r}")


def _part(line: bytes, address: str, start_ms: int, end_ms: int) -> tuple[Key, Series]:
    """Return the labels and samples of a line; null is a stale marker, which is not a sample."""
    try:
        head, _, samples = line.rpartition(_VALUES)
        values_text, _, times_text = samples.partition(_TIMES)
        values = numbers(values_text)
        unix_ms = whole_ms(numbers(times_text.removesuffix(b"]}")) / 1000)
        if not 0 < len(values) == len(unix_ms):
            raise ValueError("values and timestamps")
        named = {str(name): str(value) for name, value in json.loads(head + b"}}")["metric"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        line_text = reprlib.repr(line)
        raise SourceError(
            f"{address}{_EXPORT}: a line holds something other than samples: {line_text}"
        ) from exc
    stale = np.isnan(values)
    if stale.any():
        unix_ms, values = unix_ms[~stale], values[~stale]
    return _key(named), make_series({}, unix_ms, values, within_ms=(start_ms, end_ms))
