"""Check the certificate name and the password of each request."""

import asyncio
import hmac
import secrets
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import bcrypt
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from llem_exporter.web.reload import LiveWebConfig
from llem_exporter.web.tls import san_is_allowed

MAX_WAITING: Final = 64
"""The maximum number of passwords that wait to be checked. Beyond this number, the oldest one is dropped."""

BCRYPT_BYTES: Final = 72
"""bcrypt uses only this much of a password, as does every program that makes the hashes."""


class Guard:
    """Checks each client by the current configuration."""

    def __init__(self, live: LiveWebConfig) -> None:
        self._live, self._passwords = live, PasswordChecker()

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 403 or 401 to a client that is not allowed."""
        config = self._live.config
        if config.tls and config.tls.allowed_sans:
            peer = request.transport.get_extra_info("peercert") if request.transport else None
            if not san_is_allowed(peer, config.tls.allowed_sans):
                text = "the client certificate has no name that is listed in client_allowed_sans\n"
                refusal = web.Response(status=403, text=text)
                refusal.force_close()
                return refusal
        if self._live.needs_password:
            sent = credentials(request.headers.get(hdrs.AUTHORIZATION, ""))
            if not (sent and config.users and await self._passwords.is_right(*sent, config.users)):
                challenge = {hdrs.WWW_AUTHENTICATE: 'Basic realm="llem-exporter", charset="UTF-8"'}
                text = "a valid user name and password are required\n"
                return web.Response(status=401, text=text, headers=challenge)
        return await handler(request)


def credentials(authorization: str) -> tuple[bytes, bytes] | None:
    """Return the user and the password of an Authorization header, or None if it is not a Basic one."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        user, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password[:BCRYPT_BYTES]) if colon and scheme.lower() == "basic" else None


class PasswordChecker:
    """Checks passwords in a thread, one at a time and the newest request first. Right ones are remembered.

    Newest first, because a flood keeps the queue full of its own requests, and the one that a scraper sends
    now must not wait behind them.
    """

    def __init__(self, matches: Callable[[bytes, bytes], bool] = bcrypt.checkpw) -> None:
        self._matches = matches
        self._secret = secrets.token_bytes(32)
        self._right = set[bytes]()
        self._waiting = deque[tuple[bytes, bytes, asyncio.Future[bool]]]()
        self._worker: asyncio.Task[None] | None = None

    async def is_right(self, user: bytes, password: bytes, users: Mapping[bytes, bytes]) -> bool:
        """Return whether `users`, hashes by name, has this user and password. `users` is not empty.

        Raises HTTPServiceUnavailable if too many newer requests wait.
        """
        # An unknown name takes as long as a known one: the first user's hash is checked for it.
        hashed = users.get(user, next(iter(users.values())))
        if self._key(password, hashed) not in self._right:
            is_right = asyncio.get_running_loop().create_future()
            self._waiting.append((password, hashed, is_right))
            if len(self._waiting) > MAX_WAITING:
                text, headers = "too many passwords are being checked\n", {hdrs.RETRY_AFTER: "1"}
                busy = web.HTTPServiceUnavailable(text=text, headers=headers)
                self._waiting.popleft()[2].set_exception(busy)
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
            if not await asyncio.shield(is_right):
                return False
        return user in users

    async def _work(self) -> None:
        while self._waiting:
            password, hashed, is_right = self._waiting.pop()
            key = self._key(password, hashed)
            with suppress(ValueError):  # bcrypt refuses a malformed hash
                if key in self._right or await asyncio.to_thread(self._matches, password, hashed):
                    self._right.add(key)
            is_right.set_result(key in self._right)

    def _key(self, password: bytes, hashed: bytes) -> bytes:
        return hmac.digest(self._secret, hashed + password, "sha256")
