"""Who has had which samples: a cursor for each scraper ID, moved only by proof that a response was read.

Written is not read. What a response carried is *offered*; it is *confirmed* when the scraper's next
request comes on the same connection, since a client uses a connection again only after it has read a
body to its end. On another connection, the unconfirmed response is offered once more, with what is new.
What was offered twice and never confirmed counts as delivered: such a client never reuses connections.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final, Protocol

from llem_core import metrics
from llem_exporter.collector import Families

MAX_SCRAPERS: Final = 32
MAX_ID_CHARACTERS: Final = 128
NEW_EXPORTER_MS: Final = 300_000
"""A scraper that first comes this soon after the exporter's start gets everything since."""

SILENT_INTERVALS: Final = 3
USUAL_INTERVAL_S: Final = 15.0


class Holder(Protocol):
    """The readings of one GPU in order of time, numbered from 0; the oldest go."""

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
    """A time up to which something holds, and each GPU's number of the first reading after it."""

    unix_ms: int
    numbers: tuple[int, ...]


@dataclass(slots=True)
class _Scraper:
    """What one ID has had: all up to `taken`. Up to `again` it was offered in the response before the
    last, too (`again_readings`), and from there up to `offered` in the last one only (`offered_readings`).
    """

    address: str
    taken: _Mark
    again: _Mark
    offered: _Mark
    again_readings: int = 0
    offered_readings: int = 0
    connection: object | None = None
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
    """The cursors of all scrapers. Used by the event loop alone."""

    def __init__(
        self, gpus: Sequence[Holder], start_ms: int, retention_s: float, monotonic_s: Callable[[], float]
    ) -> None:
        self.offered_readings = self.confirmed_readings = self.conflicts = 0
        self._gpus, self._start_ms, self._retention_s = gpus, start_ms, retention_s
        self._monotonic_s = monotonic_s
        self._scrapers: dict[str, _Scraper] = {}
        self._evicted = 0

    @property
    def evicted_readings(self) -> int:
        """Readings that went before a known scraper had been offered them, or could be again."""
        return self._evicted + sum(self._lost(scraper.offered) for scraper in self._scrapers.values())

    def add_to(self, families: Families) -> None:
        """Add the counts to the metrics page."""
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
        self._forget_silent(now_s)
        scraper = self._scrapers.get(name) or self._new(name, address, now_ms)
        if address != scraper.address:
            self._take_over(scraper, name, address, now_s)
        if connection is scraper.connection:
            self._confirm(scraper)
        else:
            self._offer_again(scraper)
        scraper.connection, scraper.timeout_s = connection, timeout_s
        scraper.arrivals_s.append(now_s)
        return Grant(scraper.taken.unix_ms, scraper.again.unix_ms, scraper.interval_s)

    def offer(self, name: str, until_ms: int, readings: int) -> None:
        """The response carries these readings, the last of them not after `until_ms`."""
        scraper = self._scrapers[name]
        self._evicted += self._lost(scraper.offered)
        self.offered_readings += readings
        scraper.offered_readings = readings - scraper.again_readings
        scraper.offered = self._mark(max(until_ms, scraper.again.unix_ms))

    def _new(self, name: str, address: str, now_ms: int) -> _Scraper:
        if not 0 < len(name) <= MAX_ID_CHARACTERS or not name.isprintable():
            raise RefusedError(400, f"a scraper's ID is 1 to {MAX_ID_CHARACTERS} printable characters\n")
        if len(self._scrapers) >= MAX_SCRAPERS:
            raise RefusedError(
                429, f"{MAX_SCRAPERS} scrapers are known; one must be silent for a while first\n"
            )
        is_new = now_ms - self._start_ms < NEW_EXPORTER_MS
        mark = self._mark(self._start_ms if is_new else now_ms)
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
        self.confirmed_readings += scraper.again_readings + scraper.offered_readings
        scraper.taken = scraper.again = scraper.offered
        scraper.again_readings = scraper.offered_readings = 0

    def _offer_again(self, scraper: _Scraper) -> None:
        """Take what was offered twice as delivered, and offer again what was offered once, if it is held."""
        self.confirmed_readings += scraper.again_readings
        scraper.taken, scraper.again = scraper.again, scraper.offered
        kept = self._lost(scraper.taken) - self._lost(scraper.again)
        self._evicted += kept
        scraper.again_readings, scraper.offered_readings = scraper.offered_readings - kept, 0

    def _forget_silent(self, now_s: float) -> None:
        for name, scraper in list(self._scrapers.items()):
            if now_s - scraper.arrivals_s[-1] > self._retention_s:
                self._evicted += self._lost(scraper.offered)
                del self._scrapers[name]

    def _mark(self, unix_ms: int) -> _Mark:
        return _Mark(unix_ms, tuple(gpu.number_after(unix_ms) for gpu in self._gpus))

    def _lost(self, mark: _Mark) -> int:
        """How many readings after a mark are held no more."""
        pairs = zip(self._gpus, mark.numbers, strict=True)
        return sum(max(0, gpu.oldest_number - number) for gpu, number in pairs)
