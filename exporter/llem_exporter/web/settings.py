"""What a web config file says, in the format of Prometheus' exporter-toolkit; no file is read here.

Source: exporter-toolkit 0.20, docs/web-configuration.md and web/tls_config.go. Where Python's ssl
cannot do what a key asks for, that is an error, unless nothing gets weaker by it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from llem_core.errors import ConfigError
from llem_exporter.web import strict_yaml
from llem_exporter.web.strict_yaml import Section, shortened

MAX_COST: Final = 14
"""Of a bcrypt hash: about 0.8 s. A higher one keeps who scrapes first waiting for seconds."""

# With these values only; None: any. Source: exporter-toolkit 0.20, web/handler.go.
_HEADERS: Final[Mapping[str, Sequence[str] | None]] = {
    "Strict-Transport-Security": None,
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": None,
    "Content-Security-Policy": None,
}
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class ClientAuth(StrEnum):
    """What a client must show; only what Python's ssl can hold to."""

    NONE = "NoClientCert"
    IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRED = "RequireAndVerifyClientCert"


class TlsVersion(StrEnum):
    """The versions that are served; those before are broken (RFC 8996)."""

    TLS12 = "TLS12"
    TLS13 = "TLS13"


@dataclass(frozen=True, slots=True)
class Pem:
    """PEM text: inline, or in a file."""

    key: str
    path: str | None
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """tls_server_config."""

    certificate: Pem
    private_key: Pem
    client_auth: ClientAuth
    client_ca: Pem | None
    allowed_sans: frozenset[str]
    minimum: TlsVersion
    maximum: TlsVersion
    cipher_suites: tuple[str, ...]
    curve: str | None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """rate_limit: a request each `interval_s`, and `burst` at once."""

    interval_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebSettings:
    """All of the file."""

    tls: TlsSettings | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    rate_limit: RateLimit | None = None


def parse(text: str) -> WebSettings:
    """The settings of a file's text. Raises ConfigError: the key, what is wrong with it, never a secret."""
    root = Section("", strict_yaml.parse(text))
    settings = WebSettings(
        tls=_tls(root.section("tls_server_config")),
        headers=_headers(root.section("http_server_config")),
        users=_users(root.section("basic_auth_users")),
        rate_limit=_rate_limit(root.section("rate_limit")),
    )
    root.end()
    return settings


def _tls(section: Section) -> TlsSettings | None:
    if section.empty:
        return None
    certificate, private_key = _pem(section, "cert"), _pem(section, "key")
    client_ca = _pem(section, "client_ca")
    client_auth = _client_auth(section)
    sans = frozenset(section.texts("client_allowed_sans"))
    minimum = _version(section, "min_version", TlsVersion.TLS12)
    maximum = _version(section, "max_version", TlsVersion.TLS13)
    ciphers = tuple(section.texts("cipher_suites"))
    curves = section.texts("curve_preferences")
    # Read and ignored, as the toolkit does: the server's order always counts.
    section.flag("prefer_server_cipher_suites")
    section.end()
    for pem, key in ((certificate, "cert"), (private_key, "key")):
        if pem is None:
            raise ConfigError(f"tls_server_config needs {key}_file (or {key}, the PEM itself)")
    assert certificate is not None  # noqa: S101
    assert private_key is not None  # noqa: S101
    if minimum > maximum:
        raise ConfigError(f"tls_server_config.min_version {minimum} is above max_version {maximum}")
    if len(curves) > 1:
        raise ConfigError(
            "tls_server_config.curve_preferences names several curves, and Python's ssl takes one: "
            "name one, or leave it out for OpenSSL's"
        )
    _check_clients(client_auth, client_ca, sans)
    curve = curves[0] if curves else None
    return TlsSettings(
        certificate, private_key, client_auth, client_ca, sans, minimum, maximum, ciphers, curve
    )


def _pem(section: Section, key: str) -> Pem | None:
    path, text = section.text(f"{key}_file"), section.text(key)
    if path and text:
        raise ConfigError(f"{section.label(key)} and {key}_file are both there; leave one of them out")
    if not path and not text:
        return None
    return Pem(section.label(f"{key}_file" if path else key), path or None, text)


def _client_auth(section: Section) -> ClientAuth:
    value = section.text("client_auth_type") or ClientAuth.NONE
    if value == "RequestClientCert":
        # Neither needed nor verified: a certificate that nobody asks for proves as much.
        return ClientAuth.NONE
    if value in ("RequireAnyClientCert", "RequireClientCert"):
        raise ConfigError(
            f"tls_server_config.client_auth_type {value} verifies nothing, and Python's ssl cannot do "
            f"that: take {ClientAuth.REQUIRED} and client_ca_file"
        )
    if value not in tuple(ClientAuth):
        raise ConfigError(
            f"tls_server_config.client_auth_type is {shortened(value)}, not one of {', '.join(ClientAuth)}"
        )
    return ClientAuth(value)


def _check_clients(client_auth: ClientAuth, client_ca: Pem | None, sans: frozenset[str]) -> None:
    if client_ca and client_auth is ClientAuth.NONE:
        raise ConfigError(f"{client_ca.key} verifies nobody without client_auth_type: {ClientAuth.REQUIRED}")
    if client_auth is not ClientAuth.NONE and client_ca is None:
        raise ConfigError(f"tls_server_config.client_auth_type {client_auth} needs client_ca_file")
    if sans and client_auth is not ClientAuth.REQUIRED:
        raise ConfigError(
            "tls_server_config.client_allowed_sans holds nobody back without "
            f"client_auth_type: {ClientAuth.REQUIRED}"
        )


def _version(section: Section, key: str, default: TlsVersion) -> TlsVersion:
    value = section.text(key) or default
    if value not in tuple(TlsVersion):
        broken = " (TLS 1.0 and 1.1 are broken and not served)" if value in ("TLS10", "TLS11") else ""
        raise ConfigError(
            f"{section.label(key)} is {shortened(value)}, not {' or '.join(TlsVersion)}{broken}"
        )
    return TlsVersion(value)


def _headers(section: Section) -> dict[str, str]:
    # HTTP/1.1 is served, whatever this says; clients settle on it by themselves.
    section.flag("http2")
    headers = section.section("headers")
    section.end()
    found = {}
    for name, allowed in _HEADERS.items():
        value = headers.text(name)
        if value and allowed and value not in allowed:
            raise ConfigError(f"{headers.label(name)} is {shortened(value)}, not {' or '.join(allowed)}")
        if not re.fullmatch(r"[\t -~]*", value):
            raise ConfigError(f"{headers.label(name)} must be one line of ASCII")
        if value:
            found[name] = value
    headers.end()
    return found


def _users(section: Section) -> dict[str, str]:
    users = section.rest()
    for name, hashed in users.items():
        key = f"{section.name}.{name if name.isprintable() and len(name) <= 60 else shortened(name)}"
        if not name or ":" in name:
            raise ConfigError(f"{key}: a user has a name, without a colon")
        found = (
            re.fullmatch(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", hashed) if isinstance(hashed, str) else None
        )
        if found is None or not _salt_is_valid(hashed):
            raise ConfigError(f"{key} is no bcrypt hash; make one with: htpasswd -nBC 10 ''")
        if not 4 <= int(found[1]) <= MAX_COST:
            raise ConfigError(f"{key}: its cost is {int(found[1])}, not between 4 and {MAX_COST}")
    return users


def _salt_is_valid(hashed: str) -> bool:
    import bcrypt

    try:
        # At the lowest cost: it takes a millisecond.
        bcrypt.hashpw(b"", f"{hashed[:4]}04{hashed[6:29]}".encode())
    except ValueError:
        return False
    return True


def _rate_limit(section: Section) -> RateLimit | None:
    interval, burst = section.text("interval"), section.text("burst")
    section.end()
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", interval, re.ASCII)
    if "".join(number + unit for number, unit in parts) != interval and interval != "0":
        raise ConfigError(f"rate_limit.interval is a duration, as 1s or 100ms, not {shortened(interval)}")
    interval_s = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not re.fullmatch(r"\d{0,9}", burst, re.ASCII):
        raise ConfigError(f"rate_limit.burst is a whole number, not {shortened(burst)}")
    if interval_s <= 0:
        return None
    if int(burst or 0) < 1:
        raise ConfigError("rate_limit.burst must be at least 1, else nobody is ever answered")
    return RateLimit(interval_s, int(burst))
