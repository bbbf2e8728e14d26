"""What a web config file may say, and the error for each mistake."""

import json
import os
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import ConfigError
from llem_exporter.web import settings as web_settings
from llem_exporter.web.config import WebConfig
from llem_exporter.web.settings import ClientAuth, TlsVersion
from tests.llem_exporter.web.web_rig import WebFolder

PAIR = "tls_server_config: {cert_file: c, key_file: k"
HASH = bcrypt.hashpw(b"x", b"$2b$04$......................").decode().replace("$2b$", "$2y$")


def error_of(text: str) -> str | None:
    """The error that a text is refused with; None for a valid one."""
    try:
        web_settings.parse(text)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour: red", "'colour' is no key"),
        (
            "tls_server_config: {cert_file: c, key_file: k, certfile: c}",
            "'tls_server_config.certfile' is no key",
        ),
        ("http_server_config: {headers: {Server: x}}", "'http_server_config.headers.Server' is no key"),
        ("http_server_config: {headers: {X-Frame-Options: maybe}}", "is 'maybe', not deny or sameorigin"),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\nB: c"}}', "must be one line of ASCII"),
        ("http_server_config: {http2: maybe}", "http_server_config.http2 is true or false"),
        ("tls_server_config: red", "tls_server_config must be a mapping"),
        ("tls_server_config: {cert_file: c}", "tls_server_config needs key_file"),
        ("tls_server_config: {key_file: k}", "tls_server_config needs cert_file"),
        ("tls_server_config: {cert_file: c, cert: PEM, key_file: k}", "cert and cert_file are both there"),
        ("tls_server_config: {cert_file: [c], key_file: k}", "tls_server_config.cert_file must be text"),
        (
            PAIR + ", min_version: TLS10}",
            "min_version is 'TLS10', not TLS12 or TLS13 (TLS 1.0 and 1.1 are broken",
        ),
        (PAIR + ", max_version: TLS11}", "max_version is 'TLS11', not TLS12 or TLS13"),
        (PAIR + ", min_version: TLS13, max_version: TLS12}", "min_version TLS13 is above max_version TLS12"),
        (PAIR + ", client_auth_type: Maybe}", "client_auth_type is 'Maybe', not one of NoClientCert"),
        (PAIR + ", client_auth_type: RequireAnyClientCert}", "verifies nothing"),
        (PAIR + ", client_auth_type: RequireAndVerifyClientCert}", "needs client_ca_file"),
        (PAIR + ", client_auth_type: VerifyClientCertIfGiven}", "needs client_ca_file"),
        (PAIR + ", client_ca_file: ca}", "client_ca_file verifies nobody"),
        (PAIR + ", client_allowed_sans: [a]}", "client_allowed_sans holds nobody back"),
        (PAIR + ", client_allowed_sans: a}", "client_allowed_sans must be a list"),
        (PAIR + ", curve_preferences: [X25519, CurveP256]}", "takes one"),
        ("basic_auth_users: [a]", "basic_auth_users must be a mapping"),
        ("basic_auth_users: {a: secret}", "basic_auth_users.a is no bcrypt hash; make one with: htpasswd"),
        (f"basic_auth_users: {{'a:b': '{HASH}'}}", "without a colon"),
        (f"basic_auth_users: {{a: '$2y$16{HASH[6:]}'}}", "its cost is 16, not between 4 and 14"),
        (f"basic_auth_users: {{a: '$2x$04{HASH[6:]}'}}", "is no bcrypt hash"),
        (f"basic_auth_users: {{a: '{HASH}', a: '{HASH}'}}", "line 1: 'a' is there twice"),
        ("rate_limit: {interval: soon, burst: 1}", "rate_limit.interval is a duration"),
        ("rate_limit: {interval: 1s, burst: many}", "rate_limit.burst is a whole number"),
        ("rate_limit: {interval: 1s}", "rate_limit.burst must be at least 1"),
        ("a: [\n", "line 2: "),
        ("a: &x [b]\nc: *x\n", "line 2: an alias"),
        ("a: 1\n---\nb: 2", "found another document"),
        ("? [a]\n: b", "a key must be text"),
        ("[" * 5000, "nested too deeply"),
        ("\0", "not YAML"),
        ("- a", "the file must be a mapping"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_key(text: str, said: str) -> None:
    """The error has the key, the value and the expected form."""
    with pytest.raises(ConfigError) as error:
        web_settings.parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_all_that_the_toolkit_knows_is_read() -> None:
    """Every key of the exporter-toolkit format is read, with its default."""
    settings = web_settings.parse(f"""
tls_server_config:
  cert_file: server.crt
  key: |
    -----BEGIN PRIVATE KEY-----
  client_auth_type: RequireAndVerifyClientCert
  client_ca: PEM
  client_allowed_sans: [prometheus.example]
  max_version: TLS12
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  curve_preferences: [X25519]
  prefer_server_cipher_suites: true
http_server_config:
  http2: true
  headers: {{X-Content-Type-Options: nosniff, Content-Security-Policy: ""}}
rate_limit: {{interval: 1m0.5s, burst: 20}}
basic_auth_users:
  on: {HASH}
""")
    tls, limit = settings.tls, settings.rate_limit
    assert tls is not None
    assert (tls.certificate.path, tls.private_key.path) == ("server.crt", None)
    assert tls.private_key.text == "-----BEGIN PRIVATE KEY-----\n"
    assert tls.client_auth is ClientAuth.REQUIRED
    assert (tls.minimum, tls.maximum, tls.curve) == (TlsVersion.TLS12, TlsVersion.TLS12, "X25519")
    assert settings.headers == {"X-Content-Type-Options": "nosniff"}
    assert settings.users == {"on": HASH}
    assert limit is not None
    assert (limit.interval_s, limit.burst) == (60.5, 20)


def test_a_file_may_ask_for_nothing() -> None:
    """As in exporter-toolkit, an empty file means plain HTTP without authentication."""
    for text in (
        "",
        "# nothing\n",
        "tls_server_config:\nbasic_auth_users: {}\n",
        "rate_limit: {interval: 0}",
    ):
        assert web_settings.parse(text) == web_settings.WebSettings()


def test_a_client_certificate_that_nobody_verifies_is_not_asked_for() -> None:
    """RequestClientCert verifies nothing in exporter-toolkit either."""
    tls = web_settings.parse(PAIR + ", client_auth_type: RequestClientCert}").tls
    assert tls is not None
    assert tls.client_auth is ClientAuth.NONE


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_settings_or_one_line(text: str) -> None:
    """Any file gives settings or a ConfigError."""
    assert (error_of(text) or "fine").isprintable()


KEYS = ["cert_file", "key", "client_ca", "client_auth_type", "min_version", "headers", "http2", "burst",
    "interval", "X-Frame-Options", "cipher_suites", "client_allowed_sans", "curve_preferences"]  # fmt: skip
SECTIONS = st.dictionaries(
    st.sampled_from(["tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"]),
    st.recursive(
        st.sampled_from(["", "a", "true", "1s", "TLS13", "RequireAndVerifyClientCert", HASH]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    ),
)


@given(SECTIONS)
def test_any_nesting_of_known_keys_is_settings_or_one_line(sections: object) -> None:
    """Known keys in wrong places or with wrong types give settings or an error."""
    assert (error_of(json.dumps(sections)) or "fine").isprintable()


def test_no_secret_is_shown() -> None:
    """Secrets are in no repr and in no error."""
    settings = web_settings.parse(
        f"tls_server_config: {{cert_file: c, key: SECRET}}\nbasic_auth_users: {{a: '{HASH}'}}"
    )
    assert "SECRET" not in repr(settings)
    assert HASH not in repr(settings)
    for text in (
        "basic_auth_users: {a: SECRET}",
        "basic_auth_users: {a: SECRET: b",
        "basic_auth_users:\n  a:\tSECRET\n b",
    ):
        with pytest.raises(ConfigError) as error:
            web_settings.parse(text)
        assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yml", "none.yml: cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
        ("pipe", "is no regular file"),
        ("long.yml", "is longer than 64 KiB"),
        ("latin.yml", "byte 3 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, said: str) -> None:
    """Reading does not block on a pipe without a writer."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long.yml").write_text("#" * 70_000)
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError) as error:
        WebConfig.load(tmp_path / name)
    assert str(error.value).startswith(f"--web.config.file {tmp_path / name}: ") or name == "."
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"cert.pem": None}, "tls_server_config.cert_file 'cert.pem' cannot be read: No such file"),
        ({"key.pem": None}, "tls_server_config.key_file 'key.pem' cannot be read: No such file"),
        (
            {"key.pem": b"nonsense"},
            "cert_file 'cert.pem' and tls_server_config.key_file 'key.pem' are no pair",
        ),
        ({"cert.pem": b""}, "are no pair that can serve"),
        ({"cert.pem": b"x" * 1_100_000}, "cert_file 'cert.pem' is longer than 1024 KiB"),
        ({"ca.pem": b"nonsense"}, "client_ca_file 'ca.pem' has no certificate"),
        ({"ca.pem": b"\xff\xfe"}, "client_ca_file 'ca.pem' has no certificate"),
        ({"ca.pem": b""}, "client_ca_file 'ca.pem' has no certificate"),
    ],
)
def test_a_pem_file_that_cannot_be_used_is_named(
    tmp_path: Path, files: dict[str, bytes | None], said: str
) -> None:
    """The error has the key, the file, and OpenSSL's message."""
    web = WebFolder(tmp_path)
    web.write(tls_server_config=web.client_tls())
    for name, content in files.items():
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--web\.config\.file") as error:
        WebConfig.load(web.file)
    assert said in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"cipher_suites": ["TLS_RSA_WITH_RC4_128_SHA"]},
            "cipher_suites: 'TLS_RSA_WITH_RC4_128_SHA' is none of",
        ),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"], "max_version": "TLS12"}, "has none for TLS 1.2"),
        ({"curve_preferences": ["CurveP224"]}, "curve_preferences: 'CurveP224' is none of CurveP256"),
    ],
)
def test_what_openssl_is_not_asked_for_is_named(tmp_path: Path, more: dict[str, object], said: str) -> None:
    """Only the toolkit's names of cipher suites and curves are valid."""
    web = WebFolder(tmp_path)
    with pytest.raises(ConfigError) as error:
        WebConfig.load(web.write(tls_server_config=web.tls(**more)))
    assert said in str(error.value)


def test_an_encrypted_key_asks_nobody(tmp_path: Path) -> None:
    """There is no password prompt. The error names the key."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    web = WebFolder(tmp_path)
    leaf = web.issue()
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    (tmp_path / "key.pem").write_bytes(encrypted)
    with pytest.raises(ConfigError, match=r"key_file 'key\.pem' is encrypted"):
        WebConfig.load(web.write(tls_server_config=web.tls()))
