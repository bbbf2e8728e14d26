"""The web config file: its sections, read and checked.

Source: exporter-toolkit 0.20, docs/web-configuration.md, web/tls_config.go and web/handler.go. A key that
Python's ssl cannot honour is an error, unless ignoring it makes nothing less secure.
"""

import re
import ssl
import stat
from collections.abc import Mapping
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

_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


class ClientAuth(StrEnum):
    """What a client must present. Python's ssl supports no other choice."""

    NONE = "NoClientCert"
    IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRED = "RequireAndVerifyClientCert"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The section tls_server_config. Relative paths are relative to the file's folder."""

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


_TEXT: Final = ""
_TEXTS: Final[list[str]] = []
_FLAG: Final = ("true", "false")
_FORM: Final = {
    "tls_server_config": {
        "cert_file": _TEXT,
        "key_file": _TEXT,
        "client_ca_file": _TEXT,
        # RequestClientCert verifies nothing, in the toolkit as well: the same as not to request one.
        "client_auth_type": (*ClientAuth, "RequestClientCert"),
        "client_allowed_sans": _TEXTS,
        "min_version": tuple(_VERSIONS),
        "max_version": tuple(_VERSIONS),
        "prefer_server_cipher_suites": _FLAG,  # ignored, as in the toolkit
    },
    "http_server_config": {
        "http2": _FLAG,  # ignored: only HTTP/1.1 is served, and clients negotiate it
        "headers": {
            "Strict-Transport-Security": _TEXT,
            "X-Content-Type-Options": ("nosniff",),
            "X-Frame-Options": ("deny", "sameorigin"),
            "X-XSS-Protection": _TEXT,
            "Content-Security-Policy": _TEXT,
        },
    },
    "basic_auth_users": None,  # any names
}
"""The keys of a file: a mapping, some texts to choose from, any text, or a list of texts."""


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
        raise ConfigError(f"cannot be read: {getattr(exc, 'strerror', exc)}") from exc
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("not a regular file")
    if status.st_size > max_bytes:
        raise ConfigError(f"longer than {max_bytes // 1024} KiB")


def parse(text: str, folder: Path) -> WebConfig:
    """Parse the file's text. Paths in it are relative to `folder`. Raises ConfigError."""
    sections = _checked("", strict_yaml.parse(text), _FORM)
    tls = sections.get("tls_server_config")
    headers = sections.get("http_server_config", {}).get("headers", {})
    for name, value in headers.items():
        if not re.fullmatch(r"[\t -~]*", value):
            raise ConfigError(f"http_server_config.headers.{name} must be one line of ASCII")
    return WebConfig(
        tls=_tls(tls, folder) if tls else None,
        headers={name: value for name, value in headers.items() if value},
        users=_users(sections.get("basic_auth_users") or {}),
    )


def _checked(name: str, value: Any, form: Any) -> Any:
    """The value if it has the form. Raises ConfigError otherwise."""
    if isinstance(form, dict) or form is None:
        if value != "" and not isinstance(value, dict):
            raise ConfigError(f"{name or 'the file'} must be a mapping (key: value)")
        if form is None:
            return value
        checked = {}
        for key, content in dict(value or {}).items():
            label = f"{name}.{key}" if name else key
            if key not in form:
                raise ConfigError(f"{shortened(label)} is not supported")
            checked[key] = _checked(label, content, form[key])
        return checked
    if form == _TEXTS:
        if value != "" and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ConfigError(f"{name} must be a list of texts")
    elif not isinstance(value, str):
        raise ConfigError(f"{name} must be text")
    elif form and value and value not in form:
        raise ConfigError(f"{name} is {shortened(value)}, not one of {', '.join(form)}")
    return value


def _tls(section: Mapping[str, Any], folder: Path) -> TlsConfig:
    label, paths = (
        "tls_server_config",
        [section.get(key) for key in ("cert_file", "key_file", "client_ca_file")],
    )
    cert_file, key_file, client_ca_file = (folder / path if path else None for path in paths)
    kind = section.get("client_auth_type") or ClientAuth.NONE
    client_auth = ClientAuth.NONE if kind == "RequestClientCert" else ClientAuth(kind)
    sans = frozenset(section.get("client_allowed_sans") or ())
    minimum = _VERSIONS[section.get("min_version") or "TLS12"]
    maximum = _VERSIONS[section.get("max_version") or "TLS13"]
    if cert_file is None or key_file is None:
        raise ConfigError(f"{label} needs cert_file and key_file")
    if minimum > maximum:
        raise ConfigError(f"{label}.min_version is above max_version")
    if client_auth is not ClientAuth.NONE and not client_ca_file:
        raise ConfigError(f"{label}.client_auth_type {client_auth} needs client_ca_file")
    if client_auth is ClientAuth.NONE and client_ca_file:
        raise ConfigError(f"{label}.client_ca_file needs client_auth_type {ClientAuth.REQUIRED}")
    if client_auth is not ClientAuth.REQUIRED and sans:
        raise ConfigError(f"{label}.client_allowed_sans needs client_auth_type {ClientAuth.REQUIRED}")
    return TlsConfig(cert_file, key_file, client_ca_file, client_auth, sans, minimum, maximum)


def _users(section: Mapping[str, Any]) -> dict[bytes, bytes]:
    users = {}
    for name, hashed in section.items():
        label = f"basic_auth_users.{name if name.isprintable() and len(name) <= 60 else shortened(name)}"
        if not name or ":" in name:
            raise ConfigError(f"{label}: a user name is not empty and has no colon")
        found = re.fullmatch(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", str(hashed), re.ASCII)
        if found is None:
            raise ConfigError(f"{label} is not a bcrypt hash; make one with: htpasswd -nBC 10 ''")
        if not 4 <= int(found[1]) <= MAX_COST:
            raise ConfigError(f"{label}: the bcrypt cost is {int(found[1])}, not between 4 and {MAX_COST}")
        users[name.encode()] = found[0].encode()
    return users
