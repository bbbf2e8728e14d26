"""Label matchers as in PromQL, to send to a server or to apply to labels here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llem_core.errors import ConfigError

_MATCHER = re.compile(r"""\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*""")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True, slots=True)
class Matcher:
    """One `label op "value"`; a label that is absent has the value ""."""

    label: str
    operator: str
    value: str

    def __call__(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.label, "")
        hit = value == self.value if self.operator in ("=", "!=") else bool(re.fullmatch(self.value, value))
        return hit if self.operator in ("=", "=~") else not hit

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.label}{self.operator}"{value}"'


Selector = tuple[Matcher, ...]
"""Matchers that must all hold."""


def parse_selector(text: str) -> Selector:
    """The matchers of `a="x",b=~"y.*"`, braces optional; raises ConfigError with what is wrong."""
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
        value = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), quoted[1:-1])
        if operator in ("=~", "!~"):
            try:
                re.compile(value)
            except re.error as exc:
                raise ConfigError(f"not a regular expression: {value!r} in {text!r} ({exc})") from exc
        matchers.append(Matcher(label, operator, value))
        position = found.end()
        if position < len(body):
            if body[position] != ",":
                raise ConfigError(f"not a label matcher: {text!r} (put a comma between matchers)")
            position += 1
    return tuple(matchers)


def query(metric: str, selector: Selector) -> str:
    """The PromQL selector of a metric."""
    return f"{metric}{{{','.join(map(str, selector))}}}" if selector else metric
