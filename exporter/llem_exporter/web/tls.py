"""The listener's TLS context, out of settings and PEM bytes."""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from llem_core.errors import ConfigError
from llem_exporter.web.settings import ClientAuth, Pem, TlsSettings, TlsVersion
from llem_exporter.web.strict_yaml import shortened

# Names of Go's crypto/tls, and OpenSSL's. Source: ciphers(1), "TLS v1.2 cipher suites".
_TLS12_SUITES: Final = {
    f"TLS_ECDHE_{signed}_WITH_{go}": f"ECDHE-{signed}-{openssl}"
    for signed in ("ECDSA", "RSA")
    for go, openssl in (
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
}
_TLS13_SUITES: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_CURVES: Final = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
_VERSIONS: Final = {
    TlsVersion.TLS12: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS13: ssl.TLSVersion.TLSv1_3,
}
_VERIFY: Final = {
    ClientAuth.NONE: ssl.CERT_NONE,
    ClientAuth.IF_GIVEN: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}

_MFD_NOEXEC_SEAL: Final = 8


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """All that a context is made of: equal ones make contexts that do the same."""

    settings: TlsSettings
    certificate: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes | None


def new_context(material: TlsMaterial) -> ssl.SSLContext:
    """A server's context. Raises ConfigError with the key that cannot be used."""
    try:
        return _new_context(material)
    except ssl.SSLError as exc:  # a machine's own rules, as FIPS, may leave less than is asked for
        raise ConfigError(f"tls_server_config: OpenSSL refuses: {reason_of(exc)}") from exc


def _new_context(material: TlsMaterial) -> ssl.SSLContext:
    settings = material.settings
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # In TLS 1.3 each connection shows its certificate anew; scrapers keep theirs open anyway. With TLS 1.2
    # one can go on from an earlier one of the same context: Python cannot switch that off.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = _VERSIONS[settings.minimum]
    context.maximum_version = _VERSIONS[settings.maximum]
    _set_ciphers(context, settings)
    _set_curve(context, settings.curve)
    _load_pair(context, material)
    if settings.client_ca and material.client_ca is not None:
        _load_client_ca(context, settings.client_ca, material.client_ca)
    context.verify_mode = _VERIFY[settings.client_auth]
    return context


def _set_ciphers(context: ssl.SSLContext, settings: TlsSettings) -> None:
    key = "tls_server_config.cipher_suites"
    for name in settings.cipher_suites:
        if name not in _TLS12_SUITES and name not in _TLS13_SUITES:
            raise ConfigError(
                f"{key}: {shortened(name)} is none of {', '.join((*_TLS12_SUITES, *_TLS13_SUITES))}"
            )
    # As with Go, those of TLS 1.3 are not chosen among.
    chosen = [_TLS12_SUITES[name] for name in settings.cipher_suites if name in _TLS12_SUITES]
    if settings.cipher_suites and not chosen:
        if settings.maximum < TlsVersion.TLS13:
            raise ConfigError(f"{key} has none for TLS 1.2, and max_version is {settings.maximum}")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if chosen:
        context.set_ciphers(":".join(("@SECLEVEL=2", *chosen)))


def _set_curve(context: ssl.SSLContext, curve: str | None) -> None:
    if curve is None:
        return
    if curve not in _CURVES:
        raise ConfigError(
            f"tls_server_config.curve_preferences: {shortened(curve)} is none of {', '.join(_CURVES)}"
        )
    try:
        context.set_ecdh_curve(_CURVES[curve])
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(
            f"tls_server_config.curve_preferences: this OpenSSL does not serve {curve} alone"
        ) from exc


def _load_pair(context: ssl.SSLContext, material: TlsMaterial) -> None:
    certificate, private_key = material.settings.certificate, material.settings.private_key

    def refuse() -> str:
        raise ConfigError(f"{_named(private_key)} is encrypted, and nobody is asked for a passphrase")

    try:
        with _as_file(material.certificate) as chain, _as_file(material.private_key) as key:
            context.load_cert_chain(chain, key, password=refuse)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"{_named(certificate)} and {_named(private_key)} are no pair that can serve: {reason_of(exc)}"
        ) from exc


def _load_client_ca(context: ssl.SSLContext, pem: Pem, content: bytes) -> None:
    # What the file lists is trusted, be it a root or an intermediate, as with Go.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=content.decode("ascii", errors="ignore"))
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"{_named(pem)} has no certificate that can be used: {reason_of(exc)}") from exc
    if not context.get_ca_certs():
        raise ConfigError(f"{_named(pem)} has no certificate of an authority")


def _named(pem: Pem) -> str:
    return f"{pem.key} {shortened(pem.path)}" if pem.path else pem.key


def reason_of(error: Exception) -> str:
    """OpenSSL's own words, without its code and line number."""
    match error:
        case ssl.SSLError(reason=str(reason)):
            return reason.lower().replace("_", " ")
        case OSError(strerror=str(reason)):
            return re.sub(r" ?\(_ssl\.c:\d+\)", "", reason)
        case _:
            return re.sub(r" ?\(_ssl\.c:\d+\)", "", str(error))


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to these bytes, in memory only: ssl takes certificates and keys from files alone."""
    try:
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:  # a kernel before 6.3 does not know the flag, a hardened one wants it
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def san_is_allowed(certificate: dict[str, Any] | None, allowed: frozenset[str]) -> bool:
    """Whether one of the certificate's names is allowed; `certificate` as getpeercert() gives it."""
    names = (certificate or {}).get("subjectAltName", ())
    return any(_canonical(kind, value) in allowed for kind, value in names)


def _canonical(kind: str, value: str) -> str:
    if kind != "IP Address":
        return value
    from ipaddress import ip_address

    try:
        # OpenSSL writes IPv6 in full and in capitals; the toolkit compares the short form.
        return str(ip_address(value.strip()))
    except ValueError:
        return value
