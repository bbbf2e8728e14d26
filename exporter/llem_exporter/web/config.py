"""The web config file: its sections, read and checked.

Source: exporter-toolkit 0.20, docs/web-configuration.md and web/tls_config.go. A key that cannot be honoured
is an error, unless ignoring it makes nothing less secure.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import TLSVersion
from typing import Any, Final

from llem_core import strict_yaml
from llem_core.errors import ConfigError
from llem_core.strict_yaml import shortened

MAX_COST: Final = 14
"""The highest bcrypt cost: checking one password takes about 0.8 s."""

_NO_CLIENT_CERT: Final = "NoClientCert"
_CLIENT_CERT: Final = "RequireAndVerifyClientCert"
_VERSIONS: Final = {"TLS12": TLSVersion.TLSv1_2, "TLS13": TLSVersion.TLSv1_3}

_KEYS: Final = {
    "": ("tls_server_config", "http_server_config", "basic_auth_users"),
    "tls_server_config": (
        "cert_file",
        "key_file",
        "client_ca_file",
        "client_auth_type",
        "client_allowed_sans",
        "min_version",
        "prefer_server_cipher_suites",  # ignored, as in the toolkit
    ),
    "http_server_config": ("http2",),  # ignored: clients negotiate HTTP/1.1
}


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The section tls_server_config. With `client_ca_file`, a client must present a certificate."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None
    allowed_sans: frozenset[str]
    minimum: TLSVersion

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the section names."""
        return tuple(file for file in (self.cert_file, self.key_file, self.client_ca_file) if file)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The whole file. `users` are bcrypt hashes by user name."""

    tls: TlsConfig | None = None
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)


def read_file(path: Path) -> bytes:
    """Return the content of a regular file, because reading a pipe would block. Raises ConfigError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError("not a regular file")
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}") from exc


def parse(content: bytes, folder: Path) -> WebConfig:
    """Parse the file's content. Paths in it are relative to `folder`.

    Raises ConfigError with the key and the reason, and without secrets.
    """
    try:
        document = strict_yaml.parse(content.decode())
    except UnicodeDecodeError as exc:
        raise ConfigError(f"byte {exc.start} is not UTF-8") from None
    sections = _section("", document)
    tls, _, users = (_section(name, sections.get(name, "")) for name in _KEYS[""])
    return WebConfig(_tls(tls, folder) if tls else None, _users(users))


def _section(name: str, value: Any) -> dict[str, Any]:
    """Return a section if it is a mapping with known keys, and an empty one for ""."""
    if value == "":
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name or 'the file'} must be a mapping (key: value)")
    for key in value:
        if key not in _KEYS.get(name, value):
            raise ConfigError(f"{shortened(f'{name}.{key}'.lstrip('.'))} is not supported")
    return value


def _tls(section: Mapping[str, Any], folder: Path) -> TlsConfig:
    label = "tls_server_config"
    sans = section.get("client_allowed_sans") or []
    if not isinstance(sans, list) or not all(isinstance(san, str) for san in sans):
        raise ConfigError(f"{label}.client_allowed_sans must be a list of strings")
    for key, value in section.items():
        if key != "client_allowed_sans" and not isinstance(value, str):
            raise ConfigError(f"{label}.{key} must be a string")
    paths = [section.get(key) for key in ("cert_file", "key_file", "client_ca_file")]
    cert_file, key_file, client_ca_file = (folder / path if path else None for path in paths)
    needs_client = _chosen(section, "client_auth_type", (_NO_CLIENT_CERT, _CLIENT_CERT)) == _CLIENT_CERT
    minimum = _VERSIONS[_chosen(section, "min_version", ("TLS12", "TLS13"))]
    if cert_file is None or key_file is None:
        raise ConfigError(f"{label} needs cert_file and key_file")
    if needs_client != bool(client_ca_file):
        raise ConfigError(
            f"{label}: client_auth_type {_CLIENT_CERT} requires client_ca_file, and the reverse"
        )
    if sans and not needs_client:
        raise ConfigError(f"{label}.client_allowed_sans needs client_auth_type {_CLIENT_CERT}")
    return TlsConfig(cert_file, key_file, client_ca_file, frozenset(sans), minimum)


def _chosen(section: Mapping[str, str], key: str, choices: tuple[str, ...]) -> str:
    """Return the value of a key that must be one of the choices. The first one is the default."""
    value = section.get(key) or choices[0]
    if value not in choices:
        raise ConfigError(f"tls_server_config.{key} is {shortened(value)}, not one of {', '.join(choices)}")
    return value


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
