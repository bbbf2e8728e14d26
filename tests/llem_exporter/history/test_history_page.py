"""/history over real HTTP: refused requests, the size of a response, its format, and broken connections."""

import gzip
import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llem_exporter.history.cursors import MAX_SCRAPERS
from tests.llem_exporter.history.history_rig import INTERVAL_MS, Client, Rig, served, times_ms
from tests.servers import Exporter, wait_until

SCRAPER = "/history?scraper=prom-a"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
GPUS = 2


@pytest.fixture
def rig() -> Rig:
    """Two GPUs that have been read for 10 s."""
    rig = Rig(GPUS)
    rig.tick(100)
    return rig


@pytest.fixture
def port(rig: Rig) -> Iterator[int]:
    with served(rig) as port:
        yield port


@pytest.fixture
def client(port: int, servers: ExitStack) -> Client:
    client = Client(port)
    servers.callback(client.close)
    return client


def test_neither_id_nor_since_or_both_is_400_with_a_scrape_config(client: Client) -> None:
    """The body contains a scrape config to copy."""
    for query in ("", "?scraper=a&since=0", "?limit=5"):
        answer = client.get(f"/history{query}")
        assert answer.status == 400, query
        for line in ("metrics_path: /history", "params: {scraper: [prom-a]}", 'targets: ["HOST:9955"]'):
            assert line in answer.text, query
        assert "/history?since=UNIX_SECONDS" in answer.text, query


def test_a_scraper_that_would_lose_samples_is_refused(client: Client) -> None:
    """Such a scraper gets 426, "Upgrade Required", and its ID is not stored. `force` overrides this."""
    agents = [
        "Prometheus/2.52.0",
        "Prometheus/2.53.0",
        "Prometheus/2.53.1",
        "Prometheus/2.53.2",
        "Prometheus/2.54.0",
        "Prometheus/",
        "otelcol/0.96.0",
        "otelcol-contrib/0.140.1",
        "aws-otel-collector/v0.40.0",
        "OpenTelemetry-Collector/1.0",
    ]
    refused = {agent: client.get(SCRAPER, User_Agent=agent) for agent in agents}
    assert {agent: answer.status for agent, answer in refused.items()} == dict.fromkeys(agents, 426)
    for agent, answer in refused.items():
        assert answer.headers["Upgrade"] == "HTTP/1.1", agent
        assert "stores only one sample per series in each scrape" in answer.text, agent
    assert client.get("/history?since=0", User_Agent=agents[0]).status == 200
    forced = client.get(f"{SCRAPER}&force=1", User_Agent=agents[0])
    assert (forced.status, len(forced.times_ms)) == (200, 100)


def test_other_scrapers_are_served(client: Client) -> None:
    """Other programs and other versions of Prometheus, even with similar numbers, are served."""
    agents = [
        "Prometheus/2.42.0+ds",
        "Prometheus/2.51.2",
        "Prometheus/2.53.3",
        "Prometheus/2.54.1",
        "Prometheus/2.520.0",
        "Prometheus/3.16.0",
        "vm_promscrape",
        "Alloy/v1.5.0 (linux; docker)",
        "hotel/2.54.0",
    ]
    statuses = {agent: client.get(SCRAPER, User_Agent=agent).status for agent in agents}
    assert statuses == dict.fromkeys(agents, 200)


def test_a_bad_limit_is_400_and_moves_no_cursor(client: Client) -> None:
    """The body has one line. The next valid request gets the samples."""
    for limit in ("0", "-1", "1.5", "many", "", "9" * 10):
        answer = client.get(f"{SCRAPER}&limit={limit}")
        assert (answer.status, answer.text.count("\n")) == (400, 1), limit
        assert "It must be a number of samples" in answer.text, limit
    assert len(client.get(SCRAPER).times_ms) == 100


def test_a_bad_id_is_400(client: Client) -> None:
    """IDs are printable and have a maximum length."""
    for name in ("", "x" * 129, "a%0Ab"):
        answer = client.get(f"/history?scraper={name}")
        assert (answer.status, answer.text) == (400, "a scraper ID must have 1 to 128 printable characters\n")


def test_too_many_ids_are_429(client: Client) -> None:
    """The number of IDs is limited. Known IDs are still served."""
    for number in range(MAX_SCRAPERS):
        assert client.get(f"/history?scraper={number}").status == 200
    assert client.get("/history?scraper=one-more").status == 429
    assert client.get("/history?scraper=0").status == 200


def test_a_scrape_on_the_same_connection_gets_new_samples(rig: Rig, client: Client) -> None:
    """Each sample of every GPU is sent once, in whole ticks."""
    pages = []
    for _ in range(4):
        pages.append(client.get(SCRAPER))
        rig.tick(13)
    for gpu in range(GPUS):
        times = [ms for page in pages for ms in times_ms(page.text, gpu)]
        assert times == list(range(times[0], times[0] + 139 * INTERVAL_MS, INTERVAL_MS))
    assert rig.cursors.confirmed_samples == GPUS * 126


def test_a_new_connection_gets_the_last_response_again(rig: Rig, client: Client) -> None:
    """A new connection also gets new samples. Confirmed samples are not repeated."""
    first = client.get(SCRAPER).times_ms
    rig.tick(5)
    second = client.get(SCRAPER).times_ms
    client.close()
    rig.tick(5)
    third = client.get(SCRAPER).times_ms
    assert (len(first), len(second), len(third)) == (100, 5, 10)
    assert third[:5] == second


def test_a_failed_request_is_not_a_scrape(rig: Rig, client: Client) -> None:
    """Failed requests and /history?since= do not confirm a response or move a cursor."""
    client.get(SCRAPER)
    assert client.get("/history?since=0").status == 200
    assert client.get(f"{SCRAPER}&limit=0").status == 400
    assert rig.cursors.confirmed_samples == 0
    client.close()
    assert len(client.get(SCRAPER).times_ms) == 100


def test_head_moves_no_cursor(rig: Rig, client: Client) -> None:
    """HEAD returns the headers of GET and no body. Its ID is not stored."""
    head = client.get(SCRAPER, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert rig.cursors.offered_samples == 0
    assert len(client.get(SCRAPER).times_ms) == 100
    assert client.get(SCRAPER, method="HEAD").status == 200
    assert rig.cursors.confirmed_samples == 0


def test_another_address_is_409_until_three_silent_intervals(
    rig: Rig, port: int, client: Client, servers: ExitStack
) -> None:
    """The body names the ID and its address. After three intervals, the other address takes over."""
    for _ in range(5):
        rig.tick(50)
        client.get(SCRAPER)
    servers.callback((other := Client(port, "127.0.0.2")).close)
    rig.tick(149)
    refused = other.get(SCRAPER)
    assert (refused.status, rig.cursors.conflicts) == (409, 1)
    assert "'prom-a' is already used by 127.0.0.1" in refused.text
    rig.tick(2)
    assert len(other.get(f"{SCRAPER}&limit=1000").times_ms) == 50 + 151
    assert client.get(SCRAPER).status == 409


def test_two_ids_from_two_addresses_get_all_samples_each(
    rig: Rig, port: int, client: Client, servers: ExitStack
) -> None:
    """Each ID has its own cursor."""
    servers.callback((other := Client(port, "127.0.0.2")).close)
    assert client.get(SCRAPER).times_ms == other.get("/history?scraper=prom-b").times_ms
    rig.tick(7)
    assert client.get(SCRAPER).times_ms == other.get("/history?scraper=prom-b").times_ms


def backlog_ticks(rig: Rig, client: Client, path: str, every_ticks: int, **headers: str) -> list[int]:
    """Return the number of ticks in each of the next responses, up to the first without a backlog."""
    counts = list[int]()
    while not counts or counts[-1] > every_ticks:
        answer = client.get(path, **headers)
        counts.append(len(answer.times_ms))
        assert len(times_ms(answer.text, 1)) == counts[-1], "the response ends within a tick"
        rig.tick(every_ticks)
    return counts


def test_a_response_has_at_most_three_intervals_of_a_backlog(rig: Rig, client: Client) -> None:
    """Before the second request, the scrape timeout is used as the interval."""
    rig.tick(900)
    counts = backlog_ticks(rig, client, SCRAPER, 150, X_Prometheus_Scrape_Timeout_Seconds="10")
    assert counts == [300, 450, 450, 250, 150]


def test_an_invalid_timeout_is_ignored(rig: Rig, client: Client) -> None:
    """With an invalid timeout, the interval is 15 s."""
    rig.tick(900)
    timeouts = ["nonsense", "nan", "inf", "-3", "0", "1e9", ""]
    answers = [
        client.get(f"/history?scraper={number}", X_Prometheus_Scrape_Timeout_Seconds=timeout)
        for number, timeout in enumerate(timeouts)
    ]
    samples = {timeout: len(answer.times_ms) for timeout, answer in zip(timeouts, answers, strict=True)}
    assert samples == dict.fromkeys(timeouts, 450)


def test_a_limit_holds_for_each_response(rig: Rig, client: Client) -> None:
    """`limit` counts samples of all GPUs and series, in whole ticks."""
    assert backlog_ticks(rig, client, f"{SCRAPER}&limit=61", 10) == [30, 30, 30, 30, 20, 10]
    rig.tick(100)
    assert len(client.get(f"{SCRAPER}&limit=41").times_ms) == 20
    assert len(client.get(f"{SCRAPER}&limit=1").times_ms) == 1


def test_repeated_samples_are_not_limited(client: Client) -> None:
    """The last response is repeated whole even if the limit is smaller.

    New samples are added up to the limit, so a client that never reuses a connection makes progress.
    """
    first = client.get(f"{SCRAPER}&limit=120").times_ms
    client.close()
    second = client.get(f"{SCRAPER}&limit=10").times_ms
    assert second[: len(first)] == first
    assert len(second) - len(first) == 5
    client.close()
    third = client.get(f"{SCRAPER}&limit=10").times_ms
    assert (third[:5], len(third)) == (second[-5:], 10)
    assert client.get(f"{SCRAPER}&limit=10").times_ms == [third[-1] + n * INTERVAL_MS for n in range(1, 6)]


def test_samples_that_a_low_limit_loses_are_counted_as_evicted(servers: ExitStack) -> None:
    """The counter has exactly the samples that the ring dropped before they were offered."""
    rig = Rig(GPUS, retention_ms=10_000)
    servers.callback((client := Client(servers.enter_context(served(rig)))).close)
    had = list[int]()
    for _ in range(40):
        rig.tick(15)
        had += client.get(f"{SCRAPER}&limit={10 * GPUS}").times_ms
    ledger = rig.ledgers[0]
    waiting = ledger.ring.held_numbers().stop - ledger.ring.number_after(had[-1])
    assert len(set(had)) == len(had)
    assert rig.cursors.evicted_samples == GPUS * (600 - len(had) - waiting) > 0


def test_the_format_is_negotiated(client: Client) -> None:
    """The format is text 0.0.4 or OpenMetrics, with gzip if accepted."""
    plain = client.get(f"{SCRAPER}-plain")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    zipped = client.get(f"{SCRAPER}-zipped", Accept=OPENMETRICS, Accept_Encoding="gzip")
    assert zipped.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert zipped.headers["Content-Encoding"] == "gzip"
    families = {
        family.name: family
        for family in text_string_to_metric_families(  # type: ignore[no-untyped-call]
            gzip.decompress(zipped.body).decode()
        )
    }
    stamps = [
        round(1000 * float(str(sample.timestamp)))
        for sample in families["llem_gpu_power_trace_watts"].samples
        if sample.labels["gpu"] == "0"
    ]
    assert stamps == plain.times_ms
    assert {"llem_gpu_info", "llem_sampler_interval_seconds"} <= set(families)


def test_a_response_that_could_not_be_written_is_repeated(
    port: int, rig: Rig, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """If a client resets a response several times, nothing is logged, confirmed or lost."""
    path = f"{SCRAPER}&limit=1000000"
    client.get(path)
    rig.tick(4000)
    client.get(path)
    rig.tick(4000)
    client.close()
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            gone = go_away(port, path, read_bytes=100)
            assert gone.startswith(b"HTTP/1.1 200 OK")
            wait_until(lambda: rig.cursors.connections() == {None}, "the server notices")
        assert len(client.get(path).times_ms) == 8000
    assert rig.cursors.confirmed_samples == GPUS * 100
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.fixture(scope="module")
def replayed() -> Iterator[Exporter]:
    """An exporter that has sampled a trace for half a second."""
    with Exporter(args=["--replay", "demo"]) as exporter:
        wait_until(lambda: len(times_ms(exporter.fetch_text("/history?since=0"), 0)) > 5, "samples")
        yield exporter


def test_reset_connections_are_not_logged(replayed: Exporter) -> None:
    """In a real process, clients that reset the connection leave no log line."""
    before = replayed.log()
    for number in range(5):
        go_away(replayed.port, f"/history?scraper={number}", read_bytes=number)
    # The interval between these requests is too short to be useful. So the request has a limit.
    assert len(times_ms(replayed.fetch_text("/history?scraper=0&limit=1000"), 0)) > 5
    assert replayed.log() == before


def test_an_unread_response_is_repeated(replayed: Exporter) -> None:
    """If two scrapes in a row time out with unread responses, the third gets all samples."""
    path = "/history?scraper=p&limit=1000"
    first = times_ms(replayed.fetch_text("/history?since=0"), 0)[0]
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", replayed.port)) as timed_out:
            timed_out.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            arrived = partial(timed_out.recv, 1 << 20, socket.MSG_PEEK)
            wait_until(lambda arrived=arrived: arrived().endswith(b"\r\n0\r\n\r\n"), "the answer")  # type: ignore[misc]
    with closing(Client(replayed.port)) as client:
        assert client.get(path).times_ms[0] == first
        assert client.get(path).times_ms[:1] != [first]


def go_away(port: int, path: str, read_bytes: int) -> bytes:
    """Send a request, read at most `read_bytes` of the response, and reset the connection."""
    with socket.create_connection(("127.0.0.1", port)) as lost:
        lost.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        read = lost.recv(read_bytes) if read_bytes else b""
        lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return read
