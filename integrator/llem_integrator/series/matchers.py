"""Label matchers of PromQL, to be sent to a server or applied to labels here."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from llem_core.errors import ConfigError

LABEL: Final = re.compile(r"[a-zA-Z_]\w*", re.ASCII)
_MATCHER: Final = re.compile(
    rf"""\s*({LABEL.pattern})\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*""", re.ASCII
)
_ESCAPE: Final = re.compile(
    rb"""\\(?:([abfnrtv\\"'])|x([0-9a-fA-F]{2})|([0-3][0-7]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)"""
)
_BEYOND_UNICODE: Final = 0x110000
"""chr() raises ValueError for this number, but OverflowError for much larger ones."""
_ESCAPED: Final = bytes.maketrans(b"abfnrtv", b"\a\b\f\n\r\t\v")


@dataclass(frozen=True, slots=True)
class Matcher:
    """A matcher `label op "value"`. A missing label has the value ""."""

    label: str
    operator: str
    value: str

    def __call__(self, labels: Mapping[str, str]) -> bool:
        """Return whether the labels match; raises ConfigError for an invalid regular expression."""
        value = labels.get(self.label, "")
        exact = self.operator in ("=", "!=")
        hit = value == self.value if exact else bool(_compiled(self.value).fullmatch(value))
        return hit if self.operator in ("=", "=~") else not hit

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.label}{self.operator}"{value}"'


Selector = tuple[Matcher, ...]
"""Matchers that must all match."""

LONGEST_PATTERN: Final = 4000
"""Characters of the alternatives in one regular expression. Stores limit the length of a query."""


def any_of(label: str, values: Iterable[str]) -> Iterator[Matcher]:
    """Yield regular-expression matchers for the series whose label has one of these values."""
    for alternatives in in_patterns(map(escaped, values)):
        yield Matcher(label, "=~", "|".join(alternatives))


def in_patterns(alternatives: Iterable[str]) -> Iterator[list[str]]:
    """Yield the alternatives in groups that each fit into one regular expression."""
    group: list[str] = []
    length = 0
    for alternative in alternatives:
        length += len(alternative) + 1
        if group and length > LONGEST_PATTERN:
            yield group
            group, length = [], len(alternative) + 1
        group.append(alternative)
    if group:
        yield group


def escaped(value: str) -> str:
    """Return the value as a regular expression; re.escape writes escapes that RE2 rejects."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value)


def parse_selector(text: str) -> Selector:
    """Return the matchers of `a="x",b=~"y.*"`, with or without braces; raises ConfigError with the reason.

    Regular expressions are not checked: a server has its own syntax, and those used here are compiled then.
    """
    body = text.strip()
    if body.startswith("{") and body.endswith("}"):
        body = body[1:-1]
    matchers: list[Matcher] = []
    position = 0
    while position < len(body):
        found = _MATCHER.match(body, position)
        if not found:
            raise ConfigError(f"not a label matcher: {text!r} (write 'instance=\"node1:9955\"')")
        label, operator, quoted = found.groups()
        matchers.append(Matcher(label, operator, _unquoted(quoted, text)))
        position = found.end()
        if position < len(body):
            if body[position] != ",":
                raise ConfigError(f"not a label matcher: {text!r} (put a comma between matchers)")
            position += 1
    if not matchers:
        raise ConfigError(f"no label matcher in {text!r} (write 'instance=\"node1:9955\"')")
    return tuple(matchers)


def named(metric: str) -> Matcher:
    """Return the matcher of one metric, or of several, whose names are joined by "|"."""
    return Matcher("__name__", "=~" if "|" in metric else "=", metric)


def query(metric: str, selector: Selector) -> str:
    """Return the PromQL selector of one metric, or of several, whose names are joined by "|"."""
    if "|" in metric:
        metric, selector = "", (named(metric), *selector)
    return f"{metric}{{{','.join(map(str, selector))}}}" if selector else metric


def _unquoted(quoted: str, text: str) -> str:
    """Return the text of a PromQL string. Source: Go's strconv.Unquote, which PromQL follows."""
    try:
        return go_unescaped(quoted[1:-1].encode()).decode()
    except ValueError as exc:
        raise ConfigError(f"not a PromQL string: {quoted} in {text!r} ({exc})") from exc


def go_unescaped(body: bytes) -> bytes:
    """Return the text of a Go string given without its quotes; raises ValueError for unknown escapes."""
    return _ESCAPE.sub(_unescaped, body)


def _unescaped(escape: re.Match[bytes]) -> bytes:
    """Return the bytes of one escape; raises ValueError if Go does not have it."""
    letter, byte, octal, short, long = escape.groups()
    if letter:
        return letter.translate(_ESCAPED)
    if byte or octal:
        return bytes([int(byte, 16) if byte else int(octal, 8)])
    if short or long:
        return chr(min(int(short or long, 16), _BEYOND_UNICODE)).encode()
    raise ValueError(f"unknown escape {escape[0].decode('utf-8', 'replace')}; write \\\\ for a backslash")


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as exc:
        raise ConfigError(f"not a regular expression: {pattern[:60]!r} ({exc})") from exc
