"""The current web config, and how a changed file takes effect."""

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from llem_core.errors import ConfigError
from llem_exporter.web.config import WebConfig, parse, read_file
from llem_exporter.web.tls import new_context

CHECK_SECONDS: Final = 1.0
_KEPT: Final = "the previous configuration stays in effect"
_NO_TLS: Final = (
    "tls_server_config is missing: the previous TLS settings stay in effect. "
    "After a restart, the exporter serves plain HTTP."
)
_NO_USERS: Final = (
    "basic_auth_users is empty: all requests are rejected with 401. Add a user. "
    "After a restart, the exporter accepts requests without a password."
)

_log = logging.getLogger(__name__)


class LiveWebConfig:
    """The last valid content of a web config file. Without a file: plain HTTP without passwords.

    `ssl_context` is for new connections; None means plain HTTP. If a reloaded file has no TLS or
    user section, for example because it is truncated, the exporter keeps TLS on and rejects all requests
    that need a password.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file. Raises ConfigError with the file, the key and the reason."""
        self.config, self.needs_password = WebConfig(), False
        self.ssl_context: ssl.SSLContext | None = None
        self._path = path
        self._files: tuple[Path, ...] = ()
        self._contents: list[bytes | str] = []
        self._seen: list[bytes | str] = []
        self._problem = ""
        self._woken = threading.Event()
        if path:
            try:
                self._load(path)
            except ConfigError as exc:
                raise ConfigError(f"--web.config.file {path}: {exc}") from exc

    def watch(self, on_new_tls: Callable[[], object]) -> None:
        """Start a thread that applies changes of the file, so that a hung file system delays no request.

        The thread calls `on_new_tls` when existing connections may not meet the TLS settings any more.
        """

        def check() -> None:
            while True:
                force = self._woken.wait(CHECK_SECONDS)
                self._woken.clear()
                if self.reload_if_changed(force=force):
                    on_new_tls()

        if self._path:
            threading.Thread(target=check, name="web-config", daemon=True).start()

    def reload_soon(self) -> None:
        """Make the thread read the file now, although it may not have changed."""
        self._woken.set()

    def reload_if_changed(self, *, force: bool = False) -> bool:
        """Apply a changed file. Return whether TLS settings other than the server's certificate changed.

        An invalid file changes nothing, and is logged once.
        """
        contents = list(map(_content, self._files))
        # A change counts once it is the same at two checks: a file may be half-written.
        settled, self._seen = contents == self._seen, contents
        if self._path is None or not (force or (settled and contents != self._contents)):
            return False
        self._contents = contents
        rules = self._client_rules()
        try:
            problem = self._load(self._path)
        except ConfigError as exc:
            problem = f"{exc}; {_KEPT}"
        if problem and problem != self._problem:
            _log.error("--web.config.file %s: %s", self._path, problem)
        elif not problem:
            now_valid = ", now valid" if self._problem else ""
            _log.info("--web.config.file %s: reloaded%s", self._path, now_valid)
        self._problem = problem
        return self._client_rules() != rules

    def _load(self, path: Path) -> str:
        """Read and apply the file and the files that it names. Return what is missing in it."""
        content = read_file(path)
        if self._contents and not content.strip():
            raise ConfigError("the file is empty")
        config = parse(content, path.parent)
        pem_files = config.tls.files if config.tls else ()
        self._files, self._contents = (path, *pem_files), [content, *map(_content, pem_files)]
        context = new_context(config.tls) if config.tls else None
        self.needs_password = self.needs_password or bool(config.users)
        problem = _NO_USERS if self.needs_password and not config.users else ""
        if self.config.tls and not config.tls:
            problem = _NO_TLS
            config, context = replace(config, tls=self.config.tls), self.ssl_context
        self.config, self.ssl_context = config, context
        return problem

    def _client_rules(self) -> object:
        """What a client must meet to connect. The server's own certificate is not part of it."""
        tls, context = self.config.tls, self.ssl_context
        return tls and context and (tls.minimum, sorted(context.get_ca_certs(binary_form=True)))


def _content(path: Path) -> bytes | str:
    """Return the content of a file, or why it cannot be read."""
    try:
        return read_file(path)
    except ConfigError as exc:
        return str(exc)
