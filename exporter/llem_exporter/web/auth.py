"""Basic authentication with bcrypt: one check at a time, and right passwords are remembered."""

import asyncio
import hashlib
import hmac
import secrets
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_WAITING: Final = 64
"""Checks that wait. Beyond it the oldest one is answered BUSY."""
BCRYPT_BYTES: Final = 72
"""bcrypt uses only this much of a password, as does every program that makes the hashes."""


class Verdict(Enum):
    """The result of a check. BUSY means: try again later."""

    GOOD = "good"
    WRONG = "wrong"
    BUSY = "busy"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A user name and a password, without a repr that shows them."""

    user: bytes
    password: bytes


def credentials(authorization: str) -> Credentials | None:
    """Decode an Authorization header; None unless it is a well-formed Basic one."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return Credentials(user, password[:BCRYPT_BYTES]) if colon else None


@dataclass(frozen=True, slots=True, repr=False)
class _Check:
    password: bytes
    hashed: bytes
    verdict: "asyncio.Future[Verdict]"


class PasswordChecker:
    """Checks passwords in a thread, one at a time and the newest request first.

    Newest first, because a flood keeps the queue full of its own requests, and the one that a scraper sends
    now must not wait behind them. Equal requests share one check.
    """

    def __init__(self, matches: Callable[[bytes, bytes], bool] | None = None) -> None:
        self._matches = matches or _bcrypt_matches
        self._secret = secrets.token_bytes(32)
        self._good = set[bytes]()  # at most one for each hash
        self._waiting: OrderedDict[bytes, _Check] = OrderedDict()
        self._worker: asyncio.Task[None] | None = None

    async def verify(self, sent: Credentials, users: Mapping[bytes, bytes]) -> Verdict:
        """Whether `users`, hashes by name, has this user and password. `users` is not empty."""
        known = users.get(sent.user)
        # An unknown name takes as long as a known one: a hash that depends on the name is checked for it.
        hashed = known or self._stand_in(sent.user, users)
        key = self._digest(len(sent.user).to_bytes(4) + sent.user + hashed + sent.password)
        if known and key in self._good:
            return Verdict.GOOD
        check = self._waiting.get(key) or self._enqueue(key, sent.password, hashed)
        verdict = await asyncio.shield(check.verdict)
        if verdict is Verdict.GOOD:
            if known is None:
                return Verdict.WRONG
            self._good.add(key)
        return verdict

    def _digest(self, message: bytes) -> bytes:
        return hmac.digest(self._secret, message, hashlib.sha256)

    def _stand_in(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        hashes = sorted(users.values())
        return hashes[int.from_bytes(self._digest(user)[:8]) % len(hashes)]

    def _enqueue(self, key: bytes, password: bytes, hashed: bytes) -> _Check:
        check = self._waiting[key] = _Check(password, hashed, asyncio.get_running_loop().create_future())
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)[1].verdict.set_result(Verdict.BUSY)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return check

    async def _work(self) -> None:
        while self._waiting:
            _, check = self._waiting.popitem()
            verdict = Verdict.BUSY
            try:
                matches = await asyncio.to_thread(self._matches, check.password, check.hashed)
                verdict = Verdict.GOOD if matches else Verdict.WRONG
            finally:
                check.verdict.set_result(verdict)


def _bcrypt_matches(password: bytes, hashed: bytes) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:
        return False
