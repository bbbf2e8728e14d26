"""A registry whose collectors may publish samples of the same metric family."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric


class SharedFamiliesRegistry(CollectorRegistry):
    """A registry that joins families of one name, as llem_collector_success of several collectors.

    A page must have the samples of a family in one group, under one HELP and TYPE.
    """

    def collect(self) -> Iterator[Metric]:
        """Yield each family once, with the samples of every collector."""
        families: dict[str, Metric] = {}
        for family in super().collect():
            joined = families.setdefault(family.name, family)
            if joined is not family:
                joined.samples.extend(family.samples)
        yield from families.values()
