"""What one worker does: a stretch of time of a share of the GPUs, read from the store and summed up.

Workers run this by its name: it needs llem-energy there, and no Dask.
"""

import functools
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from llem_integrator.energy.gaps import Gaps
from llem_integrator.fetch import quiet
from llem_integrator.http.access import HttpConfig
from llem_integrator.http.urls import store_url
from llem_integrator.plan import Stretch
from llem_integrator.power import reader
from llem_integrator.series.samples import Times
from llem_integrator.stores import Matcher, Selector, Source, open_source
from llem_integrator.traces import PowerTraces

LONGEST_MS: Final = 6 * 3_600_000
"""Whole blocks of Prometheus. A worker that is lost loses no more; of shorter ones there is more to merge."""

_SHORTEST_MS: Final = 60_000
_DIGITS: Final = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Store:
    """A source and how it is reached. Neither shows in its text: both may hold secrets."""

    where: str = field(repr=False)
    config: HttpConfig = field(default_factory=HttpConfig, repr=False)

    def opened(self) -> Source:
        """The source; a file is read once by a process."""
        if store_url(self.where) is not None:
            return open_source(self.where, self.config)
        stat = os.stat(self.where) if os.path.exists(self.where) else None  # noqa: PTH110, PTH116
        return _file(self.where, stat and (stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=1)
def _file(path: str, _: tuple[int, int] | None) -> Source:
    return open_source(path)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Samples in a stretch of the series of any selector, for windows with these edges inside it."""

    store: Store
    selectors: tuple[Selector, ...] = field(repr=False)
    stretch: Stretch
    edges_us: Times = field(repr=False)
    gaps: Gaps = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What came of a task."""

    power: PowerTraces
    samples: int
    warnings: tuple[str, ...]


def run(task: Task) -> bytes:
    """The Done of a task, pickled as one: its thousands of small arrays are not sent one by one."""
    source = task.store.opened()
    power = PowerTraces(task.edges_us, task.gaps)
    samples = sum(read.samples for read in reader(source)(task.selectors, task.stretch, power, quiet))
    return pickle.dumps(Done(power, samples, source.warnings), pickle.HIGHEST_PROTOCOL)


def done(answer: bytes) -> Done:
    """What a worker of this cluster returned."""
    found: Done = pickle.loads(answer)  # noqa: S301 (Dask itself trusts its workers so)
    return found


def stretches(whole: Stretch, wanted: int) -> list[Stretch]:
    """A stretch in at least so many parts, if none gets shorter than a minute or longer than a block.

    They begin at multiples of their length, as blocks do.
    """
    first, last = whole
    length = min(LONGEST_MS, max(_SHORTEST_MS, (last + 1 - first) // wanted))
    begins = range(first // length * length, last + 1, length)
    return [(max(first, begin), min(last, begin + length - 1)) for begin in begins]


def shares(count: int) -> list[Selector]:
    """Selectors of which each series has just one: GPUs by their uuid's last digit; at most 16."""
    groups = ["".join(group) for group in np.array_split(list(_DIGITS), min(count, len(_DIGITS)))]
    if len(groups) < 2:
        return [()]
    own = [(Matcher("uuid", "=~", f".*[{group}]"),) for group in groups[:-1]]
    return [*own, (Matcher("uuid", "!~", f".*[{''.join(groups[:-1])}]"),)]


def inside(edges_us: Times, stretch: Stretch) -> Times:
    """The edges in a stretch, and one at its begin."""
    first_us = stretch[0] * 1000
    found = slice(*np.searchsorted(edges_us, [first_us + 1, (stretch[1] + 1) * 1000]).tolist())
    return np.concatenate([[first_us], edges_us[found]])


def tasks(
    store: Store, selectors: Sequence[Selector], stretch: Stretch, power: PowerTraces, parts: int
) -> Iterator[Task]:
    """The tasks of one stretch, in so many shares."""
    edges_us = inside(power.edges_us, stretch)
    for share in shares(parts):
        mine = tuple((*selector, *share) for selector in selectors)
        yield Task(store, mine, stretch, edges_us, power.gaps.copy())
