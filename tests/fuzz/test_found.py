"""What fuzzing has found, one test each."""

from pathlib import Path

import pytest

from llem_core.errors import ConfigError
from llem_exporter.web.reload import LiveWebConfig
from llem_integrator.remote_read import wire
from llem_integrator.stores import parse_selector
from tests.fuzz import store_targets


@pytest.mark.parametrize("escape", ["\\Uef35f0e9", "\\U00110000", "\\UFFFFFFFF", "\\ud800"])
def test_an_escape_beyond_unicode_is_no_string(escape: str) -> None:
    """An escape beyond Unicode is a ConfigError. Very large ones raised OverflowError."""
    with pytest.raises(ConfigError, match="not a PromQL string"):
        parse_selector(f"n='{escape}'")


@pytest.mark.parametrize(
    "text",
    [
        'basic_auth_users: {"\\UFFFFFFFF": x}',
        'basic_auth_users: {"\\U00110000": x}',
        'basic_auth_users: {"\\ud800": $2b$04$7EqJtq98hPqEX7fNZaFWoOhi5yZTHwbMiI1oVBcKsTLYGYNBDEHJO}',
        'tls_server_config: {cert_file: "\\ud800", key_file: x}',
        'tls_server_config: {cert_file: "a\\u001b[2Jb", key_file: x}',
        'tls_server_config: {cert_file: "a\\nb", key_file: x}',
        f"%YAML 1.{'9' * 5000}\n--- a",
    ],
)
def test_a_web_config_with_what_is_no_text_is_one_line(tmp_path: Path, text: str) -> None:
    """Surrogates, escapes beyond Unicode, huge numbers and control characters give one printable line."""
    (path := tmp_path / "web.yml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        LiveWebConfig(path)
    assert str(refused.value).isprintable()


def test_an_answer_of_no_series_is_none() -> None:
    """A remote read frame without a chunk is accepted. It raised ValueError."""
    store_targets.TARGETS["chunks"].run(b"")


def test_an_unknown_encoding_ends_remote_read() -> None:
    """A server whose chunks have an unknown encoding is asked for JSON. It caused endless requests."""
    chunk = wire.number_field(3, 4) + wire.bytes_field(4, b"\0\1\0\0")
    series = wire.bytes_field(1, wire.bytes_field(1, b"a") + wire.bytes_field(2, b"b")) + wire.bytes_field(
        2, chunk
    )
    store_targets.TARGETS["chunks"].run(wire.bytes_field(1, series))
