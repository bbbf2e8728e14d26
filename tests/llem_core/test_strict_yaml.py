"""YAML as both programs read it."""

import pytest

from llem_core.errors import ConfigError
from llem_core.strict_yaml import parse, shortened


def test_scalars_stay_text() -> None:
    """Numbers, booleans and dates are not converted. Null and a missing value are the empty text."""
    text = "{on: yes, 1: 0x10, a: [null, ~, 'null', 2026-01-01], b: {c: }}"
    assert parse(text) == {"on": "yes", "1": "0x10", "a": ["", "", "null", "2026-01-01"], "b": {"c": ""}}
    assert parse("# nothing") == ""


def test_an_alias_of_a_scalar_is_read() -> None:
    """Only aliases of lists and mappings are errors, since they can expand without limit."""
    assert parse("a: &x word\nb: *x\n") == {"a": "word", "b": "word"}
    for text in ("a: &x [b]\nc: *x\n", "a: &x {b: *x}\n"):
        with pytest.raises(ConfigError, match="is not supported"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: SECRET", "line 2: duplicate key 'a'"),
        ("b: {a: 1,\n  a: SECRET}", "line 2: duplicate key 'a'"),
        ("a: SECRET: b", "line 1: not valid YAML"),
        ("a: !SECRET!b c", "line 1: not valid YAML"),
        ("a: *SECRET", "line 1: not valid YAML"),
        ("? [SECRET]\n: b", "line 1: a key must be a string"),
        ('a: "SECRET\\ud800"', "line 1: a control character or an incomplete character"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_an_error_names_the_line_and_no_value(text: str, message: str) -> None:
    """The error is one line, and does not quote the file except for a duplicate key."""
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert str(error.value) == message


def test_a_long_name_is_shortened() -> None:
    """An error shows at most 60 characters of a name, on one line."""
    assert shortened("a\nb") == r"'a\nb'"
    assert shortened("x" * 70) == f"'{'x' * 60}...'"
