"""Texts of samples as users have them: OpenMetrics, the text format, dumps, and what is none of these."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3
from hypothesis import example, given
from hypothesis import strategies as st

from llem_core.errors import SourceError
from llem_integrator.stores import open_source, whole
from llem_integrator.text.openmetrics import read
from tests.fake_nvml import FakeDriver
from tests.llem_integrator.conftest import Done
from tests.llem_integrator.pages import parse
from tests.llem_integrator.stores.test_stores_agree import in_ms
from tests.llem_integrator.stores.test_victoriametrics import put_text
from tests.llem_integrator.traces import POWER, T0, fetch, same, trace_text
from tests.servers import Exporter, Prometheus, VictoriaMetrics, wait_until


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
    found = {one.labels["x"]: one for one in whole(source.pieces("m", (), 0, 20_000))}
    assert found['a "b" } c\n\\'].unix_ms.tolist() == [12_345]
    assert (found["q"].values.tolist(), found["q"].bad) == ([2.0], 1)
    assert [(one.metric, one.labels) for one in source.timeless([()])] == [("i", {"v": "1"})]
    assert [len(one) for one in whole(source.pieces("n", (), 0, 20_000))] == [1]


def test_a_label_is_not_what_a_line_ends_at(subtests: pytest.Subtests) -> None:
    """Only newlines end lines, and only text after a sample is an exemplar."""
    for label in ("a\u2028b", "a # {b", "a\x85\x0b\x1cb", "} 1 2 # {", "{}", "\\\\"):
        text = f'm{{x="{label}"}} 1 12 # {{t="x"}} 3 4\r\nm{{x="{label}"}} 2 13\n\r\n# EOF\n'
        with subtests.test(label=label):
            (one,) = whole(parse(text, "page").pieces("m", (), 0, 20_000))
            assert (one.labels["x"], one.values.tolist()) == (label.replace("\\\\", "\\"), [1, 2])


def test_values_that_are_no_samples_of_ours() -> None:
    """Values that no GPU can have are bad readings. Without a time, invalid values are ignored."""
    source = parse(f"m 1e305 12\nm 2 13\nn NaN 12\n{POWER}_limit NaN\nfact -1\nfact2 3\n# EOF", "page")
    (one,) = whole(source.pieces("m", (), 0, 20_000))
    assert (one.values.tolist(), one.bad) == ([2], 1)
    assert list(whole(source.pieces("n", (), 0, 20_000))) == []
    assert [fact.metric for fact in source.timeless([()])] == ["fact2"]


NO_PAGES = [
    ("", "EOF"),
    ("m 1 2\n", "EOF"),
    ("m one 2\n# EOF", "line 1"),
    ("m 1 2 3\n# EOF", "line 1"),
    ("m{x=1} 1 2\n# EOF", "not a series"),
    ("m 1\n# EOF", "no sample has a timestamp"),
    ("m 1\n", "no sample has a timestamp"),
    ("m 1 1795507546123\nm 2 17955075", "EOF"),
    ("m 1 1795507546123\nm 2 1795507546123", "truncated: its last line, 2,"),
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


INPUTS = Path(__file__).parent / "inputs"


@pytest.mark.parametrize(
    ("name", "window", "joules"),
    [("dump.om", "1796007327,1796007338", 1020), ("milliseconds.txt.gz", "1795504000,+10m", 240_000)],
)
def test_files_of_users(llem_integrate: Callable[..., Done], name: str, window: str, joules: float) -> None:
    """promtool 3.16 prints other programs' UTF-8 names without quotes; the text format has milliseconds."""
    done = llem_integrate("--source", str(INPUTS / name), "--window", window, "--format", "json")
    assert done.code in (0, 4), done.stderr
    (found,) = json.loads(done.stdout)["windows"]
    assert found["total_j"] == pytest.approx(joules, abs=1)


def test_the_history_as_curl_prints_it(tmp_path: Path) -> None:
    """Without an Accept header the exporter prints the text format, with the same samples as OpenMetrics."""
    names = (POWER, "llem_gpu_zeus_energy_trace_joules_total")
    with FakeDriver(tmp_path, gpus=2) as driver, Exporter(env=driver.env) as exporter:
        wait_until(lambda: exporter.fetch_text("/history?since=0").count(POWER) > 20, "a history")
        texts = [
            urllib3.request("GET", f"{exporter.url}/history?since=0", headers=headers).data
            for headers in ({}, {"Accept": "application/openmetrics-text;version=1.0.0"})
        ]
    assert (texts[0].endswith(b"# EOF\n"), texts[1].endswith(b"# EOF\n")) == (False, True)
    for name in names:
        found, right = (
            {
                series.labels["gpu"]: dict(zip(series.unix_ms.tolist(), series.values.tolist(), strict=True))
                for series in whole(read([text], "page").pieces(name, (), 0, 2**53))
            }
            for text in texts
        )
        assert set(found) == {"0", "1"}
        assert all(samples.items() <= right[gpu].items() for gpu, samples in found.items())


@pytest.mark.full
def test_an_export_of_victoriametrics_is_read(tmp_path: Path) -> None:
    """Its text export has milliseconds and no end mark."""
    with VictoriaMetrics(tmp_path) as server:
        put_text(server, in_ms(trace_text(600)))
        fields = {"match[]": POWER, "format": "prometheus"}
        page = urllib3.request("GET", f"{server.url}/api/v1/export", fields=fields)
    (tmp_path / "page.txt").write_bytes(page.data)
    (tmp_path / "page.om").write_text(trace_text(600))
    paths = tmp_path / "page.txt", tmp_path / "page.om"
    found, right = (fetch(open_source(str(path)), T0, T0 + 59_900) for path in paths)
    assert [len(one) for one in found] == [600, 600]
    assert same(found, right)


OURS = f'{POWER}{{gpu="0",instance="n1"}} 100.5 1795507546.5'
OTHERS = [
    'http.server.duration{service.name="shop",job="s"} 5 1795507546.5',
    'plain{service.name="shop"} 6 1795507546.5',
    'my metric{a b="c",d="e"} 7 1795507546.5',
    '{"my.metric", "label.name"="x"} 1 1795507546.5',
    '{__name__="h", le="x", service.name="y"} {count:3, sum:2.5, (0.5,1]:3} 1795507546500',
    "5xx.count 3 1795507546.5",
    "m 1 1795507546500000",
    "m 1 -1e300",
    "m one 1795507546.5",
    'm{a="\xff"} 1 1795507546.5',
    f'm{{a b="{POWER}"}} 1 1795507546.5',
    "m  1 1795507546.5",
    "m{a=1} 1 1795507546.5",
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_line_of_another_program_is_skipped(other: str) -> None:
    """Samples of other programs may have any name, label, value and time. Ours are read."""
    for count in (1, 300):
        lines = [OURS, *[other] * count, OURS.replace("6.5", "7.5"), "# EOF"]
        source = read(["\n".join(lines).encode("latin-1")], "page")
        (series,) = whole(source.pieces(POWER, (), T0, T0 + 10_000))
        assert series.values.tolist() == [100.5, 100.5]


NAMES = st.from_regex(r"""\A[^\s#"{}\0][^\n\r"{}\0]{0,9}\Z""").filter(
    lambda name: re.fullmatch(r"[\d.+-]+( .*)?", name, re.ASCII) is None
)
VALUES = st.from_regex(r"""\A([^"\\\n\ud800-\udfff]|\\"|\\\\|\\n){0,9}\Z""")


@given(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), st.floats() | st.just("{count:3, (0.5,1]:3}"))
@example("a b", {"c d": "1 2"}, 3.0)
def test_names_of_other_programs_may_be_any_utf8(
    name: str, labels: dict[str, str], value: float | str
) -> None:
    """promtool 3.16 prints UTF-8 names without quotes. Such lines are skipped."""
    pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
    text = f"{OURS}\n{name}{{{pairs}}} {value} 1795507546.5\n{OURS}\n# EOF\n"
    (series,) = whole(read([text.encode()], "page").pieces(POWER, (), T0, T0 + 10_000))
    assert series.values.tolist() == [100.5]


DAMAGED = [
    OURS[:-30],
    OURS.replace('"n1"', '"n1'),
    OURS.replace("100.5", "1OO.5"),
    OURS[:-2] + "0" * 9,
    OURS[:40] + OURS,
    OURS[40:],
    OURS[:30] + "\0" * 100,
    "\0" * 90 + OURS[-20:],
    'other{a="b' + OURS,
    "100.5 1795507546.5",
    f'{{__name__="{POWER}",gpu=0}} 100.5 1795507546500',
    f"{POWER}{{gpu=0}} 100.5 1795507546.5",
    "<html>",
    "a few words",
]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_line_is_an_error_with_its_place(damaged: str) -> None:
    """A line with one of our names, or without the shape of a sample, must be a valid sample."""
    for before in (0, 300):
        lines = [OURS] * before + [damaged, OURS, "# EOF"]
        with pytest.raises(SourceError, match=rf"^page: line {before + 1}: "):
            read(["\n".join(lines).encode()], "page")


def test_milliseconds_are_never_read_as_seconds() -> None:
    """The size of a time tells its unit, with or without an end mark, and also below other lines."""
    line = "m 1 1795507546500\n"
    for text in (line, f"{line}# EOF\n", f"# TYPE m gauge\ni 1\n{line}"):
        source = parse(text, "page")
        (series,) = whole(source.pieces("m", (), 0, 2**53))
        assert series.unix_ms.tolist() == [1795507546500]
    with pytest.raises(SourceError, match="not in unix seconds or milliseconds"):
        parse("m 1 1795507546500000\n", "page")
