"""The files of a web config: read as a whole, bounded, and watched for changes."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llem_core.errors import ConfigError
from llem_exporter.web import settings as web_settings
from llem_exporter.web.settings import Pem, WebSettings
from llem_exporter.web.strict_yaml import shortened
from llem_exporter.web.tls import TlsMaterial

MAX_CONFIG_BYTES: Final = 64 * 1024
MAX_PEM_BYTES: Final = 1024 * 1024

Signature = tuple[tuple[int, ...] | None, ...]
"""Of some files: when they were written and changed, their size and place; None for one that is not there."""


@dataclass(slots=True)
class WebFiles:
    """A config file, and the files that it named when it was read last."""

    path: Path
    _named: tuple[Path, ...] = ()
    _read: Signature = ()

    def signature(self) -> Signature:
        """What is unlike as soon as one of the files is another."""
        return tuple(_signatures((self.path, *self._named)))

    def changed(self) -> bool:
        """Whether one of the files is another than the one that was read last."""
        return self.signature() != self._read

    def read(self) -> tuple[WebSettings, TlsMaterial | None]:
        """Settings and the PEM files they name. Raises ConfigError: the key, the file and what is wrong."""
        # Before they are read: a file that is written meanwhile has changed.
        self._read = self.signature()
        content = _content(self.path, MAX_CONFIG_BYTES)
        try:
            settings = web_settings.parse(content.decode())
        except UnicodeDecodeError as exc:
            raise ConfigError(f"byte {exc.start} is not UTF-8") from None
        tls = settings.tls
        pems = (tls.certificate, tls.private_key, tls.client_ca) if tls else ()
        self._named = tuple(self._place(pem.path) for pem in pems if pem and pem.path)
        self._read = (self._read[0], *_signatures(self._named))
        if tls is None:
            return settings, None
        certificate, private_key = self._pem(tls.certificate), self._pem(tls.private_key)
        client_ca = self._pem(tls.client_ca) if tls.client_ca else None
        return settings, TlsMaterial(tls, certificate, private_key, client_ca)

    def _place(self, path: str) -> Path:
        return self.path.parent / path

    def _pem(self, pem: Pem) -> bytes:
        if pem.path is None:
            return pem.text.encode()
        try:
            return _content(self._place(pem.path), MAX_PEM_BYTES)
        except ConfigError as exc:
            raise ConfigError(f"{pem.key} {shortened(pem.path)} {exc}") from exc


def _signatures(paths: Iterable[Path]) -> Iterable[tuple[int, ...] | None]:
    for path in paths:
        try:
            found = path.stat()
        except (OSError, ValueError):
            yield None
        else:
            yield found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


def _content(path: Path, most_bytes: int) -> bytes:
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError("is no regular file, and so cannot be read again")
            content = file.read(most_bytes + 1)
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"cannot be read: {exc}") from exc
    if len(content) > most_bytes:
        raise ConfigError(f"is longer than {most_bytes // 1024} KiB")
    return content
