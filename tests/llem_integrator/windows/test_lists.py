"""Lists of windows: CSV and sacct."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import ConfigError, LLEMError
from llem_integrator.stores import Matcher, parse_selector
from llem_integrator.windows.hosts import Hosts
from llem_integrator.windows.lists import WindowList, parse_windows, read_windows
from llem_integrator.windows.window import Window

NOW_US = 1_795_600_000_000_000
UTC = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")

SACCT = """\
JobID|JobName|State|Start|End|NodeList|AllocTRES
4711|train|COMPLETED|2026-01-31T12:00:00|2026-01-31T13:00:00|node[1-2]|billing=8,cpu=8,gres/gpu=8,node=2
4711.batch|batch|COMPLETED|2026-01-31T12:00:00|2026-01-31T13:00:00|node1|cpu=4,gres/gpu=4
4711.extern|extern|COMPLETED|2026-01-31T12:00:00|2026-01-31T13:00:00|node[1-2]|gres/gpu=8
4712|infer|RUNNING|2026-01-31T12:30:00|Unknown|gpu-a|cpu=1,gres/gpu:a100=1,gres/gpu:h100=2
4713|wait|PENDING|Unknown|Unknown|None assigned|
4714|cpu|COMPLETED|2026-01-31T12:30:00|2026-01-31T12:31:00|node9|cpu=64,node=1
"""


def read_text(text: str, zone: ZoneInfo | None = UTC, node_label: str = "instance") -> WindowList:
    return parse_windows(text, zone, origin="jobs", node_label=node_label, now_us=NOW_US)


def listed(text: str, zone: ZoneInfo | None = UTC, node_label: str = "instance") -> tuple[Window, ...]:
    """The windows of a list whose rows are all good."""
    read = read_text(text, zone, node_label)
    assert read.left_out == ()
    return read.windows


def sacct(*rows: str, columns: str = "JobID|Start|End|NodeList|AllocTRES") -> str:
    return "\n".join([columns, *rows, ""])


def test_a_csv_names_windows_matchers_and_gpus() -> None:
    """Columns have any order. Ends may be durations. Comments and empty lines are ignored."""
    found = listed(
        "start,end,name,gpu,match\n"
        "# the first\n"
        "\n"
        '2026-01-31T12:00:00Z,+15m,a,"0,1","instance=""n1:9955"",x=~""y.*"""\n'
        "1795507546.5,now,b,GPU-7;GPU-8,\n"
        "now-1h,now,,,\n"
    )
    assert [(one.name, one.start_us, one.end_us) for one in found] == [
        ("a", 1_769_860_800_000_000, 1_769_861_700_000_000),
        ("b", 1_795_507_546_500_000, NOW_US),
        (None, NOW_US - 3_600_000_000, NOW_US),
    ]
    assert found[0].selectors == ((Matcher("instance", "=", "n1:9955"), Matcher("x", "=~", "y.*")),)
    assert [one.gpus for one in found] == [("0", "1"), ("GPU-7", "GPU-8"), None]
    assert found[1].selectors is None


def test_sacct_is_read_as_it_comes() -> None:
    """Steps, pending jobs and jobs without GPUs are skipped. Unknown is now. Nodes become matchers."""
    train, infer = listed(SACCT, BERLIN, "node")
    assert (train.name, train.start_us, train.duration_s) == ("4711", 1_769_857_200_000_000, 3600)
    assert (train.gpu_count, infer.gpu_count, infer.end_us) == (8, 3, NOW_US)
    assert train.selectors is not None
    ((nodes,),) = train.selectors
    for value in ("node1", "node2:9955", "node2.example.org:9955"):
        assert nodes({"node": value}), value
    for value in ("node11:9955", "node3", "xnode1", "node1x", ""):
        assert not nodes({"node": value}), value
    assert train.hosts == Hosts("node", ("node1", "node2"))
    assert infer.selectors == ((Matcher("node", "=~", r"(?i:(?:gpu-a)(?:\..*)?)(?::[0-9]+)?"),),)


def test_thousands_of_hosts_are_several_matchers() -> None:
    """Stores limit the length of a query. Each host is in exactly one matcher."""
    times = "2026-01-31T12:00:00|2026-01-31T13:00:00"
    text = f"JobID|Start|End|NodeList|AllocTRES\n1|{times}|node[0001-3000]|gres/gpu=1\n"
    (job,) = listed(text)
    assert job.selectors is not None
    assert all(len(one.value) < 5000 for (one,) in job.selectors)
    for host in ("node0001", "node1500", "node3000"):
        assert sum(one({"instance": f"{host}.lan:9955"}) for (one,) in job.selectors) == 1
    assert not any(one({"instance": "node3001:9955"}) for (one,) in job.selectors)


def test_sacct_rows_of_arrays_and_of_jobs_of_several_parts() -> None:
    """An array task and a component of a heterogeneous job each have their own window."""
    times = "2026-01-31T12:00:00|2026-01-31T13:00:00"
    rows = [
        f"4711_3|{times}|node1|gres/gpu=1",
        f"4711_3.batch|{times}|node1|gres/gpu=1",
        "4711_[4-9%2]|Unknown|Unknown|None assigned|",
        f"4720+0|{times}|node1|gres/gpu=4",
        f"4720+1|{times}|node2|cpu=1",
        f"4720+2|{times}|node[3-4]|gres/gpu=8",
        f"4720+2.extern|{times}|node[3-4]|gres/gpu=8",
    ]
    found = listed("\n".join(["JobID|Start|End|NodeList|AllocTRES", *rows, ""]))
    assert [(one.name, one.gpu_count) for one in found] == [("4711_3", 1), ("4720+0", 4), ("4720+2", 8)]


def test_slices_and_shares_of_gpus_are_listed_with_the_reason() -> None:
    """The joules of a job with a MIG slice, a shard or MPS are unknown, even on a node with one GPU."""
    times = "2026-01-31T12:00:00|2026-01-31T13:00:00|node1"
    reasons = {
        "gres/gpu:a100_1g.10gb=1,gres/gpu=1": "gres/gpu:a100_1g.10gb=1",
        "gres/gpu:3g.20gb=2": "gres/gpu:3g.20gb=2",
        "gres/gpu:h100_80gb=2": None,
        "gres/shard=4": "gres/shard=4",
        "gres/shard:tesla=4,gres/gpu=1": "gres/shard:tesla=4",
        "gres/mps=50": "gres/mps=50",
    }
    windows = listed(sacct(*(f"{number}|{times}|cpu=1,{text}" for number, text in enumerate(reasons))))
    assert [window.gpu_count for window in windows] == [None, None, 2, None, None, None]
    for window, reason in zip(windows, reasons.values(), strict=True):
        assert (reason is None) == (window.gpus_unknown is None)
        assert (reason or "") in (window.gpus_unknown or "")


def test_a_cluster_that_does_not_track_gpus() -> None:
    """If no job shows gres/gpu, all are listed with that reason. Otherwise, a job without it had no GPU."""
    times = "2026-01-31T12:00:00|2026-01-31T13:00:00|node1"
    rows = [f"1|{times}|billing=1,cpu=6,mem=16G,node=1", f"2|{times}|"]
    windows = listed(sacct(*rows))
    assert [(window.name, window.gpu_count) for window in windows] == [("1", None), ("2", None)]
    assert all("AccountingStorageTRES" in (window.gpus_unknown or "") for window in windows)
    assert [window.name for window in listed(sacct(*rows, f"3|{times}|cpu=6,gres/gpu=1"))] == ["3"]


def test_jobs_that_never_ran_are_not_rows() -> None:
    """Pending jobs and jobs that were cancelled while pending have no nodes, or no start."""
    rows = [
        "1|Unknown|Unknown|None assigned|",
        "2|None|2026-01-31T12:00:00|None assigned|",
        "3|2026-01-31T12:00:00|2026-01-31T12:00:00|None assigned|",
        "4|2026-01-31T12:00:00|2026-01-31T12:00:01|node1|gres/gpu=1",
    ]
    assert [window.name for window in listed(sacct(*rows))] == ["4"]


def test_sacct_needs_the_zone_of_its_times() -> None:
    """Slurm prints times without a zone. A list of such times is a usage error without --timezone."""
    with pytest.raises(ConfigError, match=r"^jobs: line 2: time without a zone.*--timezone.*SLURM"):
        read_text(SACCT, None)


GOOD = "2026-10-24T12:00:00|2026-10-24T13:00:00|node1|gres/gpu=1"
BAD_ROWS = [
    (
        "2|2026-10-24T12:00:00|2026-10-24T12:00:00|node1|gres/gpu=1",
        "job 2 lasted less than one second: measure",
    ),
    (
        "2|2026-10-24T12:00:00|2026-10-24T11:00:00|node1|gres/gpu=1",
        "job 2 ends (2026-10-24T11:00:00) before it starts",
    ),
    (
        "2|2026-12-24T12:00:00|Unknown|node1|gres/gpu=1",
        "started at 2026-12-24T12:00:00, in the future: check",
    ),
    ("2|2026-10-25T02:30:00|2026-10-25T11:00:00|node1|gres/gpu=1", "occurs twice in Europe/Berlin"),
    ("2|2026-10-24T12:00:00|2026-10-24T11:00:00|a|b|node1|gres/gpu=1", "7 fields, but the header has 5"),
    ("2|2026-10-24T12:00:00", "2 fields, but the header has 5"),
    ("2|yesterday|2026-10-24T11:00:00|node1|gres/gpu=1", "not a time: 'yesterday'"),
    ("2|2026-10-24T12:00:00|2026-10-24T13:00:00|node[1-|gres/gpu=1", "not a host list: 'node[1-'"),
]


def test_a_bad_row_of_sacct_is_left_out(subtests: pytest.Subtests) -> None:
    """The other rows are windows. The message has the number of the line and is one line."""
    for row, message in BAD_ROWS:
        with subtests.test(row=row):
            read = read_text(sacct(f"1|{GOOD}", row, f"3|{GOOD}"), BERLIN)
            assert [window.name for window in read.windows] == ["1", "3"]
            (line,) = read.left_out
            assert line.startswith("jobs: line 3: ")
            assert message in line
            assert "\n" not in line
            only = read_text(sacct(row), BERLIN)
            assert (only.windows, len(only.left_out)) == ((), 1)


def test_a_step_whose_name_has_a_pipe_is_not_a_bad_row() -> None:
    """Steps are ignored, whatever their names are."""
    columns = "JobID|JobName|Start|End|NodeList|AllocTRES"
    rows = (f"1|a|{GOOD}", f"1.0|a | b|{GOOD}", f"2|a|b|{GOOD}")
    read = read_text(sacct(*rows, columns=columns), BERLIN)
    assert [window.name for window in read.windows] == ["1"]
    (line,) = read.left_out
    assert line.startswith("jobs: line 4: 7 fields, but the header has 6: leave out columns")
    assert "JobName" in line


def test_the_raw_id_names_the_job() -> None:
    """JobIDRaw can replace JobID. If both are there, JobID is used."""
    (raw,) = listed(sacct(f"4711|{GOOD}", columns="JobIDRaw|Start|End|NodeList|AllocTRES"))
    (both,) = listed(sacct(f"4711|4709_3|{GOOD}", columns="JobIDRaw|JobID|Start|End|NodeList|AllocTRES"))
    assert (raw.name, both.name) == ("4711", "4709_3")


def test_sacct_with_a_trailing_pipe() -> None:
    """`sacct -p` ends each line with a pipe."""
    (window,) = listed(sacct(f"1|{GOOD}|", columns="JobID|Start|End|NodeList|AllocTRES|"))
    assert window.gpu_count == 1


def test_the_matchers_of_the_request_hold_for_the_hosts() -> None:
    """--match limits the series of sacct's jobs, because two clusters may have nodes of one name."""
    selectors = (parse_selector('cluster="a"'), parse_selector('cluster="b"'))
    (window,) = parse_windows(sacct(f"1|{GOOD}"), UTC, selectors=selectors, now_us=NOW_US).windows
    labels = [{"instance": "node1:9955", "cluster": cluster} for cluster in "abc"]
    assert window.selectors is not None
    assert [
        any(all(matcher(each) for matcher in selector) for selector in window.selectors) for each in labels
    ] == [True, True, False]


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    """Files and standard input may begin with a BOM, as editors on Windows write it. UTF-16 is an error."""
    path = tmp_path / "jobs"
    for text in ("start,end\n1,2\n", sacct(f"1|{GOOD}").replace("\n", "\r\n")):
        path.write_bytes(text.encode("utf-8-sig"))
        assert len(read_windows(str(path), UTC).windows) == 1
        code = "from llem_integrator import read_windows as r; print(len(r('-', UTC).windows))"
        command = [sys.executable, "-c", f"from datetime import UTC; {code}"]
        done = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=False)
        assert (done.stdout.strip(), done.stderr) == (b"1", b"")
    path.write_bytes("start,end\n1,2\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        read_windows(str(path), UTC)


def test_a_thousand_jobs_are_read_at_once() -> None:
    """The time to read a list grows with its rows only: hosts of equal node lists are made once."""
    times = "2026-01-31T12:00:00|2026-01-31T13:00:00"
    rows = [f"{job}|{times}|node[001-100]|gres/gpu=8" for job in range(10_000)]
    began = time.perf_counter()
    windows = listed(sacct(*rows))
    assert time.perf_counter() - began < 5
    assert len({id(window.hosts) for window in windows}) == 1


def test_zones_are_known_without_the_systems(tmp_path: Path) -> None:
    """Time zones work without system files, as in a slim container."""
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("JobID|Start|End|NodeList|AllocTRES\n")
    done = subprocess.run(
        [sys.executable, "-m", "llem_integrator", "--windows", str(jobs), "--timezone", "Europe/Berlin"],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "contains no job with GPUs" in done.stderr


BAD_LISTS = [
    ("", "the first line must name the columns"),
    ("a,b\n", "the first line must name the columns"),
    ("start,end,gpus\n1,2,0\n", "the first line must name the columns"),
    ("start,end,start\n1,2,3\n", "the first line must name the columns"),
    ('start,"end\n1,2\n', "the first line must name the columns"),
    ("name,start,end\n", "contains no rows"),
    (f"{SACCT.splitlines()[0]}\n", "contains no job with GPUs that has started (check AllocTRES"),
    ("JobID|Start|End\n1|2026-01-31T12:00:00|Unknown\n", "line 1: no column NodeList, AllocTRES"),
]


def test_what_is_not_a_list_is_an_error(subtests: pytest.Subtests) -> None:
    """The error is one line that says what is missing."""
    for text, message in BAD_LISTS:
        with subtests.test(text=text, message=message):
            with pytest.raises(ConfigError) as error:
                read_text(text)
            assert message in str(error.value)
            assert "\n" not in str(error.value)


BAD_CSV_ROWS = [
    ("x,1,2,3", "4 fields, but the header has 3"),
    ("x,2,1", "window ends at"),
    ("x,1,1", "window ends at"),
    ("x,1,soon", "not a time: 'soon'"),
    ("x,1,+0s", "duration out of range"),
    ("x,2026-10-25T02:30:00,+1h", "occurs twice in Europe/Berlin"),
    ('"x,1,2', "not a row of CSV (unexpected end of data)"),
    ('"x"y,1,2', "not a row of CSV"),
]


def test_a_bad_row_of_a_csv_is_left_out(subtests: pytest.Subtests) -> None:
    """The other rows are windows. The message has the number of the line and is one line."""
    for row, message in BAD_CSV_ROWS:
        with subtests.test(row=row):
            read = read_text(f"name,start,end\na,1,2\n\n{row}\nb,1,2\n", BERLIN)
            assert [window.name for window in read.windows] == ["a", "b"]
            (line,) = read.left_out
            assert line.startswith("jobs: line 4: ")
            assert message in line
            assert "\n" not in line
    read = read_text('start,end,match\n1,2,"a=b"\n1,2,"a=""b"""\n')
    assert "line 2: not a label matcher" in read.left_out[0]
    assert len(read.windows) == 1


def test_a_time_without_a_zone_in_one_row() -> None:
    """A row without an offset is left out if others have one."""
    read = read_text("start,end\n2026-10-24T12:00:00,+1h\n2026-10-24T12:00:00Z,+1h\n", None)
    assert len(read.windows) == 1
    assert read.left_out == (
        "jobs: line 2: time without a zone: '2026-10-24T12:00:00': add Z or an offset, or give --timezone",
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """The error names the problem."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"start,end\n\xff\xfe,1\n")
    for path, message in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "directory"),
        (binary, "not UTF-8 text"),
    ):
        with pytest.raises(LLEMError, match=message):
            read_windows(str(path), UTC)


@given(
    st.text(max_size=200), st.sampled_from(["", "name,start,end\n", "JobID|Start|End|NodeList|AllocTRES\n"])
)
def test_any_text_is_a_list_or_an_error(text: str, header: str) -> None:
    """No text raises another exception."""
    with suppress(ConfigError):
        read = read_text(header + text)
        assert read.windows or read.left_out
