"""The hosts that a job ran on: how their series are found, and which of them show nothing."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from llem_integrator.fetch import LONGEST_PATTERN
from llem_integrator.stores import Matcher

_PORT: Final = re.compile(r":[0-9]+$")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Names of hosts; `label` holds such a name, or its full name, with a port or without."""

    label: str
    names: tuple[str, ...]

    def matchers(self) -> Iterator[Matcher]:
        """The series of these hosts: those of any of these matchers, as stores limit how long one is."""
        names: list[str] = []
        for name in self.names:
            escaped = re.escape(name).replace(r"\-", "-")
            if names and sum(map(len, names)) + len(names) + len(escaped) > LONGEST_PATTERN:
                yield self._any_of(names)
                names = []
            names.append(escaped)
        yield self._any_of(names)

    def _any_of(self, names: list[str]) -> Matcher:
        return Matcher(self.label, "=~", rf"(?:{'|'.join(names)})(?:\..*)?(?::[0-9]+)?")

    def unseen(self, every: Iterable[Mapping[str, str]]) -> list[str]:
        """Those that none of these series is of."""
        seen: set[str] = set()
        for value in {labels.get(self.label, "") for labels in every}:
            name = _PORT.sub("", value)
            while name:
                seen.add(name)
                name = name.rpartition(".")[0]
        return [name for name in self.names if name not in seen]
