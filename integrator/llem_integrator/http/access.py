"""What goes with each request to a store: headers, credentials and TLS. Secrets are in no message."""

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
    """What a connection by https proves and wants to see proven; files are PEM."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False
    min_version: str | None = None
    max_version: str | None = None

    def context(self) -> ssl.SSLContext:
        """The settings as OpenSSL takes them; raises ConfigError that names the file it cannot use."""
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
                # Without a password OpenSSL would ask on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
            except (OSError, ssl.SSLError) as exc:
                files = " and ".join(filter(None, (self.cert_file, self.key_file)))
                raise ConfigError(
                    f"cannot use the client certificate {files}: {exc.strerror or exc}"
                ) from exc
        return context


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """What goes with each request to a store. Secrets are in no text of it."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: Tls = Tls()
    proxy_url: str | None = field(default=None, repr=False)
    follow_redirects: bool = True


def with_options(
    config: HttpConfig,
    *,
    headers: Sequence[str] = (),
    bearer_token_file: str | None = None,
    user: str | None = None,
    password_file: str | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
) -> HttpConfig:
    """The configuration with what single options say, which win; raises ConfigError."""
    added = [_header(text) for text in headers]
    if bearer_token_file is not None:
        added.append(("Authorization", f"Bearer {secret_in(bearer_token_file, '--http.bearer-token-file')}"))
    if (user is None) != (password_file is None):
        raise ConfigError("--http.user and --http.password-file go together")
    if user is not None and password_file is not None:
        added.append(("Authorization", basic_auth(user, secret_in(password_file, "--http.password-file"))))
    refuse_twice(added, "the --http options")
    names = {name.lower() for name, _ in added}
    kept = [(name, value) for name, value in config.headers if name.lower() not in names]
    tls = config.tls
    if ca_file is not None:
        tls = replace(tls, ca_file=ca_file)
    if cert_file is not None or key_file is not None:
        if cert_file is None:
            raise ConfigError("--http.key-file goes with --http.cert-file")
        tls = replace(tls, cert_file=cert_file, key_file=key_file)
    return replace(config, headers=(*kept, *added), tls=tls)


def secret_in(path: str, what: str) -> str:
    try:
        return sendable(Path(path).read_text(encoding="utf-8").strip(), what)
    except OSError as exc:
        raise ConfigError(f"{what}: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not text") from None


def basic_auth(user: str, password: str) -> str:
    from base64 import b64encode

    if ":" in user:
        raise ConfigError("a user of basic auth has no colon in its name")
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ConfigError("--http.header is 'NAME: VALUE'")
    return header_name(name.strip()), sendable(value.strip(), name.strip())


def header_name(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ConfigError(f"not the name of a header: {name[:60]!r}")
    if name.lower() in _RESERVED:
        raise ConfigError(f"the header {name} is set by llem-integrate itself")
    return name


def sendable(value: str, what: str) -> str:
    """The value, if a header can carry it; an error does not show it."""
    if not value.isprintable() or not value.isascii():
        raise ConfigError(f"the value of {what[:60]} has signs that no header can carry")
    return value


def refuse_twice(headers: Sequence[tuple[str, str]], where: str) -> None:
    names = [name.lower() for name, _ in headers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where} give the header {name} twice")
