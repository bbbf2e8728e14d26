"""What one worker does: a stretch of time of a share of the GPUs, read from the store and summed up.

Workers run this by its name: it needs llem-energy there, and no Dask.
"""

import functools
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from llem_integrator.http.access import HttpConfig
from llem_integrator.http.urls import store_url
from llem_integrator.reading import Question, read_here
from llem_integrator.stores import Matcher, Selector, Source, open_source
from llem_integrator.stores.fetch import quiet
from llem_integrator.windows.stretches import Stretch

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
    """A question about a stretch of time, for a share of the series."""

    store: Store
    question: Question = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """An answered question, and what the store said of its answers."""

    question: Question
    warnings: tuple[str, ...]


def run(task: Task) -> bytes:
    """Return the Done of a task, pickled as one: its thousands of small arrays are not sent one by one."""
    source = task.store.opened()
    read_here(source, task.question, quiet)
    return pickle.dumps(Done(task.question, source.warnings), pickle.HIGHEST_PROTOCOL)


def done(answer: bytes) -> Done:
    """Return what a worker of this cluster returned."""
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


def tasks(store: Store, question: Question, stretch: Stretch, parts: int) -> Iterator[Task]:
    """Yield the tasks of a stretch, in so many shares."""
    for share in shares(parts):
        inside = question.inside(stretch)
        wanted = [
            replace(one, selectors=[(*selector, *share) for selector in one.selectors])
            for one in inside.wanted
        ]
        every = [(*selector, *share) for selector in question.selectors]
        yield Task(store, Question(question.metric, wanted, every))
