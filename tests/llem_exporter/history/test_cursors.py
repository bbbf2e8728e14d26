"""Scraper cursors: which samples are offered, confirmed, repeated and evicted."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_exporter.collectors.history import ScraperCollector
from llem_exporter.history.cursors import MAX_ID_CHARACTERS, MAX_SCRAPERS, ScraperCursors, ScrapeRefusedError
from llem_measure.sampling.ring import Ring
from tests.llem_measure.fake_time import FakeTime

T0_MS = 1_795_507_546_000
TICK_MS = 100
RETENTION_S = 900.0
HOME = "10.0.0.1"
OTHER = "10.0.0.2"
UNLIMITED = 10**9

Sample = tuple[int, int]
"""The index of a GPU and the number of one of its samples."""


class Rig:
    """The rings of two GPUs, filled tick by tick, and their cursors."""

    def __init__(self, capacity: int = 100_000) -> None:
        self.time, self.capacity = FakeTime(), capacity
        self.rings = [Ring(capacity), Ring(capacity)]
        self.cursors = ScraperCursors(
            lambda: self.rings,
            TICK_MS / 1000,
            RETENTION_S,
            self.time.monotonic_s,
        )

    def tick(self, count: int = 1, *, gpus: tuple[int, ...] = (0, 1)) -> None:
        for _ in range(count):
            self.time.sleep(TICK_MS / 1000)
            for gpu in gpus:
                self.rings[gpu].append(round(self.time.unix_s() * 1000), 100.0, None)

    def begin(
        self,
        connection: object,
        name: str = "a",
        address: str = HOME,
        timeout_s: float | None = None,
        limit: int | None = UNLIMITED,
    ) -> list[range]:
        return [
            samples.numbers for samples in self.cursors.scrape(name, address, connection, timeout_s, limit)
        ]

    def scrape(
        self, connection: object, *, name: str = "a", address: str = HOME, limit: int = UNLIMITED
    ) -> list[Sample]:
        """Send a request and return the samples in its response."""
        offered = self.begin(connection, name, address, limit=limit)
        return [(gpu, number) for gpu, part in enumerate(offered) for number in part]

    def counts(self) -> tuple[int, int, int]:
        """Return the offered, confirmed and evicted samples."""
        cursors = self.cursors
        return cursors.offered_samples, cursors.confirmed_samples, cursors.evicted_samples

    def metrics(self) -> dict[str, float]:
        """Return the llem_history_* metrics of /metrics."""
        families = ScraperCollector(self.cursors).collect()
        return {sample.name: sample.value for family in families for sample in family.samples}


def ticks(first: int, end: int) -> list[Sample]:
    """Return the samples of both GPUs of these ticks."""
    return [(gpu, number) for gpu in (0, 1) for number in range(first, end)]


def test_the_next_request_on_the_connection_confirms() -> None:
    """A request confirms the previous response. Each response then has only new samples."""
    rig, connection = Rig(), object()
    rig.tick(3)
    assert rig.scrape(connection) == ticks(0, 3)
    assert rig.counts() == (6, 0, 0)
    rig.tick(2)
    assert rig.scrape(connection) == ticks(3, 5)
    assert rig.counts() == (10, 6, 0)
    assert rig.scrape(connection) == []
    assert rig.counts() == (10, 10, 0)


def test_a_new_connection_gets_the_last_response_again() -> None:
    """A new connection gets the last response again and new samples, but no confirmed ones."""
    rig, connection = Rig(), object()
    rig.tick(3)
    rig.scrape(connection)
    rig.tick(3)
    rig.scrape(connection)
    rig.tick(2)
    assert rig.scrape(object()) == ticks(3, 8)
    assert rig.counts() == (22, 6, 0)


def test_samples_that_were_offered_twice_count_as_confirmed() -> None:
    """A client that never reuses a connection gets each sample exactly twice."""
    rig = Rig()
    seen: list[Sample] = []
    for _ in range(5):
        rig.tick(2)
        seen += rig.scrape(object())
    assert {seen.count(sample) for sample in ticks(0, 8)} == {2}
    assert rig.counts() == (36, 12, 0)


def test_new_samples_are_limited_beside_the_repeated_ones() -> None:
    """The limit applies to each GPU. A client that never reuses a connection makes progress."""
    rig, connection = Rig(), object()
    rig.tick(10)
    assert rig.scrape(connection, limit=4) == ticks(0, 4)
    assert rig.scrape(object(), limit=2) == ticks(0, 6)
    assert rig.scrape(connection, limit=2) == ticks(4, 8)
    assert rig.scrape(connection, limit=2) == ticks(8, 10)


def test_a_response_that_was_not_written_to_its_end_is_no_offer() -> None:
    """The response is offered again as often as it fails. Failures of other connections do not count."""
    rig, connections = Rig(), [object() for _ in range(6)]
    rig.tick(2)
    rig.scrape(connections[0])
    for number in (1, 2, 3):
        rig.tick(1)
        assert rig.scrape(connections[number])[:2] == [(0, 0), (0, 1)]
        rig.cursors.write_failed("a", connections[number])
        rig.cursors.write_failed("b", connections[number])
    rig.cursors.write_failed("a", connections[0])
    assert rig.scrape(connections[4]) == ticks(0, 5)
    assert rig.scrape(connections[5]) == ticks(2, 5)
    rig.cursors.write_failed("a", connections[4])
    assert rig.counts() == (4 + 6 + 8 + 10 + 10 + 6, 4, 0)


def test_a_response_on_a_reset_connection_is_no_offer() -> None:
    """A response that was unread when its connection was reset is offered again, even twice in a row."""
    rig, connections = Rig(), [object() for _ in range(4)]
    rig.tick(2)
    for connection in connections[:3]:
        assert rig.scrape(connection) == ticks(0, 2)
        rig.cursors.connection_reset(connection)
        rig.cursors.connection_reset(connection)
    assert rig.scrape(connections[3]) == ticks(0, 2)
    rig.tick(1)
    assert rig.scrape(connections[3]) == ticks(2, 3)
    assert rig.counts() == (4 * 4 + 2, 4, 0)


def test_a_client_that_resets_every_connection_makes_progress() -> None:
    """Such a client gets each sample a few times, and then the next ones."""
    rig = Rig()
    seen: list[Sample] = []
    for _ in range(40):
        rig.tick(1)
        connection = object()
        seen += rig.scrape(connection)
        rig.cursors.connection_reset(connection)
    counts = Counter(seen)
    assert set(counts) == set(ticks(0, 40))
    assert max(counts.values()) == 5


def test_a_connection_is_compared_by_identity() -> None:
    """Two connections that compare equal are different, because ports and names are reused."""
    rig = Rig()
    rig.tick(2)
    rig.scrape(["127.0.0.1", 4000])
    assert rig.scrape(["127.0.0.1", 4000]) == ticks(0, 2)


@pytest.mark.parametrize(("age_s", "samples"), [(299, 10), (301, 0)])
def test_where_an_unknown_id_begins(age_s: int, samples: int) -> None:
    """An unknown ID starts at the exporter's start if that is less than 5 min ago, else now."""
    rig = Rig()
    rig.tick(10)
    rig.time.sleep(age_s - 1)
    assert rig.scrape(object()) == ticks(0, samples)


def test_an_unknown_id_is_not_charged_with_evicted_samples() -> None:
    """Samples that were evicted before the first request of an ID are not counted."""
    rig = Rig(capacity=5)
    rig.tick(8)
    assert rig.scrape(object()) == ticks(3, 8)
    assert rig.counts() == (10, 0, 0)


def test_each_id_has_its_own_cursor() -> None:
    """A confirmation by one ID does not move the cursor of another."""
    rig, first, second = Rig(), object(), object()
    rig.tick(2)
    rig.scrape(first, name="a")
    rig.tick(2)
    rig.scrape(first, name="a")
    assert rig.scrape(second, name="b") == ticks(0, 4)
    assert rig.scrape(first, name="b") == ticks(0, 4)
    assert rig.scrape(first, name="a") == []


def test_a_gpu_that_is_added_later_loses_no_sample() -> None:
    """All samples of the GPU are offered, from its first one on, and evictions are counted."""
    rig, connection = Rig(capacity=8), object()
    rig.tick(3)
    assert rig.scrape(connection) == ticks(0, 3)
    rig.rings.append(Ring(4))
    rig.tick(2, gpus=(0, 1, 2))
    assert rig.scrape(object()) == [*ticks(0, 5), (2, 0), (2, 1)]
    rig.tick(5, gpus=(2,))
    assert rig.scrape(object())[-4:] == [(2, 3), (2, 4), (2, 5), (2, 6)]
    assert rig.counts()[2] == 3  # 0 and 1 were offered once, and number 2 never


def test_an_id_is_short_and_printable() -> None:
    """Empty, too long and unprintable IDs return 400 and are not stored."""
    rig = Rig()
    for name in ("", "x" * (MAX_ID_CHARACTERS + 1), "a\nb", "\x00"):
        with pytest.raises(ScrapeRefusedError, match="1 to 128 printable") as refused:
            rig.begin(object(), name)
        assert refused.value.status == 400
    assert rig.cursors.active_scrapers == 0


def test_the_number_of_ids_is_limited() -> None:
    """The 33rd ID returns 429 until another one was silent for the retention, whose place it takes."""
    rig = Rig()
    rig.begin(object(), "first")
    rig.time.sleep(1)
    for number in range(MAX_SCRAPERS - 1):
        rig.begin(object(), f"id {number}")
    with pytest.raises(ScrapeRefusedError, match="too many scraper IDs: 32 were active") as refused:
        rig.begin(object(), "one too many")
    assert refused.value.status == 429
    rig.time.sleep(RETENTION_S - 0.5)
    assert rig.cursors.active_scrapers == MAX_SCRAPERS - 1
    rig.begin(object(), "one more")
    assert rig.cursors.active_scrapers == MAX_SCRAPERS
    with pytest.raises(ScrapeRefusedError):
        rig.begin(object(), "first")


def test_a_scraper_that_returns_after_the_retention_gets_all_held_samples() -> None:
    """A silent ID is not active, but its cursor is kept. The samples that it missed count as evicted."""
    rig, connection = Rig(capacity=9000), object()
    rig.tick(10)
    rig.scrape(connection)
    rig.scrape(connection)
    rig.tick(9050)
    assert rig.cursors.active_scrapers == 0
    assert rig.counts() == (20, 20, 0)
    assert rig.scrape(object()) == ticks(60, 9060)
    assert rig.cursors.active_scrapers == 1
    assert rig.counts() == (20 + 18_000, 20, 100)


def test_another_address_is_a_conflict_until_three_intervals_of_silence() -> None:
    """Another address gets 409. After three intervals of silence it takes over the cursor."""
    rig, connection = Rig(), object()
    for _ in range(5):
        rig.tick(150)
        rig.scrape(connection)
    rig.tick(449)
    with pytest.raises(ScrapeRefusedError, match=r"already used by 10\.0\.0\.1.*a different ID") as refused:
        rig.begin(object(), address=OTHER)
    assert (refused.value.status, rig.cursors.conflicts) == (409, 1)
    rig.tick(2)
    assert rig.scrape(object(), address=OTHER) == ticks(600, 1201)
    with pytest.raises(ScrapeRefusedError):
        rig.begin(connection)
    assert rig.cursors.conflicts == 2


def test_an_id_that_was_silent_for_the_retention_is_free() -> None:
    """Another address takes it over even if three scrape intervals are longer than the retention."""
    rig = Rig()
    for _ in range(3):
        rig.time.sleep(600)
        rig.begin(object())
    rig.time.sleep(RETENTION_S - 1)
    with pytest.raises(ScrapeRefusedError, match="a different ID"):
        rig.begin(object(), address=OTHER)
    rig.time.sleep(2)
    rig.begin(object(), address=OTHER)


def test_a_response_has_at_most_three_scrape_intervals_of_a_backlog() -> None:
    """The interval is the median of five requests. Before the second one, it is the timeout or 15 s."""
    rig, connection = Rig(), object()
    for ring, number in product(rig.rings, range(9000)):
        ring.append(number, 100.0, None)

    def new_ticks(name: str = "a", timeout_s: float | None = 7.0) -> list[int]:
        return [len(numbers) for numbers in rig.begin(connection, name, timeout_s=timeout_s, limit=None)]

    assert new_ticks("no timeout", None) == [450, 450]
    assert new_ticks() == [210, 210]
    for pause_s, median_s in ((10, 10), (20, 15), (250, 20), (20, 20), (20, 20), (0, 20)):
        rig.time.sleep(pause_s)
        assert new_ticks() == [30 * median_s, 30 * median_s]


def test_evicted_samples_are_counted_once_when_the_scraper_returns() -> None:
    """Samples that were offered once count, too, if they cannot be offered again."""
    rig = Rig(capacity=10)
    rig.tick(4)
    rig.scrape(object())
    rig.tick(11)
    assert rig.scrape(object()) == ticks(5, 15)
    assert rig.counts() == (28, 0, 10)
    rig.scrape(object())
    assert rig.counts() == (48, 0, 10)
    rig.tick(3)
    rig.scrape(object())
    assert rig.counts() == (48 + 6, 20, 10)


def test_samples_of_a_cleared_ring_count_as_evicted() -> None:
    """The samples after the clear are offered from the first one on."""
    rig, connection = Rig(), object()
    rig.tick(3)
    rig.scrape(connection)
    rig.tick(2)
    for ring in rig.rings:
        ring.clear()
    assert rig.scrape(connection) == []
    assert rig.counts() == (6, 6, 4)
    rig.tick(2)
    assert rig.scrape(connection) == ticks(5, 7)
    assert rig.counts() == (10, 6, 4)


def test_the_metrics_page_has_all_figures() -> None:
    """Collecting the metrics twice gives the same figures."""
    rig, connection = Rig(capacity=5), object()
    rig.scrape(connection)
    rig.tick(7)
    rig.scrape(connection)
    rig.scrape(connection)
    with pytest.raises(ScrapeRefusedError):
        rig.begin(connection, address=OTHER)
    assert (
        rig.metrics()
        == rig.metrics()
        == {
            "llem_history_held_samples": 10,
            "llem_history_scrapers": 1,
            "llem_history_offered_samples_total": 10,
            "llem_history_confirmed_samples_total": 10,
            "llem_history_evicted_samples_total": 4,
            "llem_history_conflicts_total": 1,
        }
    )


class Scrape(NamedTuple):
    """A request: whether the client has read the last response, and what happens to this one."""

    reads_last: bool
    keeps_connection: bool
    write_fails: bool
    is_reset: bool
    limit: int


class Ticks(NamedTuple):
    ticks: int
    gpus: tuple[int, ...]


class Clear(NamedTuple):
    gpu: int


class AddGpu(NamedTuple):
    """A GPU that opens later."""


Step = Scrape | Ticks | Clear | AddGpu
CLEAN = Scrape(reads_last=True, keeps_connection=True, write_fails=False, is_reset=False, limit=9)

steps = st.one_of(
    st.builds(Ticks, st.integers(1, 6), st.sets(st.integers(0, 3), min_size=1).map(lambda s: (*s,))),
    st.builds(Scrape, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 9)),
    st.builds(Clear, st.integers(0, 3)),
    st.builds(AddGpu),
)
clean_steps = st.one_of(
    st.builds(Ticks, st.integers(1, 6), st.sets(st.integers(0, 3), min_size=1).map(lambda s: (*s,))),
    st.builds(lambda most: CLEAN._replace(limit=most), st.integers(1, 9)),
    st.builds(AddGpu),
)


@dataclass
class Client:
    """A client that reuses its connection only after it has read the last response to its end.

    `last` are the samples of the last response that was offered and not confirmed.
    """

    rig: Rig
    connection: object = field(default_factory=object)
    last: list[Sample] = field(default_factory=list)
    unread: list[Sample] | None = None
    resets: int = 0
    carried: int = 0
    responses: list[list[Sample]] = field(default_factory=list)
    offers: Counter[Sample] = field(default_factory=Counter)
    confirmed: set[Sample] = field(default_factory=set)
    read: set[Sample] = field(default_factory=set)

    def scrape(self, step: Scrape) -> None:
        same_connection = step.reads_last and step.keeps_connection and self.unread is not None
        if step.reads_last:
            self.read |= set(self.unread or [])
        if not same_connection:
            self.connection = object()
        response = self.rig.scrape(self.connection, limit=step.limit)
        self.responses.append(response)
        self.carried += len(response)
        repeated = [sample for sample in response if sample in self.offers]
        if same_connection:
            self.confirmed |= set(self.last)
            self.resets = 0
            assert not repeated
        assert set(repeated) <= set(self.last), "more than the last response is repeated"
        reset_counts = step.is_reset and self.resets < 3
        if step.write_fails:
            self.rig.cursors.write_failed("a", self.connection)
        if step.is_reset:
            self.rig.cursors.connection_reset(self.connection)
            self.resets += not step.write_fails and reset_counts
        if step.write_fails or reset_counts:
            self.last, self.unread = repeated, None
        else:
            self.offers.update(response)
            self.last, self.unread = response, None if step.is_reset else response

    def run(self, script: list[Step]) -> None:
        """Run the steps, and check that no counter falls."""
        counts = [self.rig.counts()]
        for step in script:
            match step:
                case Scrape():
                    self.scrape(step)
                case Ticks():
                    self.rig.tick(step.ticks, gpus=tuple(gpu for gpu in step.gpus if gpu < self.gpus))
                case Clear():
                    self.rig.rings[step.gpu % self.gpus].clear()
                case AddGpu():
                    self.rig.rings += [Ring(self.rig.capacity)] if self.gpus < 4 else []
            counts.append(self.rig.counts())
        falls = [(a, b) for pair in pairwise(counts) for a, b in zip(*pair, strict=True) if a > b]
        assert not falls

    @property
    def gpus(self) -> int:
        return len(self.rig.rings)

    def all_samples(self) -> set[Sample]:
        """Return every sample that a ring has ever had."""
        rings = enumerate(self.rig.rings)
        return {(gpu, number) for gpu, ring in rings for number in range(ring.held_numbers().stop)}


@given(st.lists(steps, max_size=60), st.integers(3, 12))
def test_each_sample_is_delivered_or_counted_as_evicted(script: list[Step], capacity: int) -> None:
    """This holds for any broken and reset connections, limits, evictions, clears and late GPUs."""
    client = Client(Rig(capacity))
    client.run([CLEAN, *script, *[CLEAN] * 20])
    assert client.last == [], "an offer is left"
    twice = {sample for sample, count in client.offers.items() if count > 1}
    assert max(client.offers.values(), default=0) <= 2
    lost = client.all_samples() - client.confirmed - twice
    assert client.rig.counts() == (client.carried, len(client.confirmed | twice), len(lost))
    assert client.confirmed <= client.read


@given(st.lists(clean_steps, max_size=60))
def test_a_well_behaved_client_gets_each_sample_once_in_order(script: list[Step]) -> None:
    """A client that keeps its connection and reads each response gets every sample exactly once."""
    client = Client(Rig())
    client.run([*script, *[CLEAN] * 60])
    received = [sample for response in client.responses for sample in response]
    assert len(received) == len(set(received))
    assert set(received) == client.all_samples() == client.confirmed
    for gpu in range(client.gpus):
        numbers = [number for index, number in received if index == gpu]
        assert numbers == sorted(numbers)
    assert client.rig.counts() == (len(received), len(received), 0)
