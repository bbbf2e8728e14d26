"""Slurm's host lists."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import ConfigError
from llem_integrator.windows.hostlist import expand

LISTS = [
    ("node1", ["node1"]),
    ("node[1-3]", ["node1", "node2", "node3"]),
    ("node[1-2,07],login", ["node1", "node2", "node07", "login"]),
    ("n[08-11]", ["n08", "n09", "n10", "n11"]),
    ("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"]),
    ("a.example.org,b", ["a.example.org", "b"]),
]


def test_brackets_are_multiplied_out(subtests: pytest.Subtests) -> None:
    """Brackets are expanded. Digit widths and the order of the list are kept."""
    for text, hosts in LISTS:
        with subtests.test(text=text, hosts=hosts):
            assert expand(text) == hosts


NO_LISTS = [
    "",
    ",",
    "a,",
    ",a",
    "a,,b",
    "n[1",
    "n1]",
    "n[]",
    "n[2-1]",
    "n[a-b]",
    "n[1-2-3]",
    "a b",
    "n[1,]",
    "n[[1]]",
]


def test_what_is_no_list_is_said_so(subtests: pytest.Subtests) -> None:
    """The error is one line with the text."""
    for text in NO_LISTS:
        with subtests.test(text=text), pytest.raises(ConfigError, match="not a host list"):
            expand(text)


def test_a_list_without_end_is_refused() -> None:
    """Any list that expands to more hosts than a cluster can have is rejected."""
    for text in ("n[1-999999999999]", "[1-999][1-999][1-999]", "n" + "[1-9]" * 8, "[1]" * 9000):
        with pytest.raises(ConfigError, match=r"names more than 100000 hosts|not a host list"):
            expand(text)


@given(st.text(alphabet="na01[]-, ", max_size=30))
def test_any_text_is_a_list_or_an_error(text: str) -> None:
    """No text raises another exception."""
    with suppress(ConfigError):
        assert all(host and not set("[], ") & set(host) for host in expand(text))
