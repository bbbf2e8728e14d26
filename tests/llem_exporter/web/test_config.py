"""What a web config file may say, and the error for each mistake."""

import json
import os
from pathlib import Path
from ssl import TLSVersion

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import ConfigError
from llem_exporter.web import config as web_config
from llem_exporter.web.config import TlsConfig, WebConfig
from llem_exporter.web.reload import LiveWebConfig
from tests.llem_exporter.web.web_rig import WebFolder

PAIR = "tls_server_config: {cert_file: c, key_file: k"
HASH = bcrypt.hashpw(b"x", b"$2b$04$......................").decode().replace("$2b$", "$2y$")


def parse(text: str) -> WebConfig:
    """The config of a file in the folder /etc/llem."""
    return web_config.parse(text.encode(), Path("/etc/llem"))


def error_of(text: str) -> str | None:
    """The error that a text is refused with; None for a valid one."""
    try:
        parse(text)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour: red", "'colour' is not supported"),
        ("rate_limit: {interval: 1s, burst: 1}", "'rate_limit' is not supported"),
        (PAIR + ", certfile: c}", "'tls_server_config.certfile' is not supported"),
        (
            PAIR + ", cipher_suites: [TLS_AES_128_GCM_SHA256]}",
            "'tls_server_config.cipher_suites' is not supp",
        ),
        (PAIR + ", curve_preferences: [X25519]}", "'tls_server_config.curve_preferences' is not supported"),
        ("tls_server_config: {cert: PEM, key: PEM}", "'tls_server_config.cert' is not supported"),
        (
            "http_server_config: {headers: {X-Frame-Options: deny}}",
            "'http_server_config.headers' is not supported",
        ),
        ("tls_server_config: red", "tls_server_config must be a mapping"),
        ("tls_server_config: {cert_file: c}", "tls_server_config needs cert_file and key_file"),
        ("tls_server_config: {key_file: k}", "tls_server_config needs cert_file and key_file"),
        ("tls_server_config: {cert_file: [c], key_file: k}", "tls_server_config.cert_file must be a string"),
        (PAIR + ", min_version: TLS10}", "min_version is 'TLS10', not one of TLS12, TLS13"),
        (PAIR + ", max_version: TLS12}", "'tls_server_config.max_version' is not supported"),
        (PAIR + ", client_auth_type: Maybe}", "client_auth_type is 'Maybe', not one of NoClientCert"),
        (PAIR + ", client_auth_type: RequireAnyClientCert}", "not one of NoClientCert"),
        (PAIR + ", client_auth_type: VerifyClientCertIfGiven}", "not one of NoClientCert"),
        (
            PAIR + ", client_auth_type: RequireAndVerifyClientCert}",
            "requires client_ca_file, and the reverse",
        ),
        (PAIR + ", client_ca_file: ca}", "requires client_ca_file, and the reverse"),
        (PAIR + ", client_allowed_sans: [a]}", "client_allowed_sans needs client_auth_type Require"),
        (PAIR + ", client_allowed_sans: a}", "client_allowed_sans must be a list"),
        ("basic_auth_users: [a]", "basic_auth_users must be a mapping"),
        ("basic_auth_users: {a: secret}", "basic_auth_users.a is not a bcrypt hash; make one with: htpasswd"),
        (f"basic_auth_users: {{'a:b': '{HASH}'}}", "has no colon"),
        (f"basic_auth_users: {{a: '$2y$16{HASH[6:]}'}}", "cost is 16, not between 4 and 14"),
        (f"basic_auth_users: {{a: '$2x$04{HASH[6:]}'}}", "is not a bcrypt hash"),
        (f"basic_auth_users: {{a: '{HASH}', a: '{HASH}'}}", "line 1: duplicate key 'a'"),
        ("a: [\n", "line 2: not valid YAML"),
        ("a: &x [b]\nc: *x\n", "an alias (*name) of a list or mapping is not supported"),
        ("a: 1\n---\nb: 2", "line 2: not valid YAML"),
        ("? [a]\n: b", "a key must be a string"),
        ("[" * 5000, "not valid YAML"),
        ("\0", "not valid YAML"),
        ("- a", "the file must be a mapping"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_key(text: str, said: str) -> None:
    """The error has the key, the value and the expected form."""
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_keys_of_the_toolkit_are_read() -> None:
    """The supported keys of the exporter-toolkit format are read. Paths are relative to the file."""
    config = parse(f"""
tls_server_config:
  cert_file: server.crt
  key_file: /keys/server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example]
  min_version: TLS13
  prefer_server_cipher_suites: true
http_server_config:
  http2: true
basic_auth_users:
  on: {HASH}
""")
    assert config == WebConfig(
        TlsConfig(
            cert_file=Path("/etc/llem/server.crt"),
            key_file=Path("/keys/server.key"),
            client_ca_file=Path("/etc/llem/ca.crt"),
            allowed_sans=frozenset({"prometheus.example"}),
            minimum=TLSVersion.TLSv1_3,
        ),
        {b"on": HASH.encode()},
    )


def test_a_file_may_ask_for_nothing() -> None:
    """As in exporter-toolkit, an empty file means plain HTTP without authentication."""
    for text in (
        "",
        "# nothing\n",
        "tls_server_config:\nbasic_auth_users: {}\n",
    ):
        assert parse(text) == WebConfig()


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_settings_or_one_line(text: str) -> None:
    """Any file gives settings or a ConfigError."""
    assert (error_of(text) or "fine").isprintable()


KEYS = ["cert_file", "key_file", "client_ca_file", "client_auth_type", "min_version", "http2",
    "client_allowed_sans"]  # fmt: skip
SECTIONS = st.dictionaries(
    st.sampled_from(["tls_server_config", "http_server_config", "basic_auth_users"]),
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
    assert HASH not in repr(parse(f"basic_auth_users: {{a: '{HASH}'}}"))
    for text in (
        "basic_auth_users: {a: SECRET}",
        "basic_auth_users: {a: SECRET: b",
        "basic_auth_users:\n  a:\tSECRET\n b",
        "basic_auth_users: {a: !SECRET!b c}",
        "basic_auth_users: {a: *SECRET}",
    ):
        with pytest.raises(ConfigError) as error:
            parse(text)
        assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yml", "none.yml: cannot be read: No such file or directory"),
        (".", "not a regular file"),
        ("pipe", "not a regular file"),
        ("latin.yml", "byte 3 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, said: str) -> None:
    """Reading does not block on a pipe without a writer."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError) as error:
        LiveWebConfig(tmp_path / name)
    assert str(error.value).startswith(f"--web.config.file {tmp_path / name}: ") or name == "."
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"cert.pem": None}, "tls_server_config: 'cert.pem': cannot be read: No such file"),
        ({"key.pem": None}, "tls_server_config: 'key.pem': cannot be read: No such file"),
        ({"key.pem": b"nonsense"}, "'cert.pem' with 'key.pem': "),
        ({"cert.pem": b""}, "'cert.pem' with 'key.pem': "),
        ({"ca.pem": b"nonsense"}, "'ca.pem': no certificate"),
        ({"ca.pem": b"\xff\xfe"}, "'ca.pem': no certificate"),
        ({"ca.pem": b""}, "'ca.pem': no certificate"),
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
        LiveWebConfig(web.file)
    assert said in str(error.value)
    assert str(error.value).isprintable()


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
    with pytest.raises(ConfigError, match=r"'cert\.pem' with 'key\.pem': the private key is encrypted"):
        LiveWebConfig(web.write(tls_server_config=web.tls()))
