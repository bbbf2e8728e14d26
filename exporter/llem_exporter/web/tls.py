"""The TLS context of the server, and the names in client certificates."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llem_core.errors import ConfigError
from llem_core.strict_yaml import shortened
from llem_exporter.web.config import ClientAuth, TlsConfig, check_file

MAX_PEM_BYTES: Final = 1024 * 1024
_VERIFY: Final = {
    ClientAuth.NONE: ssl.CERT_NONE,
    ClientAuth.IF_GIVEN: ssl.CERT_OPTIONAL,
    ClientAuth.REQUIRED: ssl.CERT_REQUIRED,
}


def new_context(config: TlsConfig) -> ssl.SSLContext:
    """Read the PEM files and return a server context. Raises ConfigError with the file and the reason."""
    for path in config.files:
        try:
            check_file(path, MAX_PEM_BYTES)
        except ConfigError as exc:
            raise ConfigError(f"tls_server_config: {_quoted(path)}: {exc}") from exc
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # a resumed session would not verify the client certificate again
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        context.minimum_version, context.maximum_version = config.minimum, config.maximum
    except ssl.SSLError as exc:  # for example if the system requires FIPS and lacks its module
        raise ConfigError(f"tls_server_config: OpenSSL: {_reason(exc)}") from exc
    _load_certificate(context, config)
    if config.client_ca_file is not None:
        _load_client_ca(context, config.client_ca_file)
    context.verify_mode = _VERIFY[config.client_auth]
    return context


def _load_certificate(context: ssl.SSLContext, config: TlsConfig) -> None:
    files = f"cert_file {_quoted(config.cert_file)} and key_file {_quoted(config.key_file)}"

    def no_password() -> str:  # without it, OpenSSL asks on the terminal
        raise ConfigError(f"tls_server_config.key_file {_quoted(config.key_file)} is encrypted")

    try:
        context.load_cert_chain(config.cert_file, config.key_file, password=no_password)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(f"tls_server_config: cannot use {files}: {_reason(exc)}") from exc


def _load_client_ca(context: ssl.SSLContext, path: Path) -> None:
    # Every certificate in the file is trusted, root or intermediate, as in Go.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"tls_server_config: cannot use client_ca_file {_quoted(path)}: {_reason(exc)}"
        ) from exc


def _quoted(path: Path) -> str:
    return shortened(path.name)


def _reason(error: OSError) -> str:
    """OpenSSL's message without its code and source line."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return re.sub(r" ?\(_ssl\.c:\d+\)", "", error.strerror or str(error))


def san_is_allowed(certificate: Mapping[str, Any] | None, allowed: frozenset[str]) -> bool:
    """Whether a name in the certificate is allowed. `certificate` is the result of getpeercert()."""
    names = (certificate or {}).get("subjectAltName", ())
    return any(_canonical(kind, value) in allowed for kind, value in names)


def _canonical(kind: str, value: str) -> str:
    if kind != "IP Address":
        return value
    from ipaddress import ip_address

    try:
        return str(ip_address(value.strip()))  # OpenSSL writes IPv6 addresses in full
    except ValueError:
        return value
