"""Passwords: which ones are accepted, and how their verification is bounded and shared."""

import asyncio
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping

import bcrypt
import pytest
from aiohttp import web

from llem_exporter.web.auth import MAX_WAITING, PasswordChecker, credentials
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


def verdicts(
    checker: PasswordChecker, users: Mapping[bytes, bytes], *sent: tuple[bytes, bytes]
) -> "asyncio.Future[list[bool | BaseException]]":
    return asyncio.gather(
        *(checker.is_right(user, password, users) for user, password in sent), return_exceptions=True
    )


def test_an_unknown_name_costs_as_much_as_a_known_one() -> None:
    """Both cost one check of an existing user's hash, so the response time does not reveal user names."""
    users = {name: hashed("word").encode() for name in (b"ann", b"bob")}
    checks = Checks()
    checker = PasswordChecker(checks)

    async def run() -> None:
        for number in range(15):
            for user in (b"ann", b"eve"):
                assert not await checker.is_right(user, b"%d" % number, users)

    asyncio.run(run())
    assert len(checks.asked) == 30
    assert {against for _, against in checks.asked[::2]} == {users[b"ann"]}
    stand_ins = {against for _, against in checks.asked[1::2]}
    assert len(stand_ins) == 1
    assert stand_ins < set(users.values())


def test_an_unknown_name_never_gets_in() -> None:
    """An unknown or removed user gets 401, even with the password of the user whose hash is checked."""
    users = {b"ann": hashed("word").encode()}
    left = {b"bob": users[b"ann"]}
    checker = PasswordChecker()

    async def run() -> list[bool]:
        asked = [(b"eve", users), (b"eve", users), (b"ann", users), (b"ann", left), (b"bob", left)]
        return [await checker.is_right(user, b"word", hashes) for user, hashes in asked]

    assert asyncio.run(run()) == [False, False, True, False, True]


def test_equal_right_passwords_are_checked_once_and_few_others_wait() -> None:
    """Beyond the limit, the requests that waited longest get 503."""
    users = {b"ann": hashed("word").encode()}
    checks = Checks()
    checker = PasswordChecker(checks)

    async def run() -> tuple[list[bool | BaseException], list[bool | BaseException]]:
        same = await verdicts(checker, users, *[(b"ann", b"word")] * 50)
        return same, await verdicts(checker, users, *[(b"ann", b"%d" % n) for n in range(100)])

    same, unlike = asyncio.run(run())
    assert same == [True] * 50
    assert all(isinstance(error, web.HTTPServiceUnavailable) for error in unlike[: 100 - MAX_WAITING])
    assert unlike[100 - MAX_WAITING :] == [False] * MAX_WAITING
    assert len(checks.asked) == 1 + MAX_WAITING


def test_the_newest_request_is_checked_first() -> None:
    """During a flood of wrong passwords, a right one is checked next, and a known one at once."""
    users = {name: hashed("word").encode() for name in (b"ann", b"bob")}
    checks, gate = Checks(), threading.Event()

    def check(password: bytes, against: bytes) -> bool:
        return (password == b"word" or gate.wait(60)) and checks(password, against)

    checker = PasswordChecker(check)

    async def run() -> None:
        assert await checker.is_right(b"ann", b"word", users)
        flood = verdicts(checker, users, *[(b"ann", b"%d" % n) for n in range(2 * MAX_WAITING)])
        await asyncio.sleep(0)
        assert await checker.is_right(b"ann", b"word", users)
        assert len(checks.asked) == 1
        gate.set()
        assert await checker.is_right(b"bob", b"word", users)
        assert [password for password, _ in checks.asked[1:]].index(b"word") <= 1
        assert {type(result) for result in await flood} == {bool, web.HTTPServiceUnavailable}

    asyncio.run(run())


def test_a_flood_does_not_displace_a_remembered_password() -> None:
    """After thousands of wrong passwords, the right one is accepted without a check."""
    users = {b"ann": hashed("word").encode()}
    asked = 0

    def check(password: bytes, _against: bytes) -> bool:
        nonlocal asked
        asked += 1
        return password == b"word"

    checker = PasswordChecker(check)

    async def run() -> None:
        await checker.is_right(b"ann", b"word", users)
        for number in range(1500):
            await checker.is_right(b"ann", b"%d" % number, users)
        before = asked
        assert await checker.is_right(b"ann", b"word", users)
        assert asked == before

    asyncio.run(run())


def test_a_header_without_credentials_is_no_credentials() -> None:
    """A header that is not Basic, not base64 or has no colon gives None."""
    headers = ["Basic !", "Basic YW5u", "Digest x", "", "Basic \u00e9"]
    assert [credentials(header) for header in headers] == [None] * len(headers)


def test_a_check_continues_when_its_client_has_gone() -> None:
    """A cancelled request does not stop the check. The next request gets its result."""
    users, gate = {b"ann": hashed("word").encode()}, threading.Event()

    def check(password: bytes, against: bytes) -> bool:
        return gate.wait(60) and bcrypt.checkpw(password, against)

    checker = PasswordChecker(check)

    async def run() -> bool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(checker.is_right(b"ann", b"word", users), 0.01)
        gate.set()
        return await checker.is_right(b"ann", b"word", users)

    assert asyncio.run(run())
