"""Which samples each scraper of /history has received: one cursor for each scraper ID.

The samples of a response are *offered*. They are *confirmed* by the next request on the same connection,
because a client reuses a connection only after it has read the response to its end. A request on another
connection gets the unconfirmed samples again, together with new ones. Samples that were offered twice count
as confirmed, so that a client that never reuses a connection makes progress.

A response that could not be written is not an offer. Neither is a response whose connection was reset: the
kernel resets a connection that is closed while it holds unread data.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise, repeat, zip_longest
from statistics import median
from typing import Final

MAX_SCRAPERS: Final = 32
MAX_ID_CHARACTERS: Final = 128

NEW_EXPORTER_SECONDS: Final = 300.0
"""A new scraper ID gets everything since the exporter's start until this long after the start."""

SILENT_INTERVALS: Final = 3
"""Another address may take over an ID that has been silent for this many scrape intervals."""

DEFAULT_INTERVAL_SECONDS: Final = 15.0

MAX_RESETS: Final = 3
"""After this many resets in a row, a reset no longer means that the response was not read."""

Numbers = tuple[int, ...]
"""A sample number for each GPU. Numbers of GPUs that were added later are missing and count as 0."""


class ScrapeRefusedError(Exception):
    """A refused request to /history: the HTTP status, and the response body as the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Scraper:
    """The cursor of one ID.

    Samples before `confirmed` are finished. Those before `repeated` were in the last two responses. Those
    before `offered` were in the last response.
    """

    address: str
    confirmed: Numbers
    repeated: Numbers
    offered: Numbers
    connection: object | None = None
    resets: int = 0
    timeout_s: float | None = None
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def interval_s(self) -> float:
        """Return the median time between the last five requests; before the second, the scrape timeout."""
        intervals_s = [later - earlier for earlier, later in pairwise(self.arrivals_s)]
        return median(intervals_s) if intervals_s else self.timeout_s or DEFAULT_INTERVAL_SECONDS


class ScraperCursors:
    """The cursors of all scrapers. It is used by the event loop only.

    `held_numbers` returns the numbers of the samples that are held of each GPU. A GPU that is added later
    comes last.
    """

    def __init__(
        self,
        held_numbers: Callable[[], Sequence[range]],
        retention_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self.offered_samples = self.confirmed_samples = self.evicted_samples = self.conflicts = 0
        self.held_numbers, self._retention_s = held_numbers, retention_s
        self._monotonic_s, self._start_s = monotonic_s, monotonic_s()
        self._scrapers: dict[str, _Scraper] = {}

    @property
    def active_scrapers(self) -> int:
        """Return how many scrapers sent a request within the retention."""
        return sum(self._silent_s(scraper) <= self._retention_s for scraper in self._scrapers.values())

    def connections(self) -> set[object]:
        """Return the connections of the scrapers' last requests."""
        return {scraper.connection for scraper in self._scrapers.values()}

    def begin(
        self,
        name: str,
        address: str,
        connection: object,
        timeout_s: float | None,
        new_samples: Callable[[float], int],
    ) -> list[range]:
        """Take in a request and return, for each GPU, the numbers of the samples to offer.

        `timeout_s` is the scraper's own timeout. `new_samples` returns the most samples of a GPU to offer
        beside the repeated ones, given the scrape interval [s]. Raises ScrapeRefusedError.
        """
        scraper = self._scrapers.get(name) or self._add(name, address)
        if address != scraper.address:
            self._take_over(scraper, name, address)
        if connection is scraper.connection:
            self._confirm(scraper, scraper.offered)
            scraper.repeated, scraper.resets = scraper.offered, 0
        else:
            self._confirm(scraper, scraper.repeated)
            scraper.repeated = scraper.offered
        scraper.connection, scraper.timeout_s = connection, timeout_s
        scraper.arrivals_s.append(self._monotonic_s())
        most, numbers = new_samples(scraper.interval_s), list[range]()
        confirmed, repeated = chain(scraper.confirmed, repeat(0)), chain(scraper.repeated, repeat(0))
        for held, first, repeated_end in zip(self.held_numbers(), confirmed, repeated, strict=False):
            new_end = max(repeated_end, held.start) + most
            numbers.append(range(first, min(new_end, held.stop)))
        return numbers

    def offer(self, name: str, carried: Sequence[range]) -> None:
        """Note the numbers of each GPU's samples that the response carries."""
        scraper = self._scrapers[name]
        first, end = tuple(part.start for part in carried), tuple(part.stop for part in carried)
        self.evicted_samples += _count(scraper.confirmed, first)
        self.offered_samples += _count(first, end)
        scraper.confirmed, scraper.offered = first, end
        scraper.repeated = tuple(map(max, zip_longest(scraper.repeated, first, fillvalue=0)))

    def write_failed(self, name: str, connection: object) -> None:
        """Take back the last offer, because its response could not be written to this connection."""
        scraper = self._scrapers.get(name)
        if scraper is not None and scraper.connection is connection:
            scraper.repeated, scraper.offered = scraper.confirmed, scraper.repeated
            scraper.connection = None

    def connection_reset(self, connection: object) -> None:
        """Take back the last offer on a connection that its client has reset."""
        for name, scraper in self._scrapers.items():
            if scraper.connection is connection and scraper.resets < MAX_RESETS:
                scraper.resets += 1
                self.write_failed(name, connection)

    def _add(self, name: str, address: str) -> _Scraper:
        if not 0 < len(name) <= MAX_ID_CHARACTERS or not name.isprintable():
            raise ScrapeRefusedError(400, f"a scraper ID has 1 to {MAX_ID_CHARACTERS} printable characters\n")
        if len(self._scrapers) >= MAX_SCRAPERS:
            longest_silent = min(self._scrapers, key=lambda other: self._scrapers[other].arrivals_s[-1])
            if self._silent_s(self._scrapers[longest_silent]) <= self._retention_s:
                raise ScrapeRefusedError(
                    429,
                    f"there are {MAX_SCRAPERS} scrapers already; a new one is accepted when one of them has "
                    f"sent no request for {self._retention_s:g} s\n",
                )
            del self._scrapers[longest_silent]
        is_new_exporter = self._monotonic_s() - self._start_s < NEW_EXPORTER_SECONDS
        begin = tuple(held.start if is_new_exporter else held.stop for held in self.held_numbers())
        self._scrapers[name] = scraper = _Scraper(address, begin, begin, begin)
        return scraper

    def _take_over(self, scraper: _Scraper, name: str, address: str) -> None:
        """Give an ID that has been silent to another address. Raises ScrapeRefusedError if it is active."""
        if self._silent_s(scraper) <= min(SILENT_INTERVALS * scraper.interval_s, self._retention_s):
            self.conflicts += 1
            raise ScrapeRefusedError(
                409,
                f"scraper ID {name!r} is used by {scraper.address}; two scrapers with the same ID would "
                "store half of the samples each; give each scraper its own ID\n",
            )
        scraper.address = address

    def _confirm(self, scraper: _Scraper, end: Numbers) -> None:
        self.confirmed_samples += _count(scraper.confirmed, end)
        scraper.confirmed = end

    def _silent_s(self, scraper: _Scraper) -> float:
        return self._monotonic_s() - scraper.arrivals_s[-1]


def _count(first: Numbers, end: Numbers) -> int:
    """Return how many samples of all GPUs have numbers from `first` up to, but not including, `end`."""
    return sum(stop - start for start, stop in zip_longest(first, end, fillvalue=0))
