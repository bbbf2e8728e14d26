"""The file of --http.config.file, in promtool's format, read strictly.

Source: https://prometheus.io/docs/prometheus/latest/configuration/promtool/
"""

from pathlib import Path
from typing import Any, NoReturn

from llem_core import strict_yaml
from llem_core.errors import ConfigError
from llem_integrator.http.access import (
    TLS_VERSIONS,
    HttpConfig,
    Tls,
    basic_auth,
    header_name,
    refuse_twice,
    secret_in,
    sendable,
)


def read_config(path: str) -> HttpConfig:
    """The configuration in a YAML file as promtool's; raises ConfigError that names the key, and no value."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path} is not text") from exc
    try:
        return _config(_Section("", strict_yaml.parse(text)), Path(path).parent)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from None


def _config(found: "_Section", folder: Path) -> HttpConfig:
    headers = [*_authorization(found, folder), *_more_headers(found, folder)]
    refuse_twice(headers, "the file")
    config = HttpConfig(
        headers=tuple(headers),
        tls=_tls(found.section("tls_config"), folder),
        proxy_url=found.text("proxy_url"),
        follow_redirects=found.flag("follow_redirects", default=True),
    )
    found.flag("enable_http2", default=True)  # HTTP/1.1 is all that is spoken here
    found.end()
    return config


def _authorization(found: "_Section", folder: Path) -> list[tuple[str, str]]:
    """At most one Authorization header."""
    basic, other = found.section("basic_auth"), found.section("authorization")
    ways: list[str] = []
    if basic:
        user = basic.secret("username", folder)
        if user is None:
            basic.fail("username is missing")
        ways.append(basic_auth(user, basic.secret("password", folder) or ""))
    if other:
        kind = other.text("type") or "Bearer"
        if kind.lower() == "basic":
            other.fail("type is not Basic here: write basic_auth")
        credentials = other.secret("credentials", folder)
        if credentials is None:
            other.fail("credentials is missing")
        ways.append(f"{kind} {credentials}")
    if (token := found.secret("bearer_token", folder)) is not None:
        ways.append(f"Bearer {token}")
    basic.end()
    other.end()
    if len(ways) > 1:
        raise ConfigError("basic_auth, authorization and bearer_token exclude each other")
    return [("Authorization", sendable(way, "the credentials")) for way in ways]


def _more_headers(found: "_Section", folder: Path) -> list[tuple[str, str]]:
    """`http_headers` as promtool has them, and `headers` as a plain mapping."""
    plain = found.section("headers")
    headers = [(header_name(name), sendable(plain.text(name) or "", name)) for name in plain.names()]
    sections = found.section("http_headers")
    for name in sections.names():
        one = sections.section(name)
        values = [*one.texts("values"), *one.texts("secrets")]
        values += [secret_in(str(folder / file), f"http_headers.{name}.files") for file in one.texts("files")]
        one.end()
        if len(values) != 1:
            one.fail("one value is needed")
        headers.append((header_name(name), sendable(values[0], name)))
    return headers


def _tls(found: "_Section", folder: Path) -> Tls:
    def file(key: str) -> str | None:
        value = found.text(key)
        return str(folder / value) if value else None

    def version(key: str) -> str | None:
        value = found.text(key)
        if value and value not in TLS_VERSIONS:
            found.fail(f"{key} is one of {', '.join(TLS_VERSIONS)}")
        return value

    tls = Tls(
        ca_file=file("ca_file"),
        cert_file=file("cert_file"),
        key_file=file("key_file"),
        server_name=found.text("server_name"),
        insecure_skip_verify=found.flag("insecure_skip_verify", default=False),
        min_version=version("min_version"),
        max_version=version("max_version"),
    )
    if (tls.cert_file is None) != (tls.key_file is None):
        found.fail("cert_file and key_file go together")
    found.end()
    return tls


class _Section:
    """A mapping whose keys are taken one by one. A key that is left over is an error."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._left = name, value or {}
        if not isinstance(self._left, dict):
            raise ConfigError(f"{name or 'the file'} must be a mapping (key: value)")

    def __bool__(self) -> bool:
        return bool(self._left)

    def fail(self, problem: str) -> NoReturn:
        raise ConfigError(f"{self._name}: {problem}" if self._name else problem)

    def names(self) -> list[str]:
        return [str(name) for name in self._left]

    def section(self, key: str) -> "_Section":
        return _Section(f"{self._name}.{key}" if self._name else key, self._left.pop(key, None))

    def text(self, key: str) -> str | None:
        value = self._left.pop(key, None)
        if isinstance(value, (dict, list)):
            self.fail(f"{key} must be one text")
        return value or None

    def texts(self, key: str) -> list[str]:
        values = self._left.pop(key, None) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            self.fail(f"{key} must be a list of texts")
        return values

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.text(key)
        if value is not None and value.lower() not in ("true", "false"):
            self.fail(f"{key} must be true or false")
        return default if value is None else value.lower() == "true"

    def secret(self, key: str, folder: Path) -> str | None:
        """The text of KEY, or what is in the file that KEY_file names."""
        value, file = self.text(key), self.text(f"{key}_file")
        if value is not None and file is not None:
            self.fail(f"{key} and {key}_file exclude each other")
        return value if file is None else secret_in(str(folder / file), f"{key}_file")

    def end(self) -> None:
        for key in self._left:
            self.fail(f"{str(key)[:60]!r} is not read here (see the README, Sources)")
