"""The current web config: what each request must present, and how a changed file takes effect."""

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from llem_core.errors import ConfigError
from llem_exporter.web import config as web_config
from llem_exporter.web.auth import PasswordChecker, Verdict, credentials
from llem_exporter.web.config import ClientAuth, WebConfig
from llem_exporter.web.tls import new_context, san_is_allowed

CHECK_SECONDS: Final = 1.0
RETRY_AFTER_SECONDS: Final = 1
SERVER: Final = "llem-exporter"
NO_USERS: Final = (
    "basic_auth_users is empty: every request gets 401 until the file lists a user; "
    "restart to serve without passwords"
)

_log = logging.getLogger(__name__)

_Stat = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Loaded:
    config: WebConfig
    context: ssl.SSLContext | None
    needs_password: bool


class LiveWebConfig:
    """The last valid content of a web config file. Without a file: plain HTTP without passwords.

    A thread of its own reads the file, so that a hung network file system delays no request.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises ConfigError with the file, the key and the reason."""
        self._path = path
        self._files: tuple[Path, ...] = (path,) if path else ()
        self._seen: tuple[_Stat, ...] = ()
        self._applied: tuple[_Stat, ...] = ()
        self._loaded = _Loaded(WebConfig(), None, needs_password=False)
        self._problem = ""
        self._checker = PasswordChecker()
        self._woken, self._stopped = threading.Event(), False
        if path:
            try:
                self._loaded = self._read(path)
            except ConfigError as exc:
                raise ConfigError(f"--web.config.file {path}: {exc}") from exc

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """The context for new connections; None for plain HTTP."""
        return self._loaded.context

    @property
    def is_guarded(self) -> bool:
        """Whether a client must prove who it is."""
        return self._loaded.needs_password or _requires_certificate(self._loaded.config)

    def watch(self, on_stricter: Callable[[], object]) -> None:
        """Start the thread that applies changes of the file.

        It calls `on_stricter` when existing connections no longer meet the TLS settings.
        """
        if self._path:
            threading.Thread(target=self._watch, args=(on_stricter,), name="web-config", daemon=True).start()

    def reload_soon(self) -> None:
        """Read the file now, although it may not have changed."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread, unless it hangs in the file system."""
        self._stopped = True
        self._woken.set()

    def _watch(self, on_stricter: Callable[[], object]) -> None:
        while True:
            forced = self._woken.wait(CHECK_SECONDS)
            self._woken.clear()
            if self._stopped:
                return
            if self.reload_if_changed(force=forced) and not self._stopped:
                on_stricter()

    def reload_if_changed(self, *, force: bool = False) -> bool:
        """Apply a changed file. Returns whether existing connections no longer meet the TLS settings.

        A change is applied when the files are equal in two calls, so that no half-written file is read.
        `force` skips this. An invalid file changes nothing. It is logged once, and read again in every call.
        """
        if self._path is None:
            return False
        stats = self._stats()
        settled, self._seen = stats == self._seen, stats
        if not force and not (settled and (self._problem or stats != self._applied)):
            return False
        before = self._loaded
        try:
            loaded = self._read(self._path)
            problem = ""
        except ConfigError as exc:
            loaded, problem = before, f"{exc}; the previous configuration stays in effect"
        if gone := _lost_guard(before.config, loaded.config):
            # A truncated file must not open the exporter to everyone.
            problem = f"{gone} is missing; the previous TLS settings stay in effect until a restart"
            loaded = replace(
                loaded, config=replace(loaded.config, tls=before.config.tls), context=before.context
            )
        self._loaded = loaded
        self._report(problem)
        return _strictness(loaded) != _strictness(before)

    def _read(self, path: Path) -> _Loaded:
        own_stat = _stat(path)  # before the file is read, so that a change meanwhile is noticed
        config = web_config.read(path)
        tls_files = config.tls.files if config.tls else ()
        self._files, self._applied = (path, *tls_files), (own_stat, *map(_stat, tls_files))
        context = new_context(config.tls) if config.tls else None
        return _Loaded(config, context, self._loaded.needs_password or bool(config.users))

    def _stats(self) -> tuple[_Stat, ...]:
        """What differs as soon as a file is replaced or written to."""
        return tuple(map(_stat, self._files))

    def _report(self, problem: str) -> None:
        if not problem and self._loaded.needs_password and not self._loaded.config.users:
            problem = NO_USERS
        if problem and problem != self._problem:
            _log.error("--web.config.file %s: %s", self._path, problem)
        elif not problem:
            _log.info(
                "--web.config.file %s: read again%s", self._path, ", now valid" if self._problem else ""
            )
        self._problem = problem

    def guard(self, application: web.Application) -> None:
        """Make an application check each client, and send the configured headers with every response."""
        application.middlewares.append(self._middleware)
        application.on_response_prepare.append(self._add_headers)

    async def _add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._loaded.config.headers)
        response.headers[hdrs.SERVER] = SERVER  # aiohttp would show its own version and Python's

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = self._refuse_certificate(request)
        if refusal is None and self._loaded.needs_password:
            refusal = await self._refuse_password(request)
        return await handler(request) if refusal is None else refusal

    def _refuse_certificate(self, request: web.Request) -> web.Response | None:
        tls = self._loaded.config.tls
        if tls is None or not tls.allowed_sans:
            return None
        transport = request.transport
        if transport and san_is_allowed(transport.get_extra_info("peercert"), tls.allowed_sans):
            return None
        refusal = web.Response(status=403, text="no name in the client certificate is allowed\n")
        refusal.force_close()
        return refusal

    async def _refuse_password(self, request: web.Request) -> web.Response | None:
        users, sent = self._loaded.config.users, credentials(request.headers.get(hdrs.AUTHORIZATION, ""))
        verdict = await self._checker.verify(sent, users) if sent and users else Verdict.WRONG
        match verdict:
            case Verdict.GOOD:
                return None
            case Verdict.WRONG:
                headers = {hdrs.WWW_AUTHENTICATE: 'Basic realm="llem-exporter", charset="UTF-8"'}
                return web.Response(
                    status=401, text="a valid user name and password are required\n", headers=headers
                )
            case Verdict.BUSY:
                headers = {hdrs.RETRY_AFTER: str(RETRY_AFTER_SECONDS)}
                return web.Response(
                    status=503, text="too many passwords are being checked\n", headers=headers
                )


def _stat(path: Path) -> _Stat:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


def _requires_certificate(config: WebConfig) -> bool:
    return config.tls is not None and config.tls.client_auth is ClientAuth.REQUIRED


def _lost_guard(before: WebConfig, after: WebConfig) -> str | None:
    """The TLS setting whose removal would let more clients in; None if there is none."""
    if before.tls and not after.tls:
        return "tls_server_config"
    if _requires_certificate(before) and not _requires_certificate(after):
        return f"client_auth_type {ClientAuth.REQUIRED}"
    if before.tls and before.tls.allowed_sans and not (after.tls and after.tls.allowed_sans):
        return "client_allowed_sans"
    return None


def _strictness(loaded: _Loaded) -> object:
    """What an existing connection must have met. The server's certificate is not part of it."""
    tls, context = loaded.config.tls, loaded.context
    if tls is None or context is None:
        return None
    return tls.client_auth, tls.minimum, tls.maximum, sorted(context.get_ca_certs(binary_form=True))
