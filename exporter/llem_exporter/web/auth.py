"""Passwords checked with bcrypt, by a thread of its own, at a pace that no flood can raise."""

import asyncio
import hashlib
import hmac
import os
import secrets
import threading
from base64 import b64decode
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network
from time import thread_time
from typing import Final

MAX_WAITING: Final = 16
"""Verifications that wait; more are told to come again."""
REMEMBERED: Final = 1024
"""Answers that are kept, of the good and of the bad each."""
WAIT_SECONDS: Final = 5.0
"""Less than a scrape's timeout. What comes of it later is remembered for the next scrape."""
REST: Final = 4.0
"""How many times as long as a failed verification took nothing is verified: a fifth of a core at most."""
BCRYPT_BYTES: Final = 72
"""bcrypt reads no more of a password, whoever hashed it."""
NICENESS: Final = 1
"""Of the thread that verifies: behind all others of this process. A nicer one loses its core for long on a
busy node, at times with the interpreter's lock, for which the GPUs' threads wait then."""


class Verdict(Enum):
    """What came of a name and a password."""

    GOOD = "good"
    WRONG = "wrong"
    BUSY = "busy"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a client sent; never shown."""

    user: bytes
    password: bytes


def credentials(authorization: str) -> Credentials | None:
    """Those of an Authorization header in the scheme Basic; None for anything else."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return Credentials(user, password[:BCRYPT_BYTES]) if colon else None


@dataclass(frozen=True, slots=True, repr=False)
class _Waiting:
    key: bytes
    password: bytes
    hashed: bytes
    answer: "asyncio.Future[Verdict]"


class Verifier:
    """Answers at once what it has seen before; else one verification at a time, addresses in turn."""

    def __init__(
        self,
        check: Callable[[bytes, bytes], bool] | None = None,
        *,
        cpu_s: Callable[[], float] = thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wait_s: float = WAIT_SECONDS,
    ) -> None:
        self._wait_s = wait_s
        self._check, self._cpu_s, self._sleep = check or _bcrypt_check, cpu_s, sleep
        self._secret = secrets.token_bytes(32)
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._answers: dict[bytes, asyncio.Future[Verdict]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._executor: ThreadPoolExecutor | None = None

    async def verify(self, sent: Credentials, users: Mapping[bytes, bytes], address: str) -> Verdict:
        """Whether this is one of the users, by name and hash. BUSY: ask again later."""
        known = users.get(sent.user)
        # A name that nobody has costs what one that somebody has does: the hash of a user is tried, always
        # the same for this name, and what comes of it does not count.
        hashed = known or self._stand_in(sent.user, users)
        key = self._mac(len(sent.user).to_bytes(4) + sent.user + hashed + sent.password)
        if key in self._good:
            self._good.move_to_end(key)
            verdict = Verdict.GOOD
        elif key in self._wrong:
            self._wrong.move_to_end(key)
            verdict = Verdict.WRONG
        else:
            answer = self._answers.get(key) or self._enqueue(key, sent.password, hashed, _network(address))
            verdict = await _within(answer, self._wait_s) if answer else Verdict.BUSY
        return Verdict.WRONG if verdict is Verdict.GOOD and known is None else verdict

    def _mac(self, message: bytes) -> bytes:
        return hmac.digest(self._secret, message, hashlib.sha256)

    def _stand_in(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        hashes = sorted(users.values())
        return hashes[int.from_bytes(self._mac(user)[:8]) % len(hashes)]

    def _enqueue(
        self, key: bytes, password: bytes, hashed: bytes, address: str
    ) -> "asyncio.Future[Verdict] | None":
        if len(self._answers) >= MAX_WAITING and not self._make_room(address):
            return None
        loop = asyncio.get_running_loop()
        answer = self._answers[key] = loop.create_future()
        self._queues.setdefault(address, deque()).append(_Waiting(key, password, hashed, answer))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return answer

    def _make_room(self, address: str) -> bool:
        """Send away the newest of the address that has the most waiting, unless it is this one."""
        longest = max(self._queues, key=lambda one: len(self._queues[one]), default=address)
        if len(self._queues.get(longest, ())) <= len(self._queues.get(address, ())) + 1:
            return False
        self._settle(self._queues[longest].pop(), Verdict.BUSY)
        return True

    def _settle(self, waiting: _Waiting, verdict: Verdict) -> None:
        del self._answers[waiting.key]
        if not waiting.answer.done():
            waiting.answer.set_result(verdict)
        remembered = {Verdict.GOOD: self._good, Verdict.WRONG: self._wrong}.get(verdict)
        if remembered is not None:
            remembered[waiting.key] = None
            if len(remembered) > REMEMBERED:
                remembered.popitem(last=False)

    async def _work(self) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "bcrypt", initializer=_be_nice)
        loop = asyncio.get_running_loop()
        while self._queues:
            address, queue = next(iter(self._queues.items()))
            self._queues.move_to_end(address)
            if not queue:
                del self._queues[address]
                continue
            waiting = queue.popleft()
            verdict, spent_s = Verdict.BUSY, 0.0
            try:
                matches, spent_s = await loop.run_in_executor(self._executor, self._timed, waiting)
                verdict = Verdict.GOOD if matches else Verdict.WRONG
            finally:
                self._settle(waiting, verdict)
            if verdict is not Verdict.GOOD:
                await self._sleep(REST * spent_s)

    def _timed(self, waiting: _Waiting) -> tuple[bool, float]:
        """Whether the password is right, and the CPU time [s] that it took to know."""
        began_s = self._cpu_s()
        return self._check(waiting.password, waiting.hashed), self._cpu_s() - began_s


def _network(address: str) -> str:
    """Of IPv6, whose hosts choose among 2^64 addresses, the network; else the address itself."""
    try:
        return str(ip_network((address.partition("%")[0], 64), strict=False)) if ":" in address else address
    except ValueError:
        return address


async def _within(answer: "asyncio.Future[Verdict]", wait_s: float) -> Verdict:
    try:
        return await asyncio.wait_for(asyncio.shield(answer), wait_s)
    except TimeoutError:
        return Verdict.BUSY


def _bcrypt_check(password: bytes, hashed: bytes) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:
        return False


def _be_nice() -> None:
    """Let everything else of the process go first. On Linux a thread has a niceness of its own."""
    with suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
