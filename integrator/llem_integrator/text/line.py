"""Parses single lines of OpenMetrics, of Prometheus's text format, and of `promtool tsdb dump`.

Source: https://prometheus.io/docs/specs/om/open_metrics_spec/,
https://prometheus.io/docs/instrumenting/exposition_formats/ and Prometheus's cmd/promtool/tsdb.go.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from llem_integrator.series.matchers import go_unescaped
from llem_integrator.series.samples import Values

_SERIES: Final = rb"""(?:[^\s{}"#]++)?+(?:\{(?:[^"}\n]|"(?:[^"\\]|\\.)*+")*+\})?+"""
_LINE: Final = re.compile(rb"(" + _SERIES + rb""") (\{[^\n]*\}|\S+)(?: (\S+))?(?: # .*)?\r?""")
"""Series, value and time, and perhaps an exemplar. A value in braces is a native histogram."""
_QUOTED: Final = rb'"((?:[^"\\]|\\.)*+)"'
_LABEL: Final = re.compile(rb"\s*(?:" + _QUOTED + rb"|([^\s\"=,{}]+))(=" + _QUOTED + rb")?\s*(?:,|$)")
"""A quoted name without a value is the metric's. promtool 3.16 prints UTF-8 names without quotes."""
_NAME: Final = re.compile(rb"[^\s{}\"#\d.+-][^\s{}\"#]*")
_ESCAPE: Final = re.compile(rb'\\([\\n"])')
_QUOTED_TO_END: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?+')
_HEAD: Final = re.compile(rb"(?![\d.+-]+(?: |$))(?=.)(?:[^\s{}][^{}]*)?(?:\{[^{}]*\}[^{}]*){0,2}")
"""Name, labels and value, without what was in quotes: not only numbers, and braces in pairs."""
_NUMERIC: Final = b"0123456789.+-eENanIf \n"


class Sample(NamedTuple):
    """The tokens of a sample's line; `time` is None if the sample has no timestamp."""

    series: bytes
    value: bytes
    time: bytes | None


class ParsedSeries(NamedTuple):
    """A metric name with labels; `dumped` is true for the form of `promtool tsdb dump`, {__name__="..."}."""

    metric: str
    labels: dict[str, str]
    dumped: bool


def parse_line(line: bytes) -> Sample:
    """Return the tokens of a line; raises ValueError if it is not a sample."""
    match = _LINE.fullmatch(line)
    if not match or not match[1]:
        raise ValueError("not a sample")
    return Sample(match[1], match[2], match[3])


def number(token: bytes) -> float:
    """Return a value or a time; raises ValueError if it is not a number."""
    try:
        if b"_" not in token:  # Python reads 1_0 as 10
            return float(token)
    except ValueError:
        pass
    raise ValueError("not a sample")


def pairs(tails: Sequence[bytes]) -> Values:
    """Return values and times (2, n) of lines' ends; raises ValueError if any is not in its plainest form."""
    text = b"".join(tails)
    tokens = text.split()
    if text.translate(None, _NUMERIC) or len(tokens) != 2 * len(tails):
        raise ValueError("not samples")
    return np.array(list(map(float, tokens)), np.float64).reshape(-1, 2).T


def parse_series(series: bytes) -> ParsedSeries:
    """Return name and labels; raises ValueError if they are invalid, UnicodeDecodeError if not UTF-8."""
    bare, brace, body = series.partition(b"{")
    if (bare and not _NAME.fullmatch(bare)) or (brace and not body.endswith(b"}")):
        series.decode()
        raise ValueError("not a series")
    name, escaped = bare, dict[bytes, bytes]()
    body = body.removesuffix(b"}").strip()
    position = 0
    while position < len(body):
        pair = _LABEL.match(body, position)
        if not pair:
            body.decode()
            raise ValueError("not a series")
        quoted, plain, has_value, value = pair.groups()
        if has_value is not None:
            escaped[plain if quoted is None else quoted] = value
        elif name or quoted is None:
            raise ValueError("not a series")
        else:
            name = quoted
        position = pair.end()
    dumped = not name and b"__name__" in escaped
    unescaped = go_unescaped if dumped else _unescaped
    labels = {unescaped(label).decode(): unescaped(value).decode() for label, value in escaped.items()}
    metric = labels.pop("__name__", unescaped(name).decode())
    if not metric:
        raise ValueError("not a series")
    return ParsedSeries(metric, labels, dumped)


def _unescaped(value: bytes) -> bytes:
    """Return text with the escapes of the format resolved; Prometheus keeps unknown ones, too."""
    return _ESCAPE.sub(lambda escape: b"\n" if escape[1] == b"n" else escape[1], value)


def has_shape_of_sample(line: bytes) -> bool:
    """Return whether a line has a name and ends in a number, with quotes and braces in pairs.

    Such a line may be a sample of a metric or label with an unusual name, which promtool does not quote.
    """
    head, _, last = _QUOTED_TO_END.sub(b"", line).rpartition(b" ")
    try:
        number(last)
    except ValueError:
        return False
    return bool(_HEAD.fullmatch(head)) and line.endswith(last) and b"\0" not in line
