"""OpenMetrics text, from a file and through a server."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import SourceError
from llem_integrator.stores import Summary, open_source, whole
from llem_integrator.text.openmetrics import parse
from tests.llem_integrator.traces import POWER, T0, fetch, same, trace_text
from tests.servers import Prometheus


def test_an_openmetrics_file_gives_what_prometheus_gives(tmp_path: Path, traced: Prometheus) -> None:
    """The same page gives the same series from a file and from a server."""
    file = tmp_path / "page.om"
    file.write_text(trace_text(600))
    found, expected = (fetch(open_source(where), T0, T0 + 59_900) for where in (str(file), traced.url))
    assert [len(one) for one in found] == [600, 600]
    assert same(found, expected)


def test_openmetrics_details() -> None:
    """Escapes, exemplars, spaces in values, and samples without a time or without labels are parsed."""
    source = parse(
        '# HELP a b\nm{x="a \\"b\\" } c\\n\\\\",y=""} 1.5 12.345\n'
        'm{x="q"} +Inf 12\nm{x="q"} 2 13 # {trace="t"} 1 9\ni{v="1"} 1\nn 4 14\n# EOF\n',
        "page",
    )
    found = {one.labels["x"]: one for one in whole(source.pieces("m", (), 0, 20_000, lambda _: None))}
    assert found['a "b" } c\n\\'].unix_ms.tolist() == [12_345]
    assert (found["q"].values.tolist(), found["q"].bad) == ([2.0], 1)
    assert [one.labels for one in source.summary("i", (), 5, 6, Summary.LAST)] == [{"v": "1"}]
    assert [len(one) for one in whole(source.pieces("n", (), 0, 20_000, lambda _: None))] == [1]


def test_a_label_is_not_what_a_line_ends_at(subtests: pytest.Subtests) -> None:
    """Only newlines end lines, and only text after a sample is an exemplar."""
    for label in ("a\u2028b", "a # {b", "a\x85\x0b\x1cb", "} 1 2 # {", "{}", "\\\\"):
        text = f'm{{x="{label}"}} 1 12 # {{t="x"}} 3 4\r\nm{{x="{label}"}} 2 13\n\r\n# EOF\n'
        with subtests.test(label=label):
            (one,) = whole(parse(text, "page").pieces("m", (), 0, 20_000, lambda _: None))
            assert (one.labels["x"], one.values.tolist()) == (label.replace("\\\\", "\\"), [1, 2])


def test_values_that_are_no_samples_of_ours() -> None:
    """Values that no GPU can have are bad readings. Without a time, invalid values are ignored."""
    source = parse(f"m 1e305 12\nm 2 13\nn NaN 12\n{POWER}_limit NaN\nfact -1\nfact2 3\n# EOF", "page")
    (one,) = whole(source.pieces("m", (), 0, 20_000, lambda _: None))
    assert (one.values.tolist(), one.bad) == ([2], 1)
    for name, count in (("n", 0), (f"{POWER}_limit", 0), ("fact", 0), ("fact2", 1)):
        assert len(list(source.summary(name, (), 0, 20_000, Summary.MAX))) == count


NO_PAGES = [
    ("", "EOF"),
    ("m 1 2\n", "EOF"),
    ("m one 2\n# EOF", "line 1"),
    ("m 1 2 3\n# EOF", "line 1"),
    ("m{x=1} 1 2\n# EOF", "not a series"),
    ("m 1\n# EOF", "no sample has a timestamp"),
    ("m 1 1e300\n# EOF", "not in unix seconds"),
    ("m 1 nan\n# EOF", "not in unix seconds"),
    ("m 1 1795507546000000\n# EOF", "not in unix seconds"),
]


def test_openmetrics_that_is_not(subtests: pytest.Subtests) -> None:
    """A truncated page, another format, or missing times give an error with the line."""
    for text, message in NO_PAGES:
        with subtests.test(text=text, message=message), pytest.raises(SourceError, match=message):
            parse(text, "page")


@given(st.text(alphabet='m{}x="\\, 1.e-N#EOF\n', max_size=60))
def test_any_text_is_a_page_or_a_source_error(text: str) -> None:
    """No text raises another exception."""
    with suppress(SourceError):
        parse(text + "\n# EOF", "page")
