"""Lists of windows: CSV and sacct."""

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import ConfigError, LLEMError
from llem_integrator.stores import Matcher
from llem_integrator.windows.hosts import Hosts
from llem_integrator.windows.lists import Reading, parse, read
from llem_integrator.windows.window import Window

NOW_US = 1_795_600_000_000_000
UTC = Reading(NOW_US, ZoneInfo("UTC"))

SACCT = """\
JobID|JobName|State|Start|End|NodeList|AllocTRES
4711|train|COMPLETED|2026-01-31T12:00:00|2026-01-31T13:00:00|node[1-2]|billing=8,cpu=8,gres/gpu=8,node=2
4711.batch|batch|COMPLETED|2026-01-31T12:00:00|2026-01-31T13:00:00|node1|cpu=4,gres/gpu=4
4711.extern|extern|COMPLETED|2026-01-31T12:00:00|2026-01-31T13:00:00|node[1-2]|gres/gpu=8
4712|infer|RUNNING|2026-01-31T12:30:00|Unknown|gpu-a|cpu=1,gres/gpu:a100=1,gres/gpu:h100=2
4713|wait|PENDING|Unknown|Unknown|None assigned|
4714|cpu|COMPLETED|2026-01-31T12:30:00|2026-01-31T12:31:00|node9|cpu=64,node=1
"""


def listed(text: str, reading: Reading = UTC) -> list[Window]:
    return parse(io.StringIO(text), "jobs", reading)


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
    train, infer = listed(SACCT, Reading(NOW_US, ZoneInfo("Europe/Berlin"), "node"))
    assert (train.name, train.start_us, train.duration_s) == ("4711", 1_769_857_200_000_000, 3600)
    assert (train.gpu_count, infer.gpu_count, infer.end_us) == (8, 3, NOW_US)
    assert train.selectors is not None
    ((nodes,),) = train.selectors
    for value in ("node1", "node2:9955", "node2.example.org:9955"):
        assert nodes({"node": value}), value
    for value in ("node11:9955", "node3", "xnode1", "node1x", ""):
        assert not nodes({"node": value}), value
    assert train.hosts == Hosts("node", ("node1", "node2"))
    assert infer.selectors == ((Matcher("node", "=~", r"(?:gpu-a)(?:\..*)?(?::[0-9]+)?"),),)


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


def test_slices_of_gpus_are_no_gpus() -> None:
    """The joules of a job with a MIG slice are unknown, even on a node with one GPU."""
    times = "2026-01-31T12:00:00|2026-01-31T13:00:00|node1"
    tres = ("gres/gpu:a100_1g.10gb=1,gres/gpu=1", "gres/gpu:3g.20gb=2", "gres/gpu:h100_80gb=2")
    rows = [f"{number}|{times}|cpu=1,{text}" for number, text in enumerate(tres)]
    found = listed("\n".join(["JobID|Start|End|NodeList|AllocTRES", *rows, ""]))
    assert [one.gpu_count for one in found] == [0, 0, 2]


def test_sacct_needs_the_zone_of_its_times() -> None:
    """Slurm prints times without a zone."""
    with pytest.raises(ConfigError, match=r"^jobs: line 2: time without a zone.*--timezone"):
        listed(SACCT, Reading(NOW_US, None))


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
    assert "names no job" in done.stderr


BAD_LISTS = [
    ("", "the first line must name the columns"),
    ("a,b\n", "the first line must name the columns"),
    ("start,end,gpus\n1,2,0\n", "the first line must name the columns"),
    ("start,end,start\n1,2,3\n", "the first line must name the columns"),
    ("name,start,end\n", "names no job with a GPU that has begun"),
    ("name,start,end\nx,1,2,3\n", "line 2 has 4 fields, and the header 3"),
    ("name,start,end\nx,2,1\n", "line 2: window ends at"),
    ("name,start,end\nok,1,2\n\nx,1,soon\n", "line 4: not a time: 'soon'"),
    ('name,start,end,match\nx,1,2,"a=b"\n', "line 2: not a label matcher"),
    ('name,start,end\n"x,1,2\n', "line 2: unexpected end of data"),
    ("JobID|Start|End\n1|2026-01-31T12:00:00|Unknown\n", "line 2: no column NodeList, AllocTRES"),
    (SACCT.replace("node[1-2]", "node[1-", 1), "line 2: not a host list"),
]


def test_a_bad_list_is_named_with_its_line(subtests: pytest.Subtests) -> None:
    """No window of a bad list is used."""
    for text, message in BAD_LISTS:
        with subtests.test(text=text, message=message):
            with pytest.raises(ConfigError) as error:
                listed(text)
            assert message in str(error.value)
            assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """The error names the problem."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"start,end\n\xff\xfe,1\n")
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (binary, "not text")):
        with pytest.raises(LLEMError, match=message):
            read(str(path), UTC)


@given(
    st.text(max_size=200), st.sampled_from(["", "name,start,end\n", "JobID|Start|End|NodeList|AllocTRES\n"])
)
def test_any_text_is_a_list_or_an_error(text: str, header: str) -> None:
    """No text raises another exception."""
    with suppress(ConfigError):
        assert listed(header + text)
