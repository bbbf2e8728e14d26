"""One question to a store for series of several selectors: each once, in pieces that ascend in time."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from llem_integrator.series.matchers import Matcher, Selector
from llem_integrator.series.samples import Key, Series
from llem_integrator.stores.base import Piece, Progress, Source, whole

_SLICE_MS: Final = 3_600_000
"""Several selectors are read side by side, so much at a time."""

LONGEST_PATTERN: Final = 4000
"""Characters of a regular expression that stands for many selectors."""


def quiet(_: float) -> None:
    """No progress is shown."""


def combined(selectors: Sequence[Selector]) -> tuple[Selector, ...]:
    """The same series by fewer selectors: those that ask one label for one value each become one pattern."""
    values: dict[str, dict[str, None]] = {}
    others: dict[Selector, None] = {}
    for selector in selectors:
        if not selector:
            return ((),)
        if len(selector) == 1 and selector[0].operator == "=" and selector[0].value:
            values.setdefault(selector[0].label, {})[selector[0].value] = None
        else:
            others[selector] = None
    return (*others, *(one for label, found in values.items() for one in _patterns(label, list(found))))


def _patterns(label: str, values: Sequence[str]) -> Iterator[Selector]:
    first, length = 0, 0
    for number, value in enumerate(values):
        length += len(_escaped(value)) + 1
        if length > LONGEST_PATTERN and number > first:
            yield _any_of(label, values[first:number])
            first, length = number, len(_escaped(value)) + 1
    yield _any_of(label, values[first:])


def _any_of(label: str, values: Sequence[str]) -> Selector:
    if len(values) == 1:
        return (Matcher(label, "=", values[0]),)
    return (Matcher(label, "=~", "|".join(map(_escaped, values))),)


def _escaped(value: str) -> str:
    """The value as a regular expression, for RE2 as for Python; re.escape writes what RE2 does not know."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value)


def fetch(
    source: Source,
    metric: str,
    selectors: Sequence[Selector],
    start_ms: int,
    end_ms: int,
    progress: Progress,
) -> Iterator[Piece]:
    """Yield every sample of any selector in [start_ms, end_ms], each series once.

    `metric` is the name of a metric, or several names joined by "|".
    """
    if len(selectors) == 1:
        yield from source.pieces(metric, selectors[0], start_ms, end_ms, progress)
        return
    for first in range(start_ms, end_ms + 1, _SLICE_MS):
        last = min(first + _SLICE_MS - 1, end_ms)
        series: dict[tuple[str, Key], Series] = {}
        for selector in selectors:
            for one in whole(source.pieces(metric, selector, first, last, quiet)):
                series.setdefault((one.metric, one.key), one)
        yield Piece(first, last, tuple(series.values()))
        progress((last + 1 - start_ms) / (end_ms + 1 - start_ms))
