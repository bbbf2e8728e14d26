"""Which groups of windows select a series: it was read once for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llem_core import metrics
from llem_integrator.series.matchers import Selector

_GPU_LABELS = frozenset(metrics.GPU)


@dataclass(slots=True)
class Routing:
    """The selectors of groups, by number; a group selects a series that matches any of its selectors."""

    groups: Sequence[Sequence[Selector]]
    _labels: tuple[str, ...] = field(init=False)
    _known: dict[tuple[str | None, ...], tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = (matcher.label for group in self.groups for selector in group for matcher in selector)
        self._labels = tuple(dict.fromkeys(every))

    def groups_of(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        """Return the numbers of the groups that select a series with these labels."""
        key = tuple(labels.get(label) for label in self._labels)
        if key not in self._known:
            self._known[key] = tuple(
                number for number, group in enumerate(self.groups) if selects(group, labels)
            )
        return self._known[key]


def selects(selectors: Sequence[Selector], labels: Mapping[str, str]) -> bool:
    """Return whether labels match any of the selectors."""
    return any(all(matcher(labels) for matcher in selector) for selector in selectors)


def of_exporters(selectors: Sequence[Selector]) -> tuple[Selector, ...]:
    """Return the selectors without matchers of GPUs: the series of an exporter itself have no such labels."""
    every = (tuple(one for one in selector if one.label not in _GPU_LABELS) for selector in selectors)
    return tuple(dict.fromkeys(every))
