"""The web config file: its sections, read and checked.

Source: exporter-toolkit 0.20, docs/web-configuration.md, web/tls_config.go and web/handler.go. A key that
Python's ssl cannot honour is an error, unless ignoring it makes nothing less secure.
"""

import re
import ssl
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from llem_core import strict_yaml
from llem_core.errors import ConfigError
from llem_core.strict_yaml import shortened

MAX_FILE_BYTES: Final = 64 * 1024
MAX_COST: Final = 14
"""The highest bcrypt cost: checking one password takes about 0.8 s."""

_HEADERS: Final[Mapping[str, Sequence[str]]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
"""The headers that can be set, and the values allowed; () allows any."""
_UNSUPPORTED: Final = {
    "rate_limit": "connections and password checks are limited without it",
    "tls_server_config.cipher_suites": "OpenSSL's defaults are used",
    "tls_server_config.curve_preferences": "OpenSSL's defaults are used",
    "tls_server_config.cert": "use cert_file",
    "tls_server_config.key": "use key_file",
    "tls_server_config.client_ca": "use client_ca_file",
}
_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


class ClientAuth(StrEnum):
    """What a client must present. Python's ssl supports no other choice."""

    NONE = "NoClientCert"
    IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRED = "RequireAndVerifyClientCert"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The section tls_server_config. Paths are absolute or relative to the working directory."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None
    client_auth: ClientAuth
    allowed_sans: frozenset[str]
    minimum: ssl.TLSVersion
    maximum: ssl.TLSVersion

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the section names."""
        files = (self.cert_file, self.key_file, self.client_ca_file)
        return tuple(file for file in files if file is not None)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The whole file. `users` are bcrypt hashes by user name."""

    tls: TlsConfig | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)


def read(path: Path) -> WebConfig:
    """Read the file. Raises ConfigError with the key and the reason, and without secrets."""
    check_file(path, MAX_FILE_BYTES)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"byte {exc.start} is not UTF-8") from None
    return parse(text, path.parent)


def check_file(path: Path, max_bytes: int) -> None:
    """Raise ConfigError unless this is a regular file of at most `max_bytes`. Reading a pipe would block."""
    try:
        status = path.stat()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("not a regular file")
    if status.st_size > max_bytes:
        raise ConfigError(f"longer than {max_bytes // 1024} KiB")


def parse(text: str, folder: Path) -> WebConfig:
    """Parse the file's text. Paths in it are relative to `folder`. Raises ConfigError."""
    root = _Section("", strict_yaml.parse(text))
    config = WebConfig(
        tls=_tls(root.section("tls_server_config"), folder),
        headers=_headers(root.section("http_server_config")),
        users=_users(root.section("basic_auth_users")),
    )
    root.end()
    return config


def _tls(section: "_Section", folder: Path) -> TlsConfig | None:
    if section.is_empty:
        return None

    def file(key: str) -> Path | None:
        name = section.text(key)
        return folder / name if name else None

    cert_file, key_file, client_ca_file = file("cert_file"), file("key_file"), file("client_ca_file")
    client_auth = _client_auth(section)
    sans = frozenset(section.texts("client_allowed_sans"))
    minimum = _VERSIONS[section.choice("min_version", "TLS12", _VERSIONS)]
    maximum = _VERSIONS[section.choice("max_version", "TLS13", _VERSIONS)]
    section.flag("prefer_server_cipher_suites")  # ignored, as in the toolkit
    section.end()
    if cert_file is None or key_file is None:
        raise ConfigError("tls_server_config needs both cert_file and key_file")
    if minimum > maximum:
        raise ConfigError("tls_server_config.min_version is above max_version")
    if (client_ca_file is None) != (client_auth is ClientAuth.NONE):
        raise ConfigError(
            f"tls_server_config.client_ca_file goes with client_auth_type {ClientAuth.REQUIRED} "
            f"or {ClientAuth.IF_GIVEN}"
        )
    if sans and client_auth is not ClientAuth.REQUIRED:
        raise ConfigError(
            f"tls_server_config.client_allowed_sans needs client_auth_type {ClientAuth.REQUIRED}"
        )
    return TlsConfig(cert_file, key_file, client_ca_file, client_auth, sans, minimum, maximum)


def _client_auth(section: "_Section") -> ClientAuth:
    # RequestClientCert verifies nothing in the toolkit either: a certificate that is not requested is equal.
    kinds = (*ClientAuth, "RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
    kind = section.choice("client_auth_type", ClientAuth.NONE, kinds)
    if kind in ("RequireAnyClientCert", "RequireClientCert"):
        raise ConfigError(
            f"tls_server_config.client_auth_type {kind} does not verify certificates and is not supported: "
            f"use {ClientAuth.REQUIRED}"
        )
    return ClientAuth.NONE if kind == "RequestClientCert" else ClientAuth(kind)


def _headers(section: "_Section") -> dict[str, str]:
    section.flag("http2")  # ignored: only HTTP/1.1 is served, and clients negotiate it
    headers = section.section("headers")
    section.end()
    found = {}
    for name, allowed in _HEADERS.items():
        value = headers.choice(name, "", allowed) if allowed else headers.text(name)
        if not re.fullmatch(r"[\t -~]*", value):
            raise ConfigError(f"{headers.label(name)} must be one line of ASCII")
        if value:
            found[name] = value
    headers.end()
    return found


def _users(section: "_Section") -> dict[bytes, bytes]:
    users = {}
    for name, hashed in section.rest().items():
        key = f"{section.name}.{name if name.isprintable() and len(name) <= 60 else shortened(name)}"
        if not name or ":" in name:
            raise ConfigError(f"{key}: a user name is not empty and has no colon")
        cost = _bcrypt_cost(hashed)
        if cost is None:
            raise ConfigError(f"{key} is not a bcrypt hash; make one with: htpasswd -nBC 10 ''")
        if not 4 <= cost <= MAX_COST:
            raise ConfigError(f"{key}: the bcrypt cost is {cost}, not between 4 and {MAX_COST}")
        users[name.encode()] = hashed.encode()
    return users


def _bcrypt_cost(hashed: object) -> int | None:
    """The cost of a hash that bcrypt can verify; None for anything else."""
    import bcrypt

    found = re.fullmatch(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", str(hashed), re.ASCII)
    if found is None:
        return None
    try:
        bcrypt.hashpw(b"", f"{str(hashed)[:4]}04{str(hashed)[6:29]}".encode())  # validates the salt in 1 ms
    except ValueError:
        return None
    return int(found[1])


class _Section:
    """A mapping whose keys are taken one by one. A key that is left at the end is unknown."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        if not isinstance(value, dict) and value != "":
            raise ConfigError(f"{name or 'the file'} must be a mapping (key: value)")
        self._left: dict[str, Any] = dict(value) if isinstance(value, dict) else {}

    def label(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def section(self, key: str) -> "_Section":
        return _Section(self.label(key), self._left.pop(key, ""))

    def text(self, key: str) -> str:
        value = self._left.pop(key, "")
        if not isinstance(value, str):
            raise ConfigError(f"{self.label(key)} must be text")
        return value

    def texts(self, key: str) -> list[str]:
        values = self._left.pop(key, "") or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{self.label(key)} must be a list of texts")
        return values

    def choice(self, key: str, default: str, allowed: Iterable[str]) -> str:
        value = self.text(key) or default
        if value != default and value not in allowed:
            raise ConfigError(f"{self.label(key)} is {shortened(value)}, not one of {', '.join(allowed)}")
        return value

    def flag(self, key: str) -> bool:
        return self.choice(key, "false", ("true", "false")) == "true"

    def rest(self) -> dict[str, Any]:
        taken, self._left = self._left, {}
        return taken

    @property
    def is_empty(self) -> bool:
        return not self._left

    def end(self) -> None:
        for key in map(self.label, self._left):
            if reason := _UNSUPPORTED.get(key):
                raise ConfigError(f"{key} is not supported: {reason}")
            raise ConfigError(f"{shortened(key)} is not a key of a web config file")
