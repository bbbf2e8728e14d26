"""The hosts that a job ran on: matchers for their series, and which of them the source shows."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llem_integrator.series.matchers import Matcher, Selector, escaped, in_patterns
from llem_integrator.windows.window import Window

_PORT: Final = re.compile(r":[0-9]+$")
_ADDRESS: Final = re.compile(r"[0-9.]+")


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names of hosts, and the label that holds a host's name.

    A name and a value of the label match if they differ only in the port, in capitals, or in how much of the
    domain they include.
    """

    label: str
    names: tuple[str, ...]

    def matchers(self) -> Iterator[Matcher]:
        """Yield a regular-expression matcher for the hosts' series, or several if it would be too long."""
        by_domain: dict[tuple[str, ...], list[str]] = {}
        for name in self.names:
            first, *domain = _parts(name)
            by_domain.setdefault(tuple(domain), []).append(escaped(first))
        alternatives = (
            f"(?:{'|'.join(group)}){_start_of(domain)}"
            for domain, firsts in by_domain.items()
            for group in in_patterns(firsts)
        )
        for group in in_patterns(alternatives):
            yield Matcher(self.label, "=~", f"(?i:{'|'.join(group)})(?::[0-9]+)?")

    def matching(self, values: Iterable[str]) -> set[str]:
        """Return the values of the label that name one of the hosts."""
        return _of_same_host(values, self.names)

    def unseen(self, every: Iterable[Mapping[str, str]]) -> list[str]:
        """Return the hosts that none of these label sets belongs to."""
        seen = _of_same_host(self.names, {labels.get(self.label, "") for labels in every})
        return [name for name in self.names if name not in seen]


def common_selectors(windows: Iterable[Window], default: Sequence[Selector]) -> tuple[Selector, ...]:
    """Return selectors for one read of all series that any of the windows selects, and maybe of others.

    The hosts of all windows become one regular expression, or several if it would be too long. `default` are
    the selectors of windows without their own.
    """
    selectors: dict[Selector, None] = {}
    hosts: dict[str, dict[str, None]] = {}
    for window in windows:
        if window.hosts is None:
            selectors |= dict.fromkeys(window.selectors or default)
        else:
            hosts.setdefault(window.hosts.label, {}).update(dict.fromkeys(window.hosts.names))
    for label, names in hosts.items():
        selectors |= dict.fromkeys(on_hosts(Hosts(label, tuple(names)), default))
    return ((),) if () in selectors else tuple(selectors)


def on_hosts(hosts: Hosts, selectors: Iterable[Selector]) -> tuple[Selector, ...]:
    """Return the selectors, limited to series of these hosts."""
    return tuple((*selector, matcher) for matcher in hosts.matchers() for selector in selectors)


def _of_same_host(names: Iterable[str], others: Iterable[str]) -> set[str]:
    """Return the names that name the same host as any of the others."""
    starts = [_starts(other) for other in others]
    wholes = {own[-1] for own in starts}
    parts = {start for own in starts for start in own}
    return {name for name in names if _starts(name)[-1] in parts or not wholes.isdisjoint(_starts(name))}


def _parts(value: str) -> list[str]:
    """Return the parts of a host's name without its port; an IP address is one part."""
    name = _PORT.sub("", value).lower()
    return [name] if _ADDRESS.fullmatch(name) else name.split(".")


@functools.cache
def _starts(value: str) -> tuple[str, ...]:
    """Return `node1`, `node1.a` and `node1.a.org` for node1.a.org:9955."""
    parts = _parts(value)
    return tuple(".".join(parts[:stop]) for stop in range(1, len(parts) + 1))


def _start_of(domain: Sequence[str]) -> str:
    """Return a pattern for the domain, for its first parts, for nothing, and for a longer domain."""
    if not domain:
        return r"(?:\..*)?"
    return rf"(?:\.{escaped(domain[0])}{_start_of(domain[1:])})?"
