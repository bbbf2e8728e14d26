"""The live web config: who may ask, over which TLS, and what is taken over when its files change.

Source: the format and its rules are those of Prometheus' exporter-toolkit (see web_settings).
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from weakref import WeakSet

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from llem_core.errors import ConfigError
from llem_exporter.web.auth import Verdict, Verifier, credentials
from llem_exporter.web.files import Signature, WebFiles
from llem_exporter.web.rate_limit import TokenBucket
from llem_exporter.web.settings import ClientAuth, TlsSettings, WebSettings
from llem_exporter.web.tls import TlsMaterial, new_context, san_is_allowed

RETRY_CHECKS: Final = 10
"""A fault of the system's (no descriptor left, say) leaves no trace in the files that failed."""
RETRY_AFTER_SECONDS: Final = 1
SERVER: Final = "llem-exporter"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    settings: WebSettings
    material: TlsMaterial | None
    context: ssl.SSLContext | None
    users: dict[bytes, bytes]
    bucket: TokenBucket | None


class WebConfig:
    """The last good config of a file; without a file: plain HTTP for everyone."""

    def __init__(self, files: WebFiles | None, loaded: _Loaded, verifier: Verifier) -> None:
        self._files, self._loaded, self._verifier = files, loaded, verifier
        self._changing: Signature | None = None
        self._problem, self._checks = "", 0
        # Those whose clients had to show what they have to show now.
        self._as_strict: WeakSet[ssl.SSLContext] = WeakSet([loaded.context] if loaded.context else [])

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """The config of a file. Raises ConfigError with the file, the key and what is wrong with it."""
        verifier = Verifier()
        if path is None:
            return cls(None, _Loaded(WebSettings(), None, None, {}, None), verifier)
        files = WebFiles(path)
        try:
            return cls(files, _read(files, None), verifier)
        except ConfigError as exc:
            raise ConfigError(f"--web.config.file {path}: {exc}") from exc

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """The current one; None for plain HTTP."""
        return self._loaded.context

    @property
    def is_guarded(self) -> bool:
        """Whether a client must prove who it is."""
        tls = self._loaded.settings.tls
        return bool(self._loaded.users) or (tls is not None and tls.client_auth is ClientAuth.REQUIRED)

    def guard(self, application: web.Application) -> None:
        """Have an application ask each client, and send the configured headers with every answer."""
        application.middlewares.append(self.middleware)
        application.on_response_prepare.append(self.add_headers)

    async def add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Add the configured headers; in time also for an answer that is written bit by bit."""
        response.headers.update(self._loaded.settings.headers)
        response.headers[hdrs.SERVER] = SERVER  # aiohttp would tell its version, and Python's

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer who may not ask; pass on the others."""
        # "is None", not "or": to older aiohttp a response is a mapping, and an empty one is false.
        refusal = self._refuse_connection(request)
        if refusal is None:
            refusal = await self._refuse_client(request)
        return await handler(request) if refusal is None else refusal

    def _refuse_connection(self, request: web.Request) -> web.Response | None:
        loaded = self._loaded
        if loaded.bucket and not loaded.bucket.take():
            return _later(429, "too many requests\n")
        if loaded.settings.tls is None:
            return None
        transport = request.transport
        context = transport.get_extra_info("sslcontext") if transport else None
        sans = loaded.settings.tls.allowed_sans
        if context in self._as_strict and transport is not None:
            if not sans or san_is_allowed(transport.get_extra_info("peercert"), sans):
                return None
            text = "no name in the client certificate is allowed here\n"
        else:
            text = "this connection was made under other TLS settings; make a new one\n"
        refusal = web.Response(status=403, text=text)
        refusal.force_close()
        return refusal

    async def _refuse_client(self, request: web.Request) -> web.Response | None:
        users = self._loaded.users
        if not users:
            return None
        sent = credentials(request.headers.get(hdrs.AUTHORIZATION, ""))
        verdict = await self._verifier.verify(sent, users, request.remote or "") if sent else Verdict.WRONG
        match verdict:
            case Verdict.GOOD:
                return None
            case Verdict.WRONG:
                headers = {hdrs.WWW_AUTHENTICATE: 'Basic realm="llem-exporter", charset="UTF-8"'}
                return web.Response(status=401, text="a user and a password, please\n", headers=headers)
            case Verdict.BUSY:
                return _later(503, "too many passwords are being verified\n")

    def reload_if_changed(self, *, force: bool = False) -> bool:
        """Whether `ssl_context` is another one now. A wrong file changes nothing, and is logged once.

        Without `force` a change counts once the files were the same at two calls: no half of one is read.
        """
        if self._files is None or not (force or self._is_due(self._files)):
            return False
        self._changing = None
        try:
            loaded = _read(self._files, self._loaded)
            _refuse_loosening(self._loaded.settings, loaded.settings)
        except ConfigError as exc:
            self._report(str(exc))
            return False
        self._report("")
        return self._take_over(loaded)

    def _is_due(self, files: WebFiles) -> bool:
        self._checks += 1
        if not files.changed():
            self._changing = None
            return bool(self._problem) and self._checks % RETRY_CHECKS == 0
        now = files.signature()
        settled, self._changing = now == self._changing, now
        return settled

    def _report(self, problem: str) -> None:
        path = self._files.path if self._files else None
        if problem and problem != self._problem:
            _log.error("--web.config.file %s: %s; what was read before stays", path, problem)
        elif not problem:
            _log.info("--web.config.file %s: read again%s", path, ", and good again" if self._problem else "")
        self._problem = problem

    def _take_over(self, loaded: _Loaded) -> bool:
        before, self._loaded = self._loaded, loaded
        if loaded.context is before.context:
            return False
        if _proof(loaded.material) != _proof(before.material):
            self._as_strict.clear()
        if loaded.context:
            self._as_strict.add(loaded.context)
        return True


def _read(files: WebFiles, before: _Loaded | None) -> _Loaded:
    """The files' config. What did not change is the same object as before: context and token bucket."""
    settings, material = files.read()
    if before and material == before.material:
        context = before.context
    else:
        context = new_context(material) if material else None
    limit = settings.rate_limit
    if before and limit == before.settings.rate_limit:
        bucket = before.bucket
    else:
        bucket = TokenBucket(limit.interval_s, limit.burst) if limit else None
    users = {name.encode(): hashed.encode() for name, hashed in settings.users.items()}
    return _Loaded(settings, material, context, users, bucket)


def _refuse_loosening(before: WebSettings, after: WebSettings) -> None:
    """Raises ConfigError where a guard is gone: half a file, or an accident, must not open the doors."""
    old, new = before.tls, after.tls
    gone = {
        "tls_server_config": old is not None and new is None,
        "basic_auth_users": bool(before.users) and not after.users,
        f"client_auth_type {ClientAuth.REQUIRED}": _requires(old) and not _requires(new),
        "client_allowed_sans": bool(old and old.allowed_sans) and not (new and new.allowed_sans),
    }
    for key, is_gone in gone.items():
        if is_gone:
            raise ConfigError(f"{key} is gone; to serve without it, restart")


def _requires(tls: TlsSettings | None) -> bool:
    return tls is not None and tls.client_auth is ClientAuth.REQUIRED


def _proof(material: TlsMaterial | None) -> object:
    """What decides over which connections an answer may go; a server's new certificate is not in it."""
    if material is None:
        return None
    settings = material.settings
    return (
        settings.client_auth,
        material.client_ca,
        settings.minimum,
        settings.maximum,
        settings.cipher_suites,
        settings.curve,
    )


def _later(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers={hdrs.RETRY_AFTER: str(RETRY_AFTER_SECONDS)})
