"""Label matchers as users write them."""

import pytest

from llem_core.errors import ConfigError
from llem_integrator.stores import parse_selector

BAD = [
    *("", " ", "{}", "x", "x=y", 'x="y" z="w"', '{x="y"', '="y"', 'x="y",,'),
    *(r'x="\d"', r'x="\x1"', r'x="\ud800"', r'x="\U00110000"', r'x="\400"', r'x="\xff"', 'x="\udcff"'),
]


def test_bad_matchers(subtests: pytest.Subtests) -> None:
    """Invalid matchers, invalid PromQL strings and an empty selector are rejected."""
    for text in BAD:
        with subtests.test(text=text), pytest.raises(ConfigError):
            parse_selector(text)


def test_matchers_apply_as_in_promql() -> None:
    """Missing labels are empty. Regular expressions are anchored, and a dot matches a newline."""
    labels = {"a": "xy", "n": "1\n2"}
    texts = {
        'a="xy"': True,
        'a!="xy"': False,
        'a=~"x"': False,
        'a=~"x."': True,
        'a!~"x"': True,
        'b=""': True,
        'n=~"1.2"': True,
        r'n=~"\\d\n\\d"': True,
    }
    for text, expected in texts.items():
        assert all(matcher(labels) for matcher in parse_selector(text)) is expected, text


def test_a_regular_expression_is_read_where_it_is_applied(subtests: pytest.Subtests) -> None:
    """A server evaluates its own regular expressions. An error here is raised when labels are matched."""
    for pattern in ["(", "x{99999999999}", "(" * 5000 + ")" * 5000]:
        with subtests.test(pattern=pattern):
            (matcher,) = parse_selector(f'x=~"{pattern}"')
            assert str(matcher) == f'x=~"{pattern}"'
            with pytest.raises(ConfigError, match="not a regular expression"):
                matcher({})
