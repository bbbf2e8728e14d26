"""llem-integrate as a user runs it: a process, its output, its exit code."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.llem_integrator.pages import T0, page, scraped
from tests.servers import wait_until

BEGIN = T0 // 1000


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "page.om"
    path.write_text(page(scraped(0), scraped(1, watts=250.0)))
    return str(path)


def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llem_integrator", *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def window(start: float, end: float) -> list[str]:
    return ["--window", f"{BEGIN + start},{BEGIN + end}"]


def test_json(file: str) -> None:
    """The JSON has the contract's fields in its order, and null for what is unknown."""
    done = run("--source", file, *window(43.3, 73.3), "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "source", "windows"]
    assert (document["schema"], document["source"]) == (1, file)
    first = document["windows"][0]
    names = (
        "name start end duration_sec valid reasons backend scope total_j per_gpu_j gpus considered warnings"
    )
    assert list(first) == names.split()
    assert first["name"] is None
    assert (first["start"], first["end"]) == (BEGIN + 43.3, BEGIN + 73.3)
    assert first["per_gpu_j"] == pytest.approx({"GPU-0": 3000.0, "GPU-1": 7500.0})
    names = (
        "uuid gpu name instances joules joules_low joules_high mean_watts peak_watts backend method coverage "
        "covered_s gap_s largest_gap_s max_gap_s sample_count resets joules_by_backend emissions_g"
    )
    assert list(first["gpus"][0]) == names.split()
    assert (first["gpus"][0]["emissions_g"], first["gpus"][1]["peak_watts"]) == (None, 250.0)
    assert list(first["considered"][0]) == ["backend", "usable", "reason"]


def test_table(file: str) -> None:
    """The table shows a line a GPU, the total, and what no bound holds."""
    done = run("--source", file, *window(43.3, 73.3))
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if line.startswith("1 "))
    assert "7500.0" in row
    assert "zeus counter" in row
    assert "total 10500.0 J, backend zeus" in done.stdout
    assert "±5 %" in done.stdout


def test_standard_input_and_twice_the_same_bytes(file: str) -> None:
    """A page on standard input is read, and the same data prints the same bytes."""
    text = Path(file).read_text()
    args = ("--source", "-", *window(0, 60), *window(60, 120), "--format", "json")
    first, second = run(*args, stdin=text), run(*args, stdin=text)
    assert first.stdout == second.stdout
    assert len(json.loads(first.stdout)["windows"]) == 2


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (window(40, 80), 0),
        (window(-900, -800), 3),
        (window(-30, 30), 4),
        ([*window(-30, 30), "--min-coverage", "0.4"], 0),
        ([*window(40, 80), "--gpu", "5"], 3),
        ([*window(40, 80), "--backend", "none"], 0),
        ([*window(-900, -800), *window(-30, 30)], 3),
        ([*window(40, 80), *window(-30, 30)], 4),
        ([*window(40, 80), "--match", 'instance="nowhere"'], 3),
    ],
)
def test_exit_codes(file: str, args: list[str], code: int) -> None:
    """0 done, 3 no joules, 4 coverage, 3 before 4 before 0; the result is printed all the same."""
    done = run("--source", file, "--format", "json", *args)
    assert (done.returncode, done.stderr) == (code, "")
    assert json.loads(done.stdout)["windows"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "no window given"),
        (["--window", "now"], 2, "not a window"),
        (["--window", "2026-01-01T00:00:00,+1m"], 2, "--timezone"),
        (["--window", "now,+1m", "--timezone", "Mars/Base"], 2, "no such time zone"),
        (["--window", "now,+1m", "--max-gap", "x"], 2, "not a duration"),
        (["--window", "now,+1m", "--match", "x"], 2, "not a label matcher"),
        (["--window", "now,+1m", "--min-coverage", "2"], 2, "min-coverage"),
        (["--window", "now,+1m", "--nonsense"], 2, "No such option"),
        (["--window", "now-1m,now", "--source", "http://127.0.0.1:9"], 1, "no answer from"),
        (["--window", "now-1m,now", "--source", "missing.om"], 1, "cannot read missing.om"),
        (["--window", "now-1m,now", "--demo"], 2, "--demo chooses its own window"),
    ],
)
def test_errors_are_one_line(args: list[str], code: int, message: str) -> None:
    """What cannot be done is said in a line of its own, with the exit code that tells why."""
    done = run(*args)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_options_from_the_environment(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLEM_INTEGRATE_* stand for the options."""
    monkeypatch.setenv("LLEM_INTEGRATE_SOURCE", file)
    assert run(*window(40, 80)).returncode == 0


def test_help_and_version() -> None:
    """--help lists the exit codes, --version the version."""
    assert "Exit: 0 done" in run("--help").stdout
    assert "llem-integrate" in run("--version").stdout


def test_a_reader_that_goes_away_is_no_traceback(file: str) -> None:
    """`llem-integrate ... | head -0` ends quietly."""
    options = f"--source {file} {' '.join(window(40, 80))} --format json"
    command = f"{sys.executable} -m llem_integrator {options} | head -c 0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


def test_ctrl_c_exits_130_and_leaves_nothing_running() -> None:
    """An interrupted demo ends with 130 and takes its exporter with it."""
    command = [sys.executable, "-m", "llem_integrator", "--demo"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        found = wait_until(lambda: children.read_text().split(), "the demo's exporter")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr.splitlines()[-1]) == (130, "interrupted")
    assert not any(Path(f"/proc/{child}").exists() for child in found)
