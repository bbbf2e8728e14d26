"""Headers, credentials and TLS for the requests to a store. No message contains a secret."""

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from llem_core.errors import ConfigError

_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
TLS_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_RESERVED: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "host"}
    | {"transfer-encoding", "te", "trailer", "upgrade", "x-prometheus-remote-read-version"}
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How TLS connections are made; files are PEM."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False
    min_version: str | None = None
    max_version: str | None = None

    def context(self) -> ssl.SSLContext:
        """Return an SSL context with these settings; raises ConfigError that names a file it cannot use."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"cannot use ca_file {self.ca_file}: {exc.strerror or exc}") from exc
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.min_version:
            context.minimum_version = TLS_VERSIONS[self.min_version]
        if self.max_version:
            context.maximum_version = TLS_VERSIONS[self.max_version]
        if self.cert_file:
            try:
                # Without this, OpenSSL asks for the password of a key on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
            except OSError as exc:
                raise ConfigError(
                    f"cannot use the client certificate {self.cert_file}: {self._fault(exc)}"
                ) from exc
        return context

    def _fault(self, error: OSError) -> str:
        """Return what is wrong with the client certificate or its key; OpenSSL does not say which it is."""
        if not isinstance(error, ssl.SSLError):
            key = f" ({self.cert_file} or {self.key_file})" if self.key_file else ""
            return f"{error.strerror or error}{key}"
        if self.key_file is None:
            return "it is not PEM, or contains no private key without encryption; set --http.key-file"
        return (
            f"{self.key_file} is encrypted or does not belong to it, or one of them is not PEM "
            "(encrypted keys are not supported)"
        )


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """How a store is reached. The repr contains no secrets.

    Without `proxy_url`, HTTP_PROXY, HTTPS_PROXY and NO_PROXY apply.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: Tls = Tls()
    proxy_url: str | None = field(default=None, repr=False)
    follow_redirects: bool = True


def http_config(
    base: HttpConfig | str | None = None,
    *,
    headers: Sequence[str] = (),
    bearer_token_file: str | None = None,
    user: str | None = None,
    password_file: str | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
) -> HttpConfig:
    """Return a configuration. The --http options override `base`, which may be a file in promtool's format.

    Raises ConfigError.
    """
    if isinstance(base, str):
        from llem_integrator.http.config_file import read_config

        base = read_config(base)
    config = base or HttpConfig()
    added = [_header(text) for text in headers]
    if bearer_token_file is not None:
        added.append(
            ("Authorization", f"Bearer {read_secret(bearer_token_file, '--http.bearer-token-file')}")
        )
    if (user is None) != (password_file is None):
        raise ConfigError("--http.user and --http.password-file must be set together")
    if user is not None and password_file is not None:
        added.append(("Authorization", basic_auth(user, read_secret(password_file, "--http.password-file"))))
    refuse_duplicates(added, "the --http options")
    names = {name.lower() for name, _ in added}
    kept = [(name, value) for name, value in config.headers if name.lower() not in names]
    tls = config.tls
    if ca_file is not None:
        tls = replace(tls, ca_file=ca_file)
    if cert_file is not None or key_file is not None:
        if cert_file is None:
            raise ConfigError("--http.key-file needs --http.cert-file")
        tls = replace(tls, cert_file=cert_file, key_file=key_file)
    return replace(config, headers=(*kept, *added), tls=tls)


def read_secret(path: str, what: str) -> str:
    """Return the content of a file, without white space around it; raises ConfigError that names the file."""
    try:
        return header_value(Path(path).read_text(encoding="utf-8").strip(), what)
    except OSError as exc:
        raise ConfigError(f"{what}: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not a text file in UTF-8") from None


def basic_auth(user: str, password: str) -> str:
    """Return the value of an Authorization header; raises ConfigError for a user name with a colon."""
    from base64 import b64encode

    if ":" in user:
        raise ConfigError("a user name for basic authentication cannot contain a colon")
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ConfigError("--http.header must have the form 'NAME: VALUE'")
    return header_name(name.strip()), header_value(value.strip(), name.strip())


def header_name(name: str) -> str:
    """Return the name; raises ConfigError if it is not valid or if llem-integrate sets the header itself."""
    if not _HEADER.fullmatch(name):
        raise ConfigError(f"not a valid header name: {name[:60]!r}")
    if name.lower() in _RESERVED:
        raise ConfigError(f"the header {name} cannot be changed; remove it")
    return name


def header_value(value: str, what: str) -> str:
    """Return the value; raises ConfigError, without the value, if a header cannot contain it."""
    if not value.isprintable() or not value.isascii():
        raise ConfigError(f"the value of {what[:60]} has characters that are not allowed in a header")
    return value


def refuse_duplicates(headers: Sequence[tuple[str, str]], where: str) -> None:
    """Raise ConfigError if a header occurs twice; `where` says who set it."""
    names = [name.lower() for name, _ in headers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the header {name} is set twice in {where}")
