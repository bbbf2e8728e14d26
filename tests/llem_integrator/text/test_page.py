"""Lines read in bulk against a plain parser of single lines; what promtool writes; which line is at fault."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import SourceError
from llem_integrator.stores import whole
from llem_integrator.text.openmetrics import read
from tests.llem_integrator.text.dumps import dumped
from tests.llem_integrator.traces import POWER
from tests.servers import Prometheus, PrometheusRelease

END_MS = 10**14
HEADS = (
    'm{gpu="0",uuid="GPU-0"}',
    'm{gpu="1",x="a \\"b\\" } c\\\\ # {"}',
    "m",
    '{__name__="m", gpu="2"}',
    '{__name__="m", gpu="\\u00e9 1 2"}',
    "e",
    "nan",
)
NUMBERS = (
    "1",
    "123.125",
    "-0",
    "3.000000123125e+09",
    "1e15",
    "1e16",
    ".5",
    "5.",
    "+7",
    "NaN",
    "+Inf",
    "-inf",
)
ODD = (
    "",
    "1_0",
    "0x10",
    "1e",
    "--1",
    "1.2.3",
    "e",
    "nan(1)",
    "\t1",
    "1 ",
    "1 2",
    "٣",
    "infinity",
    "1e999",
    "1\t2",
)
TIMES = ("1795507546", "1795507546.1", "1795507546.123", "1795507546123", "-1", "0", "1e3", "9007199254740")
ODD_TIMES = (
    "nan",
    "1e300",
    "nan(1)",
    "1\t2",
    "9007199254741",
    "9007199254740993",
    "99999999999",
    "100000000000",
    "1795507546123456",
    "",
    "1 2",
    "x",
    '1 # {a="b"} 2 3',
)

SAMPLE = re.compile(rf"({'|'.join(map(re.escape, HEADS))}) (\S+)(?: (\S+))?(?: # .*)?")

Found = dict[str, list[tuple[int, float]]]


def plainly(lines: Sequence[str]) -> Found | None:
    """Samples by series as it is written, one line at a time; None where one is none."""
    found: Found = defaultdict(list)
    for line in lines:
        if line.startswith("#") or not line.strip():
            continue
        fields = SAMPLE.fullmatch(line)
        if not fields or not all(
            re.fullmatch(r"[\w.+-]+", part, re.ASCII) for part in fields.groups()[1:] if part
        ):
            return None
        try:
            if "_" in line.removeprefix(fields[1]):
                return None
            value = float(fields[2])
            if fields[3] is None:  # a fact, and no sample
                continue
            time = float(fields[3])
            ms = time if "__name__" in fields[1] or abs(time) >= 1e11 else time * 1000
            if not abs(ms) < END_MS:
                return None
        except ValueError:
            return None
        if 0 <= value <= 1e15:
            found[fields[1]].append((round(ms), value))
    return found


def samples(text: bytes, size: int) -> Found | None:
    """The same, by the source of a text that comes in pieces of `size`; None where it refuses."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    found: Found = {}
    try:
        source = read(pieces, "page", maybe_empty=True, names=None)
    except SourceError:
        return None
    for metric in ("m", "e", "nan"):
        for one in whole(source.pieces(metric, (), -END_MS, END_MS)):
            if len(one):
                found[metric + str(sorted(one.labels.items()))] = list(
                    zip(one.unix_ms.tolist(), one.values.tolist(), strict=True)
                )
    return found


def cleaned(found: Found) -> Found:
    """By metric and labels, sorted, and of equal times the largest value."""
    names = {
        HEADS[0]: ("m", {"gpu": "0", "uuid": "GPU-0"}),
        HEADS[1]: ("m", {"gpu": "1", "x": 'a "b" } c\\ # {'}),
        HEADS[2]: ("m", {}),
        HEADS[3]: ("m", {"gpu": "2"}),
        HEADS[4]: ("m", {"gpu": "é 1 2"}),
        HEADS[5]: ("e", {}),
        HEADS[6]: ("nan", {}),
    }
    expected: Found = {}
    for head, every in found.items():
        metric, labels = names[head]
        largest = dict(sorted(every))
        expected[metric + str(sorted(labels.items()))] = list(largest.items())
    return expected


LINES = st.builds("{} {} {}".format, st.sampled_from(HEADS), st.sampled_from(NUMBERS), st.sampled_from(TIMES))
RUNS = st.builds(
    lambda head, pairs, times: [f"{head} {value} {time}" for value, time in pairs] * times,
    st.sampled_from(HEADS),
    st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(TIMES)), min_size=1, max_size=5),
    st.integers(1, 60),
)
MIXED = st.builds(
    lambda seed, count: [
        f"{seed.choice(HEADS[:5])} {seed.choice(NUMBERS)} {seed.choice(TIMES)}" for _ in range(count)
    ],
    st.randoms(use_true_random=False),
    st.integers(100, 500),
)
LINE = st.sampled_from(("# HELP m x", "", "5 6", "1", "m 1 12 13", "m{ 1 2", "m{} m 1 2", " m 1 2"))
BROKEN = st.lists(
    st.tuples(st.sampled_from(("value", "time")), st.sampled_from((*ODD, *ODD_TIMES))), max_size=2
)


def broken(line: str, place: str, odd: str) -> str:
    """The line with something else in place of its value or its time."""
    before, value, time = line.rsplit(" ", 2)
    return f"{before} {odd} {time}" if place == "value" else f"{before} {value} {odd}"


@given(
    st.lists(RUNS | MIXED | LINES.map(lambda line: [line]), max_size=8), BROKEN, st.none() | LINE, st.data()
)
def test_runs_are_read_as_single_lines_are(
    runs: list[list[str]], odd: list[tuple[str, str]], other: str | None, data: st.DataObject
) -> None:
    """Any sequence of lines, in pieces of any size, gives the same result as a parser of single lines."""
    lines = [line for run in runs for line in run]
    for place, token in odd if lines else []:
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = broken(lines[at], place, token)
    if other is not None:
        lines.insert(data.draw(st.integers(0, len(lines))), other)
    text = "\n".join([*lines, "# EOF", ""]).encode()
    expected = plainly(lines)
    found = samples(text, data.draw(st.integers(1, 5000)))
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == cleaned(expected)


def test_a_token_inside_many_lines_is_read_as_alone() -> None:
    """A token has the same meaning in a run of one series, among several series, and in a line of its own."""
    wrong = []
    tokens = dict.fromkeys((*NUMBERS, *TIMES, *ODD, *ODD_TIMES))
    for heads, place, odd in product((HEADS[:1], HEADS[3:4], HEADS[:5]), ("value", "time"), tokens):
        lines = [f"{heads[i % len(heads)]} {i / 8} {1_795_507_546 + i}" for i in range(400)]
        lines[300] = broken(lines[300], place, odd)
        expected = plainly(lines)
        found = samples("\n".join([*lines, "# EOF"]).encode(), 1 << 20)
        if found != (None if expected is None else cleaned(expected)):
            wrong.append((len(heads), place, odd))
    assert wrong == []


def test_a_field_too_few_and_one_too_many_are_not_two_lines() -> None:
    """Both lines together have as many numbers as two samples."""
    lines = [f"m {i} {i}" for i in range(400)]
    lines[300:302] = ["m 1", "m 2 3 4"]
    with pytest.raises(SourceError, match="line 302"):
        read(["\n".join([*lines, "# EOF"]).encode()], "page", names=None)


def test_the_line_at_fault_is_named(subtests: pytest.Subtests) -> None:
    """The line number is correct within a run and after other blocks."""
    for number in [1, 2, 17, 1500, 3000]:
        for bad in ["m 1e 2", "m 1 nan", "m 1 2 3", "5 6", "m{ 1 2", "m \0 1"]:
            with subtests.test(number=number, bad=bad):
                lines = [f"m {i} {i}" for i in range(3000)]
                lines[number - 1] = bad
                text = "\n".join([*lines, "# EOF"]).encode()
                for filler in (b"", (b"# " + b"x" * 98 + b"\n") * 12_000):
                    line = filler.count(b"\n") + number
                    with pytest.raises(SourceError, match=rf"^page: line {line}: "):
                        read([filler + text], "page", names=None)


def test_what_windows_and_editors_add_is_no_data() -> None:
    """Byte order marks, carriage returns and empty lines are ignored."""
    text = b"\xef\xbb\xbf" + b"m 1 12\r\nm 2 13\r\n" * 200 + b"\r\n# EOF\r\n"
    for size in (1, 7, 1 << 20):
        source = read([text[at : at + size] for at in range(0, len(text), size)], "page", names=None)
        (one,) = whole(source.pieces("m", (), 0, 20_000))
        assert one.values.tolist() == [1, 2]


def test_one_label_set_in_two_spellings_is_one_series() -> None:
    """promtool's form, OpenMetrics, and another order of the labels give one series."""
    text = b'm{a="1",b="2"} 1 12\n{__name__="m", b="2", a="1"} 2 13000\n{"m",b="2",a="1",} 3 14\n# EOF\n'
    (one,) = whole(read([text], "page", names=None).pieces("m", (), 0, 20_000))
    assert (one.labels, one.values.tolist()) == ({"a": "1", "b": "2"}, [1, 2, 3])


def test_of_other_programs_metrics_nothing_is_kept() -> None:
    """Native histograms and quoted names of other programs are skipped."""
    text = (
        b'{__name__="h", le="x"} {count:3, sum:2.5, (0.5,1]:3} 1795507546000\n'
        b'{"my.metric", "label.name"="x"} 1 1795507546000\nup{} 1 1795507546.000\n'
        + f'{{__name__="{POWER}"}} 5 1795507546000\n# EOF\n'.encode()
    )
    source = read([text], "page")
    every = source.pieces(f"h|my.metric|up|{POWER}", (), 0, END_MS)
    assert [series.metric for series in whole(every)] == [POWER]
    with pytest.raises(SourceError, match="line 1: not a sample"):
        read([f'{{__name__="{POWER}"}} {{count:3}} 1795507546000\n'.encode()], "page")


def test_a_dump_with_labels_before_the_name_is_read(
    tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """promtool sorts labels by bytes, so those with an uppercase letter come before __name__."""
    text = f'{POWER}{{Hostname="n1",gpu="0"}} 1.5 1795507546.123\n# EOF\n'
    server = Prometheus.on_blocks(tmp_path, text, release=prometheus_release)
    dump = dumped(prometheus_release, server.data)
    assert dump.startswith(b'{Hostname="n1", __name__="')
    (one,) = whole(read([dump], "dump").pieces(POWER, (), 0, END_MS))
    assert (one.labels, one.unix_ms.tolist(), one.values.tolist()) == (
        {"Hostname": "n1", "gpu": "0"},
        [1795507546123],
        [1.5],
    )


def test_a_dump_that_ends_inside_a_line_is_cut_short() -> None:
    """The last number of such a dump may be incomplete. OpenMetrics needs # EOF."""
    line = f'{{__name__="{POWER}"}} 5 17955075460'.encode()
    with pytest.raises(SourceError, match="last line, 1, has no newline"):
        read([line], "page")
    with pytest.raises(SourceError, match="EOF"):
        read([line, f"00\n{POWER} 5 1795507546\n".encode()], "page")
    assert read([line, b"00\n"], "page").warnings == ()


def test_promtools_escapes_are_read(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """A label of a dump equals the label in the blocks, for any characters."""
    labels = ["a\u2028b", "\x7f\t\x01", "é\n\\n", 'a" 1 2', "\ufeff", "\U0001f600"]
    escaped = [label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') for label in labels]
    lines = [f'{POWER}{{x="{label}"}} {i}.125 1795507546.123' for i, label in enumerate(escaped)]
    server = Prometheus.on_blocks(tmp_path, "\n".join([*lines, "# EOF", ""]), release=prometheus_release)
    source = read([dumped(prometheus_release, server.data)], "dump")
    found = whole(source.pieces(POWER, (), 0, END_MS))
    assert {one.labels["x"]: (one.unix_ms.tolist(), one.values.tolist()) for one in found} == {
        label: ([1795507546123], [i + 0.125]) for i, label in enumerate(labels)
    }
