"""One line of OpenMetrics text, or of what `promtool tsdb dump` prints.

Source: https://prometheus.io/docs/specs/om/open_metrics_spec/ and Prometheus's cmd/promtool/tsdb.go.
"""

import re
from dataclasses import dataclass
from typing import Final

from llem_integrator.series.matchers import go_unescaped

_SERIES: Final = rb"""(?:[^\s{}"#]++)?+(?:\{(?:[^"}\n]|"(?:[^"\\]|\\.)*+")*+\})?+"""
_LINE: Final = re.compile(rb"(" + _SERIES + rb""") (\{[^\n]*\}|\S+)(?: (\S+))?(?: # .*)?\r?""")
"""Series, value and time; what follows is an exemplar. Braces for a value are a native histogram's."""
_QUOTED: Final = rb'"((?:[^"\\]|\\.)*+)"'
_LABEL: Final = re.compile(
    rb"\s*(?:" + _QUOTED + rb"|([a-zA-Z_:][a-zA-Z0-9_:]*))(=" + _QUOTED + rb")?\s*(?:,|$)"
)
"""A quoted name without a value is the metric's, in the form for names that are not plain."""
_NAME: Final = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")
_ESCAPE: Final = re.compile(rb'\\([\\n"])')
_DUMPED: Final = b"{__name__="


@dataclass(frozen=True, slots=True)
class Line:
    """A sample: `series` as it is written, and its value and its time, which is None where there is none."""

    series: bytes
    value: bytes
    time: bytes | None


def parse_line(line: bytes) -> Line:
    """The fields of a sample's line; raises ValueError where it is none."""
    found = _LINE.fullmatch(line)
    if not found or not found[1]:
        raise ValueError("not a sample")
    return Line(found[1], found[2], found[3])


def number(token: bytes) -> float:
    """A value or a time; raises ValueError where it is no number."""
    try:
        if b"_" not in token:  # which Python allows
            return float(token)
    except ValueError:
        pass
    raise ValueError("not a sample")


def is_dumped(series: bytes) -> bool:
    """Whether the line is promtool's: its time is in ms then, and a text of such lines has no end mark."""
    return series.startswith(_DUMPED)


def parse_series(series: bytes) -> tuple[str, dict[str, str]]:
    """Metric name and labels; raises ValueError where they are none, UnicodeDecodeError where no text."""
    bare, brace, body = series.partition(b"{")
    if bare and not _NAME.fullmatch(bare):
        bare.decode()
        raise ValueError("not a series")
    unescaped = go_unescaped if is_dumped(series) else _unescaped
    body = body.removesuffix(b"}")
    name = bare.decode()
    labels: dict[str, str] = {}
    position = 0
    while brace and body[position:].strip():
        pair = _LABEL.match(body, position)
        if not pair:
            body.decode()
            raise ValueError("not a series")
        quoted, plain, has_value, value = pair.groups()
        label = (plain if quoted is None else unescaped(quoted)).decode()
        if has_value is None:
            if name or quoted is None:
                raise ValueError("not a series")
            name = label
        else:
            labels[label] = unescaped(value).decode()
        position = pair.end()
    name = labels.pop("__name__", name)
    if not name:
        raise ValueError("not a series")
    return name, labels


def _unescaped(value: bytes) -> bytes:
    """What is no escape of the format stays as it is, as to Prometheus."""
    return _ESCAPE.sub(lambda escape: b"\n" if escape[1] == b"n" else escape[1], value)
