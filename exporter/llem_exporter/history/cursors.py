"""Which samples each scraper of /history has received: a cursor for each scraper ID and GPU.

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
from itertools import pairwise
from statistics import median
from typing import Final

from llem_measure.sampling.ring import Ring, Samples

MAX_SCRAPERS: Final = 32
MAX_ID_CHARACTERS: Final = 128
DEFAULT_SCRAPE_INTERVAL_SECONDS: Final = 15.0

NEW_EXPORTER_SECONDS: Final = 300.0
"""A new scraper ID gets everything since the exporter's start until this long after the start."""

BACKLOG_INTERVALS: Final = 3
"""A response has the new samples of at most this many scrape intervals. The next responses have the rest."""

SILENT_INTERVALS: Final = 3
"""Another address may take over an ID that has been silent for this many scrape intervals."""

MAX_RESETS: Final = 3
"""After this many resets in a row, a reset no longer means that the response was not read."""


class ScrapeRefusedError(Exception):
    """A refused request to /history: the HTTP status, and the response body as the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Cursor:
    """Three positions in the samples of one GPU.

    Samples before `confirmed` are confirmed. Those before `repeated` were in the last two responses, and
    those before `offered` were in the last one.
    """

    confirmed: int = 0
    repeated: int = 0
    offered: int = 0


@dataclass(slots=True)
class _Scraper:
    """The cursors of one ID, one for each GPU's samples."""

    address: str
    cursors: dict[Ring, _Cursor]
    connection: object | None = None
    resets: int = 0
    timeout_s: float | None = None
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def interval_s(self) -> float:
        """Return the median time between the last five requests. After one, return the scrape timeout."""
        intervals_s = [later - earlier for earlier, later in pairwise(self.arrivals_s)]
        return median(intervals_s) if intervals_s else self.timeout_s or DEFAULT_SCRAPE_INTERVAL_SECONDS


class ScraperCursors:
    """The cursors of all scrapers, for use in one thread.

    `rings` returns the samples that are held of each GPU. `interval_s` is the time between two samples.
    """

    def __init__(
        self,
        rings: Callable[[], Sequence[Ring]],
        interval_s: float,
        retention_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self.offered_samples = self.confirmed_samples = self.evicted_samples = self.conflicts = 0
        self.rings, self._interval_s, self._retention_s = rings, interval_s, retention_s
        self._monotonic_s, self._start_s = monotonic_s, monotonic_s()
        self._scrapers: dict[str, _Scraper] = {}

    @property
    def active_scrapers(self) -> int:
        """Return how many scrapers sent a request within the retention."""
        return sum(self._silent_s(scraper) <= self._retention_s for scraper in self._scrapers.values())

    def connections(self) -> set[object]:
        """Return the connections of the scrapers' last requests."""
        return {scraper.connection for scraper in self._scrapers.values()}

    def scrape(
        self, name: str, address: str, connection: object, timeout_s: float | None, limit: int | None = None
    ) -> list[Samples]:
        """Record a request and return the samples of each GPU to offer.

        `timeout_s` is the scrape timeout. `limit` is the maximum number of new samples per GPU; samples that
        are sent again do not count. By default, it is the number in three scrape intervals. Raises
        ScrapeRefusedError.
        """
        rings = self.rings()
        scraper = self._scrapers.get(name) or self._add(name, address, rings)
        if address != scraper.address:
            self._take_over(scraper, name, address)
        is_read = connection is scraper.connection
        scraper.connection, scraper.timeout_s = connection, timeout_s
        scraper.resets = 0 if is_read else scraper.resets
        scraper.arrivals_s.append(self._monotonic_s())
        most = limit or max(1, int(BACKLOG_INTERVALS * scraper.interval_s / self._interval_s))
        return [
            self._offer(scraper.cursors.setdefault(ring, _Cursor()), ring, most, is_read=is_read)
            for ring in rings
        ]

    def _offer(self, cursor: _Cursor, ring: Ring, most: int, *, is_read: bool) -> Samples:
        """Confirm what was offered, and return what is offered next."""
        end = cursor.offered if is_read else cursor.repeated
        self.confirmed_samples += end - cursor.confirmed
        repeated, held = cursor.offered, ring.held_numbers()
        samples = ring.copy(range(end, min(max(repeated, held.start) + most, held.stop)))
        numbers = samples.numbers
        self.evicted_samples += numbers.start - end
        self.offered_samples += len(numbers)
        cursor.confirmed, cursor.offered = numbers.start, numbers.stop
        cursor.repeated = max(repeated, numbers.start)
        return samples

    def write_failed(self, name: str, connection: object) -> None:
        """Cancel the last offer, because its response could not be written to this connection."""
        scraper = self._scrapers.get(name)
        if scraper is not None and scraper.connection is connection:
            scraper.connection = None
            for cursor in scraper.cursors.values():
                cursor.repeated, cursor.offered = cursor.confirmed, cursor.repeated

    def connection_reset(self, connection: object) -> None:
        """Cancel the last offer on a connection that its client has reset."""
        for name, scraper in self._scrapers.items():
            if scraper.connection is connection and scraper.resets < MAX_RESETS:
                scraper.resets += 1
                self.write_failed(name, connection)

    def _add(self, name: str, address: str, rings: Sequence[Ring]) -> _Scraper:
        if not 0 < len(name) <= MAX_ID_CHARACTERS or not name.isprintable():
            raise ScrapeRefusedError(
                400, f"a scraper ID must have 1 to {MAX_ID_CHARACTERS} printable characters\n"
            )
        if len(self._scrapers) >= MAX_SCRAPERS:
            longest_silent = max(self._scrapers, key=lambda other: self._silent_s(self._scrapers[other]))
            if self._silent_s(self._scrapers[longest_silent]) <= self._retention_s:
                message = (
                    f"too many scraper IDs: {MAX_SCRAPERS} were active in the last {self._retention_s:g} s. "
                    "Use a fixed ID for each Prometheus.\n"
                )
                raise ScrapeRefusedError(429, message)
            del self._scrapers[longest_silent]
        is_new_exporter = self._monotonic_s() - self._start_s < NEW_EXPORTER_SECONDS
        scraper = self._scrapers[name] = _Scraper(address, {})
        for ring in rings:
            held = ring.held_numbers()
            first = held.start if is_new_exporter else held.stop
            scraper.cursors[ring] = _Cursor(first, first, first)
        return scraper

    def _take_over(self, scraper: _Scraper, name: str, address: str) -> None:
        """Give an ID that has been silent to another address. Raises ScrapeRefusedError if it is active."""
        if self._silent_s(scraper) <= min(SILENT_INTERVALS * scraper.interval_s, self._retention_s):
            self.conflicts += 1
            message = (
                f"scraper ID {name!r} is already used by {scraper.address}. If two scrapers share an ID, "
                "each receives only part of the samples. Set a different ID for each Prometheus.\n"
            )
            raise ScrapeRefusedError(409, message)
        scraper.address = address

    def _silent_s(self, scraper: _Scraper) -> float:
        return self._monotonic_s() - scraper.arrivals_s[-1]
