"""Replayed traces: values between rows, loops, and invalid files."""

from pathlib import Path

import pytest

from llem_core.errors import ConfigError
from llem_exporter.replay.device import ReplayDevice, load, open_devices

START_MS = 1_795_507_546_100

TRACE = """\
seconds,gpu,watts,joules
10.0,0,100,1000
10.0,1,50,500
10.5,0,200,1075
10.5,1,50,525
11.0,0,100,1150
11.0,1,50,550
"""


def devices(tmp_path: Path, text: str = TRACE) -> list[ReplayDevice]:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return open_devices(str(path), START_MS)


def test_watts_are_linear_between_rows_and_over_the_loops_end(tmp_path: Path) -> None:
    """A loop is 1.5 s: to the last row, and a median step back to the first row."""
    first = devices(tmp_path)[0]
    watts = [first.read_watts(START_MS + ms) for ms in (0, 250, 500, 1000, 1250, 1499, 1500, 1750, 1500_500)]
    assert watts == pytest.approx([100, 150, 200, 100, 100, 100, 100, 150, 200])


def test_joules_go_on_over_loops(tmp_path: Path) -> None:
    """Each loop adds its joules, including those of the step back to the first row."""
    first, second = devices(tmp_path)
    at = [0, 500, 1000, 1250, 1500, 2000, 15_000]
    assert [first.read_joules(START_MS + ms) for ms in at] == [1000, 1075, 1150, 1175, 1200, 1275, 3000]
    assert second.read_joules(START_MS + 1500) == 575
    values = [first.read_joules(START_MS + ms) for ms in range(0, 10_000, 7)]
    assert values == sorted(values)


def test_a_step_of_the_wall_clock_moves_no_joules_back(tmp_path: Path) -> None:
    """After the wall clock is set back by 7 s, the replay continues and joules do not fall."""
    path, steps_s = tmp_path / "trace.csv", [0.0]
    path.write_text(TRACE)
    device = open_devices(str(path), START_MS, lambda: steps_s[0])[0]
    before = device.read_joules(START_MS + 9000)
    steps_s[0] = -7.0
    assert device.read_joules(START_MS + 2000) == before
    assert device.read_joules(START_MS + 3500) - before == 200


def test_before_its_first_row_a_gpu_is_interpolated_from_the_loop_before(tmp_path: Path) -> None:
    """The value lies between its last row in the previous loop and its first row."""
    late = devices(tmp_path, "seconds,gpu,watts\n0,0,1\n1,0,1\n2,0,1\n1,1,100\n2,1,300\n")[1]
    assert [late.read_watts(START_MS + ms) for ms in (0, 500, 1000, 2000, 3000)] == [200, 150, 100, 300, 200]
    assert not late.has_joules


def test_a_replayed_gpu_has_a_stable_uuid(tmp_path: Path) -> None:
    """The UUID depends only on the file name and the GPU number, so series continue after a restart."""
    first, second = devices(tmp_path)
    again = devices(tmp_path)[0]
    assert (first.info.name, first.info.power_source, first.info.index) == ("replay", "replay", 0)
    assert first.info.uuid == again.info.uuid != second.info.uuid
    assert first.info.uuid == "GPU-2fecfe1b-c711-5872-b367-d41c482f7c03"


def test_the_packaged_trace_is_called_demo() -> None:
    """`demo` replays the packaged file, which has two GPUs with joules."""
    assert [device.has_joules for device in open_devices("demo", START_MS)] == [True, True]


MALFORMED = [
    ("", "line 1: columns must be seconds,gpu,watts"),
    ("seconds,watts\n0,1\n", "line 1: columns must be seconds,gpu,watts"),
    ("seconds,gpu,watts,volts\n0,0,1,2\n", "line 1: columns must be seconds,gpu,watts"),
    ("seconds,gpu,watts,watts\n0,0,1,2\n", "line 1: columns must be seconds,gpu,watts"),
    ("seconds,gpu,watts\n", "no rows under the header"),
    ("seconds,gpu,watts\n0,0,1\n", "GPU 0 has only one row"),
    ("seconds,gpu,watts\n0,0,1\n1,0\n", "line 3: 2 values for 3 columns"),
    ("seconds,gpu,watts\n0,0,1\n1,0,many\n", "line 3: watts must be a number from 0 to 1e+12, not 'many'"),
    ("seconds,gpu,watts\n0,0,1\n1,0,-1\n", "line 3: watts must be a number from 0 to 1e+12, not '-1'"),
    ("seconds,gpu,watts\n0,0,1\n1,0,nan\n", "line 3: watts must be a number from 0 to 1e+12, not 'nan'"),
    ("seconds,gpu,watts\n0,0,1\ninf,0,1\n", "line 3: seconds must be a number from 0 to 1e+12, not 'inf'"),
    ("seconds,gpu,watts\n0,0,1e300\n", "line 2: watts must be a number from 0 to 1e+12, not '1e300'"),
    ("seconds,gpu,watts\n-1e300,0,1\n", "line 2: seconds must be a number from 0 to 1e+12, not '-1e300'"),
    (
        "seconds,gpu,watts,joules\n0,0,1,1e308\n",
        "line 2: joules must be a number from 0 to 1e+12, not '1e308'",
    ),
    (
        "seconds,gpu,watts\n0,0,1\n0.0009,0,1\n",
        "line 3: the seconds of each GPU must increase by at least 0.001",
    ),
    ("seconds,gpu,watts\n0,0.5,1\n", "line 2: gpu must be a whole number from 0 to 1e+12, not '0.5'"),
    (
        "seconds,gpu,watts\n1,0,1\n1,0,1\n",
        "line 3: the seconds of each GPU must increase by at least 0.001 from row to row: "
        "found 1.0 after 1.0",
    ),
    ("seconds,gpu,watts,joules\n0,0,1,9\n1,0,1,8\n", "line 3: joules must not decrease: 8.0 after 9.0"),
    (
        "seconds,gpu,watts,joules\n0,0,1,9\n1,0,1,\n",
        "line 3: joules must be a number from 0 to 1e+12, not ''",
    ),
    ('seconds,gpu,watts\n0,0,"1\n', "not a readable trace"),
    (
        "seconds,gpu,watts\n" + "".join(f"0,{gpu},1\n" for gpu in range(300)),
        "line 258: more than 256 GPUs",
    ),
    ("seconds,gpu,watts\n0,0," + "9" * 200_000 + "\n", "not a readable trace"),
]


def test_a_malformed_trace_is_refused_with_file_line_and_value(tmp_path: Path) -> None:
    """The error is one line."""
    path = tmp_path / "bad.csv"
    for text, message in MALFORMED:
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            load(path)
        assert str(error.value).startswith(str(path))
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, and invalid text are errors."""
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "bytes.csv"):
        with pytest.raises(ConfigError, match="not a readable trace"):
            load(path)
