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
_KEPT: Final = "the previous configuration stays in effect"
_NO_TLS: Final = "tls_server_config is missing: the previous one stays in effect until a restart"
_NO_USERS: Final = (
    "basic_auth_users is empty: every request gets 401 until the file lists a user. "
    "A restart serves without passwords"
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

    A running exporter never becomes more open because a section is missing, as in a truncated file: TLS
    stays as it was, and without users nobody gets in.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises ConfigError with the file, the key and the reason."""
        self._path = path
        self._loaded = _Loaded(WebConfig(), None, needs_password=False)
        self._files: tuple[Path, ...] = ()
        self._applied: tuple[_Stat, ...] = ()
        self._seen: tuple[_Stat, ...] = ()
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
        tls = self._loaded.config.tls
        return self._loaded.needs_password or (tls is not None and tls.client_auth is ClientAuth.REQUIRED)

    def watch(self, on_new_tls: Callable[[], object]) -> None:
        """Start a thread that applies changes of the file, so that a hung file system delays no request.

        The thread calls `on_new_tls` when existing connections may not meet the TLS settings any more.
        """

        def check() -> None:
            while True:
                force = self._woken.wait(CHECK_SECONDS)
                self._woken.clear()
                if self._stopped:
                    return
                if self.reload_if_changed(force=force):
                    on_new_tls()

        if self._path:
            threading.Thread(target=check, name="web-config", daemon=True).start()

    def reload_soon(self) -> None:
        """Make the thread read the file now, although it may not have changed."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread. A thread that hangs in the file system ends with the process."""
        self._stopped = True
        self._woken.set()

    def reload_if_changed(self, *, force: bool = False) -> bool:
        """Apply a changed file. Returns whether TLS settings other than the server's certificate changed.

        A change is applied when two calls see the same files, so that no half-written file is read; `force`
        skips this. An invalid file changes nothing. It is logged once, and read again in every call.
        """
        if self._path is None:
            return False
        stats = tuple(map(_stat, self._files))
        settled, self._seen = stats == self._seen, stats
        if not force and not (settled and (self._problem or stats != self._applied)):
            return False
        before = loaded = self._loaded
        problem = ""
        try:
            loaded = self._read(self._path)
        except ConfigError as exc:
            problem = f"{exc}; {_KEPT}"
        if before.config.tls and not loaded.config.tls:
            problem = _NO_TLS
            loaded = replace(
                loaded, config=replace(loaded.config, tls=before.config.tls), context=before.context
            )
        elif not problem and loaded.needs_password and not loaded.config.users:
            problem = _NO_USERS
        self._loaded = loaded
        self._report(problem)
        return _client_rules(loaded) != _client_rules(before)

    def _read(self, path: Path) -> _Loaded:
        own_stat = _stat(path)  # before reading, so that a change in the meantime is noticed
        self._files = self._files or (path,)
        config = web_config.read(path)
        pem_files = config.tls.files if config.tls else ()
        self._files, self._applied = (path, *pem_files), (own_stat, *map(_stat, pem_files))
        context = new_context(config.tls) if config.tls else None
        return _Loaded(config, context, self._loaded.needs_password or bool(config.users))

    def _report(self, problem: str) -> None:
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
        response.headers[hdrs.SERVER] = "llem-exporter"  # aiohttp would show its version and Python's

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        loaded = self._loaded
        if loaded.config.tls and loaded.config.tls.allowed_sans:
            peer = request.transport.get_extra_info("peercert") if request.transport else None
            if not san_is_allowed(peer, loaded.config.tls.allowed_sans):
                refusal = web.Response(status=403, text="no name in the client certificate is allowed\n")
                refusal.force_close()
                return refusal
        if loaded.needs_password and (refused := await self._refuse_password(request, loaded.config)):
            status, text, headers = refused
            return web.Response(status=status, text=text, headers=headers)
        return await handler(request)

    async def _refuse_password(
        self, request: web.Request, config: WebConfig
    ) -> tuple[int, str, dict[str, str]] | None:
        """The status, text and headers of a refusal; None for the right password."""
        sent = credentials(request.headers.get(hdrs.AUTHORIZATION, ""))
        verdict = await self._checker.verify(sent, config.users) if sent and config.users else Verdict.WRONG
        match verdict:
            case Verdict.GOOD:
                return None
            case Verdict.WRONG:
                challenge = {"WWW-Authenticate": 'Basic realm="llem-exporter", charset="UTF-8"'}
                return 401, "a valid user name and password are required\n", challenge
            case Verdict.BUSY:
                return 503, "too many passwords are being checked\n", {"Retry-After": "1"}


def _stat(path: Path) -> _Stat:
    """What changes as soon as a file is replaced or written to; None for a missing file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


def _client_rules(loaded: _Loaded) -> object:
    """What a client must meet to connect. The server's own certificate is not part of it."""
    authorities = loaded.context.get_ca_certs(binary_form=True) if loaded.context else []
    tls = loaded.config.tls
    return tls and (tls.client_auth, tls.minimum, tls.maximum, sorted(authorities))
