"""Passwords: who gets in, what a wrong one costs, and what a flood of them does to others."""

import asyncio
import os
import statistics
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import bcrypt
import pytest
import urllib3

from llem_exporter.auth import (
    MAX_WAITING,
    NICENESS,
    REST,
    WAIT_SECONDS,
    Credentials,
    Verdict,
    Verifier,
    credentials,
)
from tests.llem_exporter.page import MetricsPage
from tests.llem_exporter.web_rig import WebExporter, WebFolder, authorization, hashed
from tests.servers import wait_until

COST = 10
FLOOD_SECONDS = 6.0
FLOOD_CLIENTS = 50

Serve = Callable[..., WebExporter]
ANN = authorization("ann", "word")


@pytest.fixture
def serve(tmp_path: Path, servers: ExitStack) -> Serve:
    """Start an exporter with these users, by name and hash."""
    web = WebFolder(tmp_path)

    def start(**users: str) -> WebExporter:
        return servers.enter_context(WebExporter(web.write(basic_auth_users=users)))

    return start


@pytest.mark.parametrize("path", ["/", "/metrics", "/history?since=0", "/-/healthy", "/-/ready", "/none"])
def test_every_path_wants_a_password(serve: Serve, path: str) -> None:
    """401 and nothing of the page without one, the page with one."""
    exporter = serve(ann=hashed("word"))
    refused = exporter.ask(path)
    assert (refused.status, refused.headers["WWW-Authenticate"][:14]) == (401, 'Basic realm="l')
    assert b"llem_" not in refused.data
    wait_until(lambda: exporter.ask("/-/ready", ANN).status == 200, "ready")
    assert exporter.ask(path, ANN).status == (404 if path == "/none" else 200)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic",
        "Basic ",
        "Basic %%%",
        "Basic YW5u",  # ann, no colon
        "Bearer YW5uOndvcmQ=",
        "Basic YW5uOndvcmQ=x",
        "Basic YW5uOndvcmRz",  # ann:words
        "Basic OndvcmQ=",  # :word
        "Basic YW5uOg==",  # ann:
        "Basic QW5uOndvcmQ=",  # Ann:word
        "Basic YW5uOndvcmQA",  # ann:word and a NUL
        "Basic " + "A" * 8000,
    ],
)
def test_whatever_is_no_password_gets_401(serve: Serve, value: str) -> None:
    """No error of ours, whatever the header holds."""
    exporter = serve(ann=hashed("word"))
    assert exporter.ask(headers={"Authorization": value}).status == 401
    assert exporter.ask(headers={"Authorization": "basic  YW5uOndvcmQ="}).status == 200
    assert "Traceback" not in exporter.log()


def test_names_and_passwords_may_hold_any_text(serve: Serve) -> None:
    """UTF-8, colons in the password, and more than the 72 bytes that bcrypt reads."""
    long = "x" * 100
    exporter = serve(jürgen=hashed("pa:ß"), on=hashed("x" * 72))

    def status(user: str, password: str) -> int:
        encoded = b64encode(f"{user}:{password}".encode()).decode()
        return exporter.ask(headers={"Authorization": f"Basic {encoded}"}).status

    assert [status("jürgen", "pa:ß"), status("on", long), status("on", long[:71])] == [200, 200, 401]


def test_no_password_is_logged(tmp_path: Path, servers: ExitStack) -> None:
    """Neither right nor wrong ones, nor hashes, at the most talkative level."""
    config = WebFolder(tmp_path).write(basic_auth_users={"ann": (hash_ := hashed("rightword"))})
    exporter = servers.enter_context(WebExporter(config, "--replay", "demo", "--log.level", "debug"))
    assert exporter.ask(headers=authorization("ann", "rightword")).status == 200
    assert exporter.ask(headers=authorization("ann", "wrongword")).status == 401
    for secret in ("rightword", "wrongword", hash_):
        assert secret not in exporter.log()


def test_an_answer_is_remembered(serve: Serve) -> None:
    """The right and the wrong password cost bcrypt's time once."""
    exporter = serve(ann=hashed("word", 13))
    wrong = authorization("ann", "wrong")

    def seconds(headers: Mapping[str, str], status: int) -> float:
        began_s = time.monotonic()
        assert exporter.ask(headers=headers).status == status
        return time.monotonic() - began_s

    first, second = seconds(ANN, 200), seconds(ANN, 200)
    assert second < first / 3
    first, second = seconds(wrong, 401), seconds(wrong, 401)
    assert second < first / 3


class Checks:
    """bcrypt itself, what it was asked, and the CPU time that each answer took."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self.cpu_s: list[float] = []

    def __call__(self, password: bytes, against: bytes) -> bool:
        self.asked.append((password, against))
        began_s = time.thread_time()
        matches = bcrypt.checkpw(password, against)
        self.cpu_s.append(time.thread_time() - began_s)
        return matches


async def at_once(_seconds: float) -> None:
    """No rest."""
    await asyncio.sleep(0)


def verdicts(
    verifier: Verifier, users: Mapping[bytes, bytes], *sent: tuple[bytes, bytes, str]
) -> "asyncio.Future[list[Verdict]]":
    return asyncio.gather(
        *(verifier.verify(Credentials(user, password), users, address) for user, password, address in sent)
    )


def test_an_unknown_name_takes_as_long_as_a_known_one() -> None:
    """The same hash function at the same cost, once each: names cannot be told by time."""
    users = {name: hashed("word", COST).encode() for name in (b"ann", b"bob")}
    checks = Checks()
    verifier = Verifier(checks, sleep=at_once)

    async def run() -> None:
        for number in range(15):
            for user in (b"ann", b"eve"):
                sent = Credentials(user, b"%d" % number)
                assert await verifier.verify(sent, users, "a") is Verdict.WRONG

    asyncio.run(run())
    assert len(checks.asked) == 30
    assert {against for _, against in checks.asked} <= set(users.values())
    known, unknown = checks.cpu_s[::2], checks.cpu_s[1::2]
    assert statistics.median(unknown) == pytest.approx(statistics.median(known), rel=0.25)


def test_an_unknown_name_never_gets_in() -> None:
    """Not even with the password of the user whose hash is tried in its place, nor once removed."""
    users = {b"ann": hashed("word").encode()}
    verifier = Verifier(sleep=at_once)

    async def run() -> list[Verdict]:
        asked = [await verifier.verify(Credentials(b"eve", b"word"), users, "a") for _ in range(2)]
        asked.append(await verifier.verify(Credentials(b"ann", b"word"), users, "a"))
        left = {b"bob": users[b"ann"]}
        asked.append(await verifier.verify(Credentials(b"ann", b"word"), left, "a"))
        asked.append(await verifier.verify(Credentials(b"bob", b"word"), left, "a"))
        return asked

    wrong, good = Verdict.WRONG, Verdict.GOOD
    assert asyncio.run(run()) == [wrong, wrong, good, wrong, good]


def test_one_at_a_time_few_wait_and_equal_ones_share() -> None:
    """The same question is asked once however many ask; beyond the queue the answer is to come again."""
    users = {b"ann": hashed("word").encode()}
    checks = Checks()
    verifier = Verifier(checks, sleep=at_once)

    async def run() -> tuple[list[Verdict], list[Verdict]]:
        same = await verdicts(verifier, users, *[(b"ann", b"word", "a")] * 50)
        return same, await verdicts(verifier, users, *[(b"ann", b"%d" % n, "a") for n in range(50)])

    same, unlike = asyncio.run(run())
    assert same == [Verdict.GOOD] * 50
    assert unlike == [Verdict.WRONG] * MAX_WAITING + [Verdict.BUSY] * (50 - MAX_WAITING)
    assert len(checks.asked) == 1 + MAX_WAITING


@pytest.mark.parametrize(
    ("attackers", "elsewhere"), [("10.0.0.1", "10.0.0.2"), ("2001:db8::{}", "2001:db8:1::")]
)
def test_addresses_take_turns(attackers: str, elsewhere: str) -> None:
    """Whoever comes from elsewhere is next, and takes the place of one of those who fill the queue.

    All addresses of an IPv6 network are one.
    """
    users = {b"ann": hashed("word").encode()}
    checks = Checks()
    verifier = Verifier(checks, sleep=at_once)

    async def run() -> list[Verdict]:
        flood = [(b"ann", b"%d" % n, attackers.format(n)) for n in range(50)]
        return await verdicts(verifier, users, *flood, (b"ann", b"word", elsewhere))

    *flood, good = asyncio.run(run())
    assert good is Verdict.GOOD
    assert flood.count(Verdict.WRONG) == MAX_WAITING - 1
    assert [password for password, _ in checks.asked].index(b"word") <= 2


def test_after_a_failure_it_rests() -> None:
    """A wrong password costs four times its own time in which nothing is verified; a right one nothing."""
    users = {b"ann": hashed("word").encode()}
    now_s, slept = 0.0, []

    def check(password: bytes, against: bytes) -> bool:
        nonlocal now_s
        now_s += 0.1
        return bcrypt.checkpw(password, against)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    verifier = Verifier(check, cpu_s=lambda: now_s, sleep=sleep)

    async def run() -> None:
        await verdicts(verifier, users, (b"ann", b"word", "a"), (b"ann", b"1", "a"), (b"ann", b"2", "a"))
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert slept == [pytest.approx(REST * 0.1)] * 2


def test_what_is_remembered_is_bounded_and_a_flood_forgets_no_good_one() -> None:
    """Thousands of wrong passwords later the right one is still known."""
    users = {b"ann": hashed("word").encode()}
    asked = 0

    def check(password: bytes, _against: bytes) -> bool:
        nonlocal asked
        asked += 1
        return password == b"word"

    verifier = Verifier(check, sleep=at_once)

    async def run() -> None:
        await verifier.verify(Credentials(b"ann", b"word"), users, "a")
        for number in range(1500):
            await verifier.verify(Credentials(b"ann", b"%d" % number), users, "a")
        before = asked
        assert await verifier.verify(Credentials(b"ann", b"word"), users, "a") is Verdict.GOOD
        assert await verifier.verify(Credentials(b"ann", b"1499"), users, "a") is Verdict.WRONG
        assert asked == before
        assert await verifier.verify(Credentials(b"ann", b"0"), users, "a") is Verdict.WRONG
        assert asked == before + 1

    asyncio.run(run())


@pytest.mark.parametrize("header", ["Basic !", "Basic YW5u", "Digest x", "", "Basic \u00e9"])
def test_no_credentials_in(header: str) -> None:
    """None where there are none."""
    assert credentials(header) is None


def test_who_waits_too_long_is_told_and_known_the_next_time() -> None:
    """A verification that takes longer than a scrape may ends all the same."""
    users, gate = {b"ann": hashed("word").encode()}, threading.Event()

    def check(password: bytes, against: bytes) -> bool:
        return gate.wait(WAIT_SECONDS + 10) and bcrypt.checkpw(password, against)

    verifier = Verifier(check)

    async def run() -> list[Verdict]:
        began_s = time.monotonic()
        asked = [await verifier.verify(Credentials(b"ann", b"word"), users, "a")]
        assert WAIT_SECONDS - 0.1 < time.monotonic() - began_s < WAIT_SECONDS + 2
        gate.set()
        return [*asked, await verifier.verify(Credentials(b"ann", b"word"), users, "a")]

    assert asyncio.run(run()) == [Verdict.BUSY, Verdict.GOOD]


class Flood:
    """Clients that send a new wrong password as soon as the last was answered."""

    def __init__(self, exporter: WebExporter) -> None:
        self.statuses: dict[int, int] = {}
        self._exporter = exporter
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(FLOOD_CLIENTS)]

    def _run(self, client: int) -> None:
        number = 0
        while not self._stopped.is_set():
            with self._exporter.pool() as pool:
                for _ in range(20):
                    number += 1
                    headers = authorization(f"ann{number % 3 or ''}", f"{client}-{number}")
                    try:
                        status = pool.request("GET", "/metrics", headers=headers).status
                    except urllib3.exceptions.HTTPError:
                        status = 0
                    self.statuses[status] = self.statuses.get(status, 0) + 1
                    if self._stopped.is_set():
                        return

    def __enter__(self) -> "Flood":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(15)


def late_share(before: MetricsPage, after: MetricsPage, limit_s: str) -> float:
    """The share of reads between two pages that were later than a bucket's limit."""
    name = "llem_sampler_lateness_seconds"
    within, count = (
        after.value(f"{name}_{part}", **labels) - before.value(f"{name}_{part}", **labels)
        for part, labels in (("bucket", {"le": limit_s}), ("count", {}))
    )
    return 1 - within / count


def bcrypt_seconds(exporter: WebExporter) -> float:
    """CPU time of the thread that verifies, the only nice one. Source: proc(5), stat, fields 14, 15, 19."""
    for task in Path(f"/proc/{exporter.pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(") ")[2].split()
        if int(fields[16]) == NICENESS:
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("no thread is nice")


def test_a_flood_of_wrong_passwords_delays_nobody(serve: Serve) -> None:
    """50 clients: a scraper that is known is answered at once, and the 100 ms grid holds.

    A scraper that is not known yet, from another address, gets in meanwhile. bcrypt takes a fifth of a core.
    """
    exporter = serve(ann=hashed("word", COST), bob=hashed("other", COST))
    bob = authorization("bob", "other")
    wait_until(lambda: exporter.ask("/-/ready", ANN).status == 200, "ready")
    latencies: list[float] = []
    with exporter.pool() as pool, exporter.pool(source="127.0.0.2") as elsewhere:
        before, spent_s = MetricsPage(page_of(pool, latencies)), bcrypt_seconds(exporter)
        with Flood(exporter) as flood:
            began_s = time.monotonic()
            while (elapsed_s := time.monotonic() - began_s) < FLOOD_SECONDS:
                page_of(pool, latencies)
                time.sleep(0.05)
            came_in = [elsewhere.request("GET", "/metrics", headers=bob).status for _ in range(2)]
            spent_s = bcrypt_seconds(exporter) - spent_s
        after = MetricsPage(page_of(pool, latencies))
    assert 200 in came_in
    assert set(flood.statuses) <= {401, 503}, "somebody got in, or no answer"
    assert flood.statuses[503] > 500
    assert flood.statuses[401] >= 3
    assert spent_s / elapsed_s < 0.35
    assert statistics.quantiles(latencies, n=100)[98] < 0.2
    assert late_share(before, after, "0.05") <= 0.05
    for gpu in ("0", "1"):
        gaps = [page.value("llem_gpu_gap_seconds_total", gpu=gpu) for page in (before, after)]
        assert gaps[0] == gaps[1], "samples are missing"
    assert "Traceback" not in exporter.log()


def page_of(pool: urllib3.HTTPConnectionPool, latencies: list[float]) -> str:
    """A scrape of a scraper that is known; its seconds are kept."""
    began_s = time.perf_counter()
    answer = pool.request("GET", "/metrics", headers=ANN)
    latencies.append(time.perf_counter() - began_s)
    assert answer.status == 200
    return answer.data.decode()
