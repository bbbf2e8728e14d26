"""Who has had which readings: offered, confirmed, offered again, evicted."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.metrics import METRICS_PAGE
from llem_exporter.collectors.builder import MetricBuilder
from llem_exporter.history.cursors import MAX_ID_CHARACTERS, MAX_SCRAPERS, Grant, Handover, RefusedError
from llem_measure.sampling.ring import Ring
from tests.llem_exporter.fake_time import FakeTime

T0_MS = 1_795_507_546_000
TICK_MS = 100
RETENTION_S = 900.0
HOME = "10.0.0.1"

Reading = tuple[int, int]


class Rig:
    """Two GPUs' rings, filled tick by tick, and their handover; times are ms after T0."""

    def __init__(self, capacity: int = 100_000) -> None:
        self.time = FakeTime()
        self.rings: tuple[Ring, ...] = (Ring(capacity), Ring(capacity))
        self.written = [0, 0]
        self.handover = Handover(lambda: self.rings, T0_MS, RETENTION_S, self.time.monotonic_s)
        self.now_ms = T0_MS

    def tick(self, count: int = 1, *, gpus: tuple[int, ...] = (0, 1)) -> None:
        for _ in range(count):
            self.now_ms += TICK_MS
            self.time.sleep(TICK_MS / 1000)
            for gpu in gpus:
                self.rings[gpu].append(self.now_ms, 100.0, None)
                self.written[gpu] += 1

    def begin(
        self, connection: object, name: str = "a", address: str = HOME, timeout_s: float | None = None
    ) -> Grant:
        return self.handover.begin(name, address, connection, self.now_ms, timeout_s)

    def scrape(
        self, connection: object, *, name: str = "a", address: str = HOME, most_ticks: int = 10**9
    ) -> list[Reading]:
        """A request and what its response carries, as (GPU, number): all there is, or a bite."""
        grant = self.begin(connection, name, address)
        ends_ms = [ring.nth_ms(grant.after_ms, most_ticks) for ring in self.rings]
        end_ms = max(min([self.now_ms, *(ms for ms in ends_ms if ms is not None)]), grant.at_least_ms)
        traces = [ring.copy(grant.after_ms, end_ms + 1) for ring in self.rings]
        carried = [range(trace.first, trace.first + len(trace.times_ms)) for trace in traces]
        self.handover.offer(name, end_ms, carried)
        return [(gpu, number) for gpu, part in enumerate(carried) for number in part]

    def counts(self) -> tuple[int, int, int]:
        """Offered, confirmed and evicted readings."""
        handover = self.handover
        return handover.offered_readings, handover.confirmed_readings, handover.evicted_readings


def ticks(first: int, end: int) -> list[Reading]:
    """The readings of both GPUs of these ticks."""
    return [(gpu, number) for gpu in (0, 1) for number in range(first, end)]


def test_the_next_request_on_the_connection_confirms() -> None:
    """A request confirms the previous response. Each response then has only new readings."""
    rig, connection = Rig(), object()
    rig.tick(3)
    assert rig.scrape(connection) == ticks(0, 3)
    assert rig.counts() == (6, 0, 0)
    rig.tick(2)
    assert rig.scrape(connection) == ticks(3, 5)
    assert rig.counts() == (10, 6, 0)
    assert rig.scrape(connection) == []
    assert rig.counts() == (10, 10, 0)


def test_a_new_connection_is_offered_the_last_response_again_with_what_is_new() -> None:
    """A new connection gets the last response again and new readings, but no confirmed ones."""
    rig, connection = Rig(), object()
    rig.tick(3)
    rig.scrape(connection)
    rig.tick(3)
    rig.scrape(connection)
    rig.tick(2)
    assert rig.scrape(object()) == ticks(3, 8)
    assert rig.counts() == (22, 6, 0)


def test_offered_twice_counts_as_delivered() -> None:
    """A client that never reuses a connection gets every reading exactly twice."""
    rig = Rig()
    seen: list[Reading] = []
    for _ in range(5):
        rig.tick(2)
        seen += rig.scrape(object())
    assert {seen.count(reading) for reading in ticks(0, 8)} == {2}
    assert rig.counts() == (36, 12, 0)


def test_a_response_that_was_not_written_to_its_end_is_no_offer() -> None:
    """A response is offered again for each broken connection. Breaks of other connections do not count."""
    rig, connections = Rig(), [object() for _ in range(6)]
    rig.tick(2)
    rig.scrape(connections[0])
    for number in (1, 2, 3):
        rig.tick(1)
        assert rig.scrape(connections[number])[:2] == [(0, 0), (0, 1)]
        rig.handover.broken("a", connections[number])
        rig.handover.broken("b", connections[number])
    rig.handover.broken("a", connections[0])
    assert rig.scrape(connections[4]) == ticks(0, 5)
    assert rig.scrape(connections[5]) == ticks(2, 5)
    rig.handover.broken("a", connections[4])
    assert rig.counts() == (4 + 6 + 8 + 10 + 10 + 6, 4, 0)


def test_a_connection_that_was_reset_offered_nothing() -> None:
    """A response that was unread at a connection reset is offered again, even twice in a row."""
    rig, connections = Rig(), [object() for _ in range(4)]
    rig.tick(2)
    for connection in connections[:3]:
        assert rig.scrape(connection) == ticks(0, 2)
        rig.handover.unread(connection)
        rig.handover.unread(connection)
    assert rig.scrape(connections[3]) == ticks(0, 2)
    rig.tick(1)
    assert rig.scrape(connections[3]) == ticks(2, 3)
    assert rig.counts() == (4 * 4 + 2, 4, 0)


def test_who_resets_every_connection_gets_on_all_the_same() -> None:
    """A client that resets every connection gets each reading a few times, then the next ones."""
    rig = Rig()
    seen: list[Reading] = []
    for _ in range(40):
        rig.tick(1)
        connection = object()
        seen += rig.scrape(connection)
        rig.handover.unread(connection)
    counts = Counter(seen)
    assert set(counts) == set(ticks(0, 40))
    assert max(counts.values()) == 5


def test_a_connection_is_compared_by_identity() -> None:
    """Two connections that compare equal are different, because ports and names are reused."""
    rig = Rig()
    rig.tick(2)
    rig.scrape(["127.0.0.1", 4000])
    assert rig.scrape(["127.0.0.1", 4000]) == ticks(0, 2)


@pytest.mark.parametrize(("age_s", "gets"), [(299, 10), (301, 0)])
def test_where_an_unknown_id_begins(age_s: int, gets: int) -> None:
    """An unknown ID starts at the exporter's start if that is less than 5 min ago, else now."""
    rig, connection = Rig(), object()
    rig.tick(10)
    rig.time.sleep(age_s - 1)
    rig.now_ms -= 3_600_000 if gets == 0 else 0  # the wall clock may have been set back meanwhile
    rig.handover.begin("a", HOME, connection, max(rig.now_ms, T0_MS + 1000), None)
    assert rig.scrape(connection) == ticks(0, gets)


def test_after_a_break_of_both_kinds_each_id_has_its_own_cursor() -> None:
    """A confirmation by one ID does not move the cursor of another."""
    rig, first, second = Rig(), object(), object()
    rig.tick(2)
    rig.scrape(first, name="a")
    rig.tick(2)
    rig.scrape(first, name="a")
    assert rig.scrape(second, name="b") == ticks(0, 4)
    assert rig.scrape(first, name="b") == ticks(0, 4)
    assert rig.scrape(first, name="a") == []


def test_a_gpu_that_joins_later_is_handed_over_from_its_first_reading_on() -> None:
    """A GPU that joins between an offer and its confirmation, or between two offers, loses no reading."""
    rig, connection = Rig(capacity=8), object()
    rig.tick(3)
    assert rig.scrape(connection) == ticks(0, 3)
    rig.rings, rig.written = (*rig.rings, Ring(4)), [*rig.written, 0]
    rig.tick(2, gpus=(0, 1, 2))
    assert rig.counts() == (6, 0, 0)
    assert rig.scrape(object()) == [*ticks(0, 5), (2, 0), (2, 1)]
    rig.tick(5, gpus=(2,))
    assert rig.counts()[2] == 1  # number 2 of the late one
    assert rig.scrape(object())[-4:] == [(2, 3), (2, 4), (2, 5), (2, 6)]


def test_an_id_has_bounds() -> None:
    """Empty, too long and unprintable IDs return 400 and are not stored."""
    rig = Rig()
    for name in ("", "x" * (MAX_ID_CHARACTERS + 1), "a\nb", "\x00"):
        with pytest.raises(RefusedError, match="1 to 128 printable") as refused:
            rig.begin(object(), name)
        assert refused.value.status == 400
    assert page(rig)["llem_history_scrapers"] == 0


def test_ids_are_bounded_in_number_and_forgotten_after_the_retention() -> None:
    """The 33rd ID returns 429, until another ID was inactive for longer than the retention."""
    rig = Rig()
    rig.begin(object(), "first")
    rig.time.sleep(1)
    for number in range(MAX_SCRAPERS - 1):
        rig.begin(object(), f"id {number}")
    with pytest.raises(RefusedError, match="32 scrapers are known") as refused:
        rig.begin(object(), "one too many")
    assert refused.value.status == 429
    rig.time.sleep(RETENTION_S - 0.5)
    rig.begin(object(), "one more")
    assert page(rig)["llem_history_scrapers"] == MAX_SCRAPERS
    with pytest.raises(RefusedError):
        rig.begin(object(), "first")


def test_who_is_silent_for_the_retention_is_forgotten_while_nobody_asks() -> None:
    """An ID that was inactive for the retention is removed. Its later losses are not counted."""
    rig = Rig(capacity=9000)
    rig.scrape(object())
    rig.tick(9100)
    shown = page(rig)
    assert shown["llem_history_scrapers"] == 0
    assert shown["llem_history_evicted_samples_total"] == 200
    rig.tick(100)
    assert page(rig) == shown


def test_who_comes_back_after_the_retention_gets_what_is_held() -> None:
    """An ID that returns after the retention gets all stored readings. The rest counts as evicted."""
    rig, connection = Rig(capacity=9000), object()
    rig.tick(10)
    rig.scrape(connection)
    rig.scrape(connection)
    rig.tick(9050)
    assert rig.scrape(object()) == ticks(60, 9060)
    assert rig.counts() == (20 + 18_000, 20, 100)


def test_another_address_is_a_conflict_until_three_intervals_of_silence() -> None:
    """Another address gets 409. After three intervals of silence it takes over the cursor."""
    rig, connection = Rig(), object()
    for _ in range(5):
        rig.tick(150)
        rig.scrape(connection)
    rig.tick(449)
    with pytest.raises(RefusedError, match=r"10\.0\.0\.1.*ID of its own") as refused:
        rig.begin(object(), address="10.0.0.2")
    assert (refused.value.status, rig.handover.conflicts) == (409, 1)
    rig.tick(2)
    assert rig.scrape(object(), address="10.0.0.2") == ticks(600, 1201)
    with pytest.raises(RefusedError):
        rig.begin(connection)
    assert rig.handover.conflicts == 2


def test_an_interval_is_the_median_of_five_arrivals_or_the_timeout() -> None:
    """Before the second request, the interval is the scrape timeout or 15 s. An outage has little effect."""
    rig, connection = Rig(), object()
    assert rig.begin(connection, "unsaid").interval_s == 15.0
    assert rig.begin(connection, timeout_s=7.0).interval_s == 7.0
    for pause_s, median_s in ((10, 10), (20, 15), (300, 20), (20, 20), (20, 20)):
        rig.time.sleep(pause_s)
        assert rig.begin(connection, timeout_s=7.0).interval_s == pytest.approx(median_s)


def test_evicted_readings_are_counted_once_and_at_once() -> None:
    """Evictions are counted without a scrape.

    Readings offered once count when they cannot be offered again.
    """
    rig = Rig(capacity=10)
    rig.tick(4)
    rig.scrape(object())
    rig.tick(6)
    assert rig.counts() == (8, 0, 0)
    rig.tick(5)
    assert rig.counts()[2] == 2  # tick 4; ticks 0 to 3 were offered, and may have been read
    assert rig.scrape(object()) == ticks(5, 15)
    assert rig.counts() == (28, 0, 10)
    rig.scrape(object())
    assert rig.counts() == (48, 0, 10)
    rig.tick(3)
    assert rig.counts() == (48, 0, 10)


def test_the_metrics_page_has_the_counts() -> None:
    """The page has all five counts of the hand-over."""
    rig = Rig(capacity=5)
    rig.begin(connection := object())
    rig.handover.offer("a", T0_MS, [range(0), range(0)])
    rig.tick(7)
    rig.scrape(connection)
    rig.scrape(connection)
    with pytest.raises(RefusedError):
        rig.begin(connection, address="10.0.0.2")
    assert page(rig) == {
        "llem_history_scrapers": 1,
        "llem_history_offered_samples_total": 10,
        "llem_history_confirmed_samples_total": 10,
        "llem_history_evicted_samples_total": 4,
        "llem_history_conflicts_total": 1,
    }


def page(rig: Rig) -> dict[str, float]:
    families = MetricBuilder(METRICS_PAGE)
    rig.handover.add_to(families)
    return {sample.name: sample.value for family in families.metrics() for sample in family.samples}


@dataclass
class Client:
    """A client that uses its connection again only after it has read a response to its end.

    `last` is what it was offered once, in the last response that was written whole; `unread` is that
    response, until it is read.
    """

    connection: object = field(default_factory=object)
    last: list[Reading] = field(default_factory=list)
    unread: list[Reading] | None = None
    carried: int = 0
    offers: Counter[Reading] = field(default_factory=Counter)
    confirmed: set[Reading] = field(default_factory=set)
    read: set[Reading] = field(default_factory=set)

    def scrape(self, rig: Rig, step: "Scrape") -> None:
        same = step.reads_last and step.keeps_connection and self.unread is not None
        if step.reads_last:
            self.read |= set(self.unread or [])
        if not same:
            self.connection = object()
        response = rig.scrape(self.connection, most_ticks=step.most_ticks)
        self.carried += len(response)
        repeated = [reading for reading in response if reading in self.offers]
        if same:
            self.confirmed |= set(self.last)
            assert not repeated
        assert set(repeated) <= set(self.last), "more than the last response is repeated"
        if step.breaks:
            rig.handover.broken("a", self.connection)
            self.last, self.unread = repeated, None
        else:
            self.offers.update(response)
            self.last = self.unread = response


class Scrape(NamedTuple):
    """Whether the last response was read, the connection is kept, and this response breaks on its way."""

    reads_last: bool
    keeps_connection: bool
    breaks: bool
    most_ticks: int


class Ticks(NamedTuple):
    ticks: int
    gpus: tuple[int, ...]


steps = st.one_of(
    st.builds(Ticks, st.integers(1, 6), st.sampled_from([(0, 1), (0,), (1,)])),
    st.builds(Scrape, st.booleans(), st.booleans(), st.booleans(), st.integers(1, 9)),
)


@given(st.lists(steps, max_size=60), st.integers(3, 12))
def test_every_reading_is_delivered_or_counted_as_evicted(
    script: list[Ticks | Scrape], capacity: int
) -> None:
    """Holds for any scrapes, broken connections, limits and evictions. Counters never fall."""
    rig, client = Rig(capacity), Client()
    whole = Scrape(reads_last=True, keeps_connection=True, breaks=False, most_ticks=9)
    client.scrape(rig, whole)  # known from now on
    counts = [rig.counts()]
    for step in [*script, *[whole] * 40]:
        match step:
            case Scrape():
                client.scrape(rig, step)
            case Ticks():
                rig.tick(step.ticks, gpus=step.gpus)
        counts.append(rig.counts())
    assert client.last == [], "something is left"
    assert all(a <= b for before, after in pairwise(counts) for a, b in zip(before, after, strict=True))

    everything = {(gpu, number) for gpu in (0, 1) for number in range(rig.written[gpu])}
    twice = {reading for reading, count in client.offers.items() if count > 1}
    assert max(client.offers.values(), default=0) <= 2
    lost = everything - client.confirmed - twice
    assert rig.counts() == (client.carried, len(client.confirmed | twice), len(lost))
    assert client.confirmed <= client.read
