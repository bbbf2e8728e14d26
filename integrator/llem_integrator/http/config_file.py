"""The file of --http.config.file, in the format of promtool. Unknown keys are errors.

Source: https://prometheus.io/docs/prometheus/latest/configuration/promtool/
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llem_core import strict_yaml
from llem_core.errors import ConfigError
from llem_integrator.http.access import (
    TLS_VERSIONS,
    HttpConfig,
    Tls,
    basic_auth,
    header_name,
    header_value,
    read_secret,
    refuse_duplicates,
)

_TLS_FILES: Final = ("ca_file", "cert_file", "key_file")
_SCHEMA: Final[Mapping[str, Any]] = {
    "basic_auth": dict.fromkeys(("username", "username_file", "password", "password_file"), str),
    "authorization": dict.fromkeys(("type", "credentials", "credentials_file"), str),
    "bearer_token": str,
    "bearer_token_file": str,
    "headers": {"*": str},
    "http_headers": {"*": dict.fromkeys(("values", "secrets", "files"), list)},
    "tls_config": {
        **dict.fromkeys((*_TLS_FILES, "server_name", "min_version", "max_version"), str),
        "insecure_skip_verify": bool,
    },
    "proxy_url": str,
    "follow_redirects": bool,
    "enable_http2": bool,  # accepted, but only HTTP/1.1 is used
}
"""The types of all keys; "*" stands for any key."""


def read_config(path: str) -> HttpConfig:
    """Return the configuration in a YAML file. Raises ConfigError that names the key but never the value."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path} is not a text file in UTF-8") from exc
    try:
        return _config(_checked(strict_yaml.parse(text), _SCHEMA, ""), Path(path).parent)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from None


def _checked(value: Any, schema: Any, name: str) -> Any:
    """Return a value of the type in the schema, without empty members; `name` is its key."""
    if not isinstance(schema, Mapping):
        return _checked_leaf(value, schema, name)
    if value and not isinstance(value, dict):
        raise ConfigError(f"{name or 'the file'} must be a mapping (key: value)")
    members = {}
    for key, member in (value or {}).items():
        full_name = f"{name}.{key}" if name else key
        if (inner := schema.get(key) or schema.get("*")) is None:
            raise ConfigError(f"{full_name[:60]!r} is not supported (see the README, Sources)")
        members[key] = _checked(member, inner, full_name)
    return {key: member for key, member in members.items() if member not in ("", {}, [])}


def _checked_leaf(value: Any, kind: type, name: str) -> Any:
    if kind is list:
        if value and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ConfigError(f"{name} must be a list of strings")
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string")
    if kind is str or not value:
        return value
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false")
    return value.lower() == "true"


def _config(file: Mapping[str, Any], folder: Path) -> HttpConfig:
    headers = [*_authorization(file, folder), *_more_headers(file, folder)]
    refuse_duplicates(headers, "the file")
    return HttpConfig(
        headers=tuple(headers),
        tls=_tls(file.get("tls_config", {}), folder),
        proxy_url=file.get("proxy_url"),
        follow_redirects=file.get("follow_redirects", True),
    )


def _authorization(file: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Return at most one Authorization header."""
    values: list[str] = []
    if basic := file.get("basic_auth"):
        user = _secret(basic, "username", folder)
        if user is None:
            raise ConfigError("basic_auth.username is required")
        values.append(basic_auth(user, _secret(basic, "password", folder) or ""))
    if other := file.get("authorization"):
        kind = other.get("type", "Bearer")
        if kind.lower() == "basic":
            raise ConfigError("authorization: the type Basic is not supported here: use basic_auth")
        credentials = _secret(other, "credentials", folder)
        if credentials is None:
            raise ConfigError("authorization.credentials or credentials_file is required")
        values.append(f"{kind} {credentials}")
    if (token := _secret(file, "bearer_token", folder)) is not None:
        values.append(f"Bearer {token}")
    if len(values) > 1:
        raise ConfigError("only one of basic_auth, authorization and bearer_token can be set")
    return [("Authorization", header_value(value, "the credentials")) for value in values]


def _more_headers(file: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Return the headers of `http_headers`, in promtool's format, and of `headers`, a plain mapping."""
    headers = list(file.get("headers", {}).items())
    for name, sources in file.get("http_headers", {}).items():
        values = [*sources.get("values", ()), *sources.get("secrets", ())]
        what = f"http_headers.{name}.files"
        values += [read_secret(str(folder / path), what) for path in sources.get("files", ())]
        if len(values) != 1:
            raise ConfigError(f"http_headers.{name}: exactly one value is needed")
        headers.append((name, values[0]))
    return [(header_name(name), header_value(value, name)) for name, value in headers]


def _tls(section: Mapping[str, Any], folder: Path) -> Tls:
    for key in ("min_version", "max_version"):
        if section.get(key, "TLS12") not in TLS_VERSIONS:
            raise ConfigError(f"tls_config.{key} must be one of {', '.join(TLS_VERSIONS)}")
    if ("cert_file" in section) != ("key_file" in section):
        raise ConfigError("tls_config: cert_file and key_file must be set together")
    return Tls(**{**section, **{key: str(folder / section[key]) for key in _TLS_FILES if key in section}})


def _secret(section: Mapping[str, Any], key: str, folder: Path) -> str | None:
    """Return the value of KEY, or the content of the file that KEY_file names."""
    value, path = section.get(key), section.get(f"{key}_file")
    if value is not None and path is not None:
        raise ConfigError(f"only one of {key} and {key}_file can be set")
    return value if path is None else read_secret(str(folder / path), f"{key}_file")
