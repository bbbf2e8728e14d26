"""The TLS context of the server, and the names in client certificates."""

import re
import ssl
from collections.abc import Mapping
from typing import Any

from llem_core.errors import ConfigError
from llem_core.strict_yaml import shortened
from llem_exporter.web.config import TlsConfig, read_file


def new_context(config: TlsConfig) -> ssl.SSLContext:
    """Read the PEM files and return a server context. Raises ConfigError with the file and the reason."""
    used = "OpenSSL"  # what the next step uses, for the error message
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # a resumed session would not verify the client certificate again
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        context.minimum_version = config.minimum
        for path in config.files:
            used = shortened(path.name)
            read_file(path)
        used = f"{shortened(config.cert_file.name)} with {shortened(config.key_file.name)}"
        context.load_cert_chain(config.cert_file, config.key_file, password=_no_password)
        if config.client_ca_file:
            used = shortened(config.client_ca_file.name)
            # Every certificate in the file is trusted, root or intermediate, as in Go.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(config.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ConfigError, OSError) as exc:
        raise ConfigError(f"tls_server_config: {used}: {_reason(exc)}") from exc
    return context


def _no_password() -> str:
    """Called for an encrypted key. Without it, OpenSSL asks on the terminal."""
    raise ConfigError("the private key is encrypted, which is not supported")


def _reason(error: ConfigError | OSError) -> str:
    """Return the message, OpenSSL's without its code and source line."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return re.sub(r" ?\(_ssl\.c:\d+\)", "", getattr(error, "strerror", None) or str(error))


def san_is_allowed(certificate: Mapping[str, Any] | None, allowed: frozenset[str]) -> bool:
    """Return whether a name in the certificate is allowed. `certificate` is the result of getpeercert()."""
    return any(name in allowed for _, name in (certificate or {}).get("subjectAltName", ()))
