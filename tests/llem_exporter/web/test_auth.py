"""Passwords: which ones are accepted, and how their verification is bounded and shared."""

import asyncio
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping

import bcrypt
import pytest

from llem_exporter.web.auth import MAX_WAITING, REST, Credentials, Verdict, Verifier, credentials
from tests.llem_exporter.web.web_rig import WebExporter, WebFolder, authorization, hashed

LONG = "x" * 100
USERS = {"ann": hashed("word"), "bob": hashed("rightword"), "jürgen": hashed("pa:ß"), "on": hashed(LONG[:72])}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebExporter]:
    """An exporter with these users, at the most talkative log level; nothing it logs is an error."""
    config = WebFolder(tmp_path_factory.mktemp("web")).write(basic_auth_users=USERS)
    with WebExporter(config, "--replay", "demo", "--log.level", "debug") as exporter:
        yield exporter
        assert not exporter.lines("ERROR") + exporter.lines("Traceback")


def test_only_the_right_user_and_password_are_accepted(exporter: WebExporter) -> None:
    """Every other Authorization header returns 401."""
    wrong = [
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
    ]
    statuses = {value: exporter.ask(headers={"Authorization": value}).status for value in wrong}
    assert statuses == dict.fromkeys(wrong, 401)
    assert exporter.ask(headers={"Authorization": "basic  YW5uOndvcmQ="}).status == 200


def test_names_and_passwords_may_hold_any_text(exporter: WebExporter) -> None:
    """Passwords may contain UTF-8, colons, and more than the 72 bytes that bcrypt reads."""

    def status(user: str, password: str) -> int:
        encoded = b64encode(f"{user}:{password}".encode()).decode()
        return exporter.ask(headers={"Authorization": f"Basic {encoded}"}).status

    assert [status("jürgen", "pa:ß"), status("on", LONG), status("on", LONG[:71])] == [200, 200, 401]


def test_no_password_is_logged(exporter: WebExporter) -> None:
    """At the most verbose level, the log contains no passwords, right or wrong, and no hashes."""
    right, wrong = authorization("bob", "rightword"), authorization("bob", "wrongword")
    assert [exporter.ask(headers=headers).status for headers in (right, wrong)] == [200, 401]
    for secret in ("rightword", "wrongword", *right.values(), *wrong.values(), *USERS.values()):
        assert secret not in exporter.log()


class Checks:
    """bcrypt itself, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []

    def __call__(self, password: bytes, against: bytes) -> bool:
        self.asked.append((password, against))
        return bcrypt.checkpw(password, against)


async def at_once(_seconds: float) -> None:
    """No rest."""
    await asyncio.sleep(0)


def verdicts(
    verifier: Verifier, users: Mapping[bytes, bytes], *sent: tuple[bytes, bytes, str]
) -> "asyncio.Future[list[Verdict]]":
    return asyncio.gather(
        *(verifier.verify(Credentials(user, password), users, address) for user, password, address in sent)
    )


def test_an_unknown_name_costs_as_much_as_a_known_one() -> None:
    """Both cost one hash of an existing user, so the response time does not reveal user names."""
    users = {name: hashed("word").encode() for name in (b"ann", b"bob")}
    checks = Checks()
    verifier = Verifier(checks, sleep=at_once)

    async def run() -> None:
        for number in range(15):
            for user in (b"ann", b"eve"):
                sent = Credentials(user, b"%d" % number)
                assert await verifier.verify(sent, users, "a") is Verdict.WRONG

    asyncio.run(run())
    assert len(checks.asked) == 30
    assert {against for _, against in checks.asked[::2]} == {users[b"ann"]}
    stand_ins = {against for _, against in checks.asked[1::2]}
    assert len(stand_ins) == 1
    assert stand_ins < set(users.values())


def test_an_unknown_name_never_gets_in() -> None:
    """An unknown or removed user gets 401, even with the password of the user whose hash is checked."""
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
    """Equal requests are verified once. Requests beyond the limit of the queue get BUSY."""
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
    """In a full queue, a client from another address is next and replaces one of the waiting requests.

    All addresses of an IPv6 network count as one.
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
    """After a wrong password, the verifier pauses for four times the verification time.

    After a right one it does not.
    """
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
    """After thousands of wrong passwords, the right one is still cached."""
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


def test_a_header_without_credentials_is_no_credentials() -> None:
    """A header that is not Basic, not base64 or has no colon gives None."""
    headers = ["Basic !", "Basic YW5u", "Digest x", "", "Basic \u00e9"]
    assert [credentials(header) for header in headers] == [None] * len(headers)


def test_a_verification_that_takes_too_long_is_remembered_for_the_next_request() -> None:
    """The first request gets BUSY after its wait. The verification continues for the next request."""
    users, gate = {b"ann": hashed("word").encode()}, threading.Event()

    def check(password: bytes, against: bytes) -> bool:
        return gate.wait(60) and bcrypt.checkpw(password, against)

    verifier = Verifier(check, wait_s=0.05)

    async def run() -> list[Verdict]:
        asked = [await verifier.verify(Credentials(b"ann", b"word"), users, "a")]
        gate.set()
        return [*asked, await verifier.verify(Credentials(b"ann", b"word"), users, "a")]

    assert asyncio.run(run()) == [Verdict.BUSY, Verdict.GOOD]
