"""Slurm's host lists: `node[1-3,07],login` is node1, node2, node3, node07 and login."""

import re
from collections.abc import Iterator
from typing import Final

from llem_core.errors import ConfigError

MAX_HOSTS: Final = 100_000
MAX_BRACKETS: Final = 8
"""In one name. Names of clusters contain a rack and a node."""

_ITEM: Final = re.compile(r"(?:[^\[\],\s]|\[[^\[\]\s]*\])+")
_PART: Final = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_RANGE: Final = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


def expand(text: str) -> list[str]:
    """Return the hosts of a list in its order; raises ConfigError for other text and for too many hosts."""
    hosts: list[str] = []
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        if (
            not item
            or item[0].count("[") > MAX_BRACKETS
            or text[item.end() : item.end() + 1] not in ("", ",")
        ):
            raise _not_a_list(text)
        for host in _hosts(item[0], text):
            hosts.append(host)
            if len(hosts) > MAX_HOSTS:
                raise ConfigError(f"the host list {text[:60]!r} names more than {MAX_HOSTS} hosts")
        position = item.end() + 1
    if not hosts or text.endswith(","):
        raise _not_a_list(text)
    return hosts


def _hosts(item: str, text: str) -> Iterator[str]:
    """Yield the hosts of one item. The last bracket changes fastest."""
    part = _PART.match(item)
    if part is None:
        yield ""
        return
    rest = item[part.end() :]
    for start in [part[2]] if part[2] else _numbers(part[1], text):
        for end in _hosts(rest, text):
            yield start + end


def _numbers(body: str, text: str) -> Iterator[str]:
    """Yield the numbers in a bracket, each as wide as the first of its range."""
    for item in body.split(","):
        limits = _RANGE.fullmatch(item)
        if not limits:
            raise _not_a_list(text)
        first, last = limits[1], limits[2] or limits[1]
        if int(last) < int(first):
            raise _not_a_list(text)
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}d}"


def _not_a_list(text: str) -> ConfigError:
    return ConfigError(f"not a host list: {text[:60]!r} (write node[1-4,07],login)")
