"""Who has had which samples: a cursor for each scraper ID, moved only by proof that a response was read.

Written is not read. What a response carried is *offered*; it is *confirmed* when the scraper's next
request comes on the same connection, since a client uses a connection again only after it has read a
body to its end. On another connection, the unconfirmed response is offered once more, with what is new.
What was offered twice and never confirmed counts as delivered: such a client never reuses connections.
A response whose end could not even be written is no offer, nor one whose connection was then reset: so a
kernel ends a connection of which it holds what nobody has read.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from statistics import median
from typing import Final, Protocol

from llem_core import metrics
from llem_exporter.collectors.builder import MetricBuilder

MAX_SCRAPERS: Final = 32
MAX_ID_CHARACTERS: Final = 128
NEW_EXPORTER_SECONDS: Final = 300.0
"""A scraper that first comes this soon after the exporter's start gets everything since."""

SILENT_INTERVALS: Final = 3
USUAL_INTERVAL_S: Final = 15.0
MAX_RESETS: Final = 3
"""So many resets in a row are taken for unread answers."""


class Holder(Protocol):
    """The readings of one GPU in order of time, numbered from 0; the oldest go, in another thread."""

    def number_after(self, unix_ms: int) -> int:
        """The number of the first reading after a time, be it held or yet to come."""
        ...

    @property
    def oldest_number(self) -> int:
        """The number of the oldest reading that is still held."""
        ...


class RefusedError(Exception):
    """A scraper's request that is not served: HTTP's status, and what the body says."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Mark:
    """A time up to which something holds, and each GPU's number of the first reading after it.

    A GPU that joined later has no number here, which is 0.
    """

    unix_ms: int
    numbers: tuple[int, ...]


@dataclass(slots=True)
class _Scraper:
    """What one ID has had: all up to `taken`. Up to `again` it was offered in the response before the
    last, too, and from there up to `offered` in the last one only.
    """

    address: str
    taken: _Mark
    again: _Mark
    offered: _Mark
    connection: object | None = None
    resets: int = 0
    timeout_s: float | None = None
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def interval_s(self) -> float:
        """Time between its requests: the median of the last five, or what the first one says."""
        steps = [later - earlier for earlier, later in pairwise(self.arrivals_s)]
        return median(steps) if steps else self.timeout_s or USUAL_INTERVAL_S


@dataclass(frozen=True, slots=True)
class Grant:
    """What to answer a scraper: the readings after `after_ms`, all up to `at_least_ms` among them.

    It comes about every `interval_s`.
    """

    after_ms: int
    at_least_ms: int
    interval_s: float


class Handover:
    """The cursors of all scrapers. Used by the event loop alone.

    `gpus` gives all GPUs; one that joins later stands behind the others.
    """

    def __init__(
        self,
        gpus: Callable[[], Sequence[Holder]],
        start_ms: int,
        retention_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self.offered_readings = self.confirmed_readings = self.conflicts = 0
        self._gpus, self._start_ms, self._retention_s = gpus, start_ms, retention_s
        self._monotonic_s, self._start_s = monotonic_s, monotonic_s()
        self._scrapers: dict[str, _Scraper] = {}
        self._evicted = 0

    @property
    def evicted_readings(self) -> int:
        """Readings that went before a known scraper had been offered them, or could be again."""
        return self._evicted + sum(self._lost(scraper) for scraper in self._scrapers.values())

    def connections(self) -> set[object]:
        """Those on which known scrapers came last: each confirms an answer by being used again."""
        return {scraper.connection for scraper in self._scrapers.values()}

    def add_to(self, families: MetricBuilder) -> None:
        """Add the counts to the metrics page, without those who were silent for too long."""
        self._forget_silent(self._monotonic_s())
        families.add(metrics.HISTORY_SCRAPERS, (), len(self._scrapers))
        families.add(metrics.HISTORY_OFFERED, (), self.offered_readings)
        families.add(metrics.HISTORY_CONFIRMED, (), self.confirmed_readings)
        families.add(metrics.HISTORY_EVICTED, (), self.evicted_readings)
        families.add(metrics.HISTORY_CONFLICTS, (), self.conflicts)

    def begin(
        self, name: str, address: str, connection: object, now_ms: int, timeout_s: float | None = None
    ) -> Grant:
        """A request has come: what is confirmed by that, and what to answer it with.

        `now_ms` is the time up to which readings are settled, `timeout_s` the scraper's own timeout.
        Raises RefusedError.
        """
        now_s = self._monotonic_s()
        self._forget_silent(now_s, name)
        scraper = self._scrapers.get(name) or self._new(name, address, now_ms, now_s)
        if address != scraper.address:
            self._take_over(scraper, name, address, now_s)
        if connection is scraper.connection:
            self._confirm(scraper)
        else:
            self._offer_again(scraper)
        scraper.connection, scraper.timeout_s = connection, timeout_s
        scraper.arrivals_s.append(now_s)
        return Grant(scraper.taken.unix_ms, scraper.again.unix_ms, scraper.interval_s)

    def offer(self, name: str, until_ms: int, carried: Sequence[range]) -> None:
        """The response carries each GPU's readings of these numbers: all that are held up to a time."""
        scraper = self._scrapers[name]
        starts, ends = tuple(part.start for part in carried), tuple(part.stop for part in carried)
        self._evicted += _between(scraper.taken.numbers, starts)
        self.offered_readings += _between(starts, ends)
        scraper.taken = _Mark(scraper.taken.unix_ms, starts)
        scraper.again = _Mark(scraper.again.unix_ms, _later(scraper.again.numbers, starts))
        scraper.offered = _Mark(until_ms, ends)

    def broken(self, name: str, connection: object) -> None:
        """The last response on this connection could not be written to its end: it offered nothing."""
        scraper = self._scrapers.get(name)
        if scraper is not None and scraper.connection is connection:
            scraper.again, scraper.offered = scraper.taken, scraper.again
            scraper.connection = None

    def unread(self, connection: object) -> None:
        """This connection was reset, as a kernel does that holds what its client has not read.

        What came last on it was no offer. Of a client that ends every connection so, it is one in the end.
        """
        for name, scraper in self._scrapers.items():
            if scraper.connection is connection and scraper.resets < MAX_RESETS:
                scraper.resets += 1
                self.broken(name, connection)

    def _new(self, name: str, address: str, now_ms: int, now_s: float) -> _Scraper:
        if not 0 < len(name) <= MAX_ID_CHARACTERS or not name.isprintable():
            raise RefusedError(400, f"a scraper's ID is 1 to {MAX_ID_CHARACTERS} printable characters\n")
        if len(self._scrapers) >= MAX_SCRAPERS:
            raise RefusedError(
                429, f"{MAX_SCRAPERS} scrapers are known; one must be silent for a while first\n"
            )
        begins_ms = self._start_ms if now_s - self._start_s < NEW_EXPORTER_SECONDS else now_ms
        mark = _Mark(begins_ms, tuple(gpu.number_after(begins_ms) for gpu in self._gpus()))
        self._scrapers[name] = scraper = _Scraper(address, mark, mark, mark)
        return scraper

    def _take_over(self, scraper: _Scraper, name: str, address: str, now_s: float) -> None:
        """Let another address go on with an ID that has been silent, and refuse it while it is not."""
        if now_s - scraper.arrivals_s[-1] <= SILENT_INTERVALS * scraper.interval_s:
            self.conflicts += 1
            text = (
                f"scraper {name!r} is {scraper.address}: two that share an ID would store half of the "
                "samples each; give each an ID of its own\n"
            )
            raise RefusedError(409, text)
        scraper.address = address

    def _confirm(self, scraper: _Scraper) -> None:
        self.confirmed_readings += _between(scraper.taken.numbers, scraper.offered.numbers)
        scraper.taken = scraper.again = scraper.offered
        scraper.resets = 0

    def _offer_again(self, scraper: _Scraper) -> None:
        """Take what was offered twice as delivered, and offer again what was offered once."""
        self.confirmed_readings += _between(scraper.taken.numbers, scraper.again.numbers)
        scraper.taken, scraper.again = scraper.again, scraper.offered

    def _forget_silent(self, now_s: float, but: str | None = None) -> None:
        """Forget who was silent for as long as readings are held; but who comes back still gets those."""
        for name, scraper in list(self._scrapers.items()):
            if name != but and now_s - scraper.arrivals_s[-1] > self._retention_s:
                self._evicted += self._lost(scraper)
                del self._scrapers[name]

    def _lost(self, scraper: _Scraper) -> int:
        """How many readings beyond what it was offered are held no more."""
        oldest = [gpu.oldest_number for gpu in self._gpus()]
        return _between(scraper.offered.numbers, _later(scraper.offered.numbers, oldest))


def _between(firsts: Sequence[int], ends: Sequence[int]) -> int:
    """How many readings there are between two numbers of each GPU."""
    return sum(end - first for first, end in zip_longest(firsts, ends, fillvalue=0))


def _later(numbers: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    """Of two numbers of each GPU the later."""
    return tuple(max(pair) for pair in zip_longest(numbers, others, fillvalue=0))
