"""llem-integrate as a user runs it: a process, its output, its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llem_integrator import cli
from llem_integrator.windows.window import rfc3339
from tests.llem_integrator.conftest import Done
from tests.llem_integrator.pages import T0, page, scraped, series
from tests.servers import wait_until

BEGIN = T0 // 1000


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "page.om"
    path.write_text(page(scraped(0), scraped(1, watts=250.0)))
    return str(path)


def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llem_integrator", *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def window(start: float, end: float) -> list[str]:
    return ["--window", f"{BEGIN + start},{BEGIN + end}"]


def test_json(file: str) -> None:
    """The JSON has the documented fields in their order. Unknown values are null."""
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
    """The table has a line per GPU, the total, and the sensor error that no bound includes."""
    done = run("--source", file, *window(43.3, 73.3))
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if line.startswith("1 "))
    assert "7500.0" in row
    assert "zeus counter" in row
    assert "total 10500.0 J, backend zeus" in done.stdout
    assert "±5 %" in done.stdout


def test_standard_input_and_twice_the_same_bytes(file: str) -> None:
    """Standard input is read. The same data gives the same bytes."""
    text = Path(file).read_text()
    args = ("--source", "-", *window(0, 60), *window(60, 120), "--format", "json")
    first, second = run(*args, stdin=text), run(*args, stdin=text)
    assert first.stdout == second.stdout
    assert len(json.loads(first.stdout)["windows"]) == 2


EXIT_CODES: list[tuple[list[str], int]] = [
    (window(40, 80), 0),
    (window(-900, -800), 3),
    (window(-30, 30), 4),
    ([*window(-30, 30), "--min-coverage", "0.4"], 0),
    ([*window(40, 80), "--gpus", "5"], 3),
    ([*window(40, 80), "--backend", "none"], 0),
    ([*window(-900, -800), *window(-30, 30)], 3),
    ([*window(40, 80), *window(-30, 30)], 4),
    ([*window(40, 80), "--match", 'instance="nowhere"'], 3),
]


def test_exit_codes(file: str, llem_integrate: Callable[..., Done], subtests: pytest.Subtests) -> None:
    """0 is success, 3 no joules, 4 low coverage. 3 overrides 4. The result is printed in all cases."""
    for args, code in EXIT_CODES:
        with subtests.test(args=args):
            done = llem_integrate("--source", file, "--format", "json", *args)
            assert (done.code, done.stderr) == (code, "")
            assert json.loads(done.stdout)["windows"]


ERRORS: list[tuple[list[str], int, str]] = [
    (["--format", "json"], 2, "no window: use --window"),
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
    (["--source", "x.om", "--demo"], 2, "--demo starts its own source"),
    (["--window", "now,+1m", "--source", "http://[::1"], 2, "not a URL"),
    (["--window", "now,+1m", "--gpus", ","], 2, "--gpus ',' contains no GPU"),
    (["--job", "1", "--gpus", "0"], 2, "omit --gpus"),
    (["--window", "now,+1m", "--node-label", "a-b"], 2, "--node-label is not the name of a label: 'a-b'"),
    (["--window", "now,+1m", "--gpus", ""], 2, "--gpus '' contains no GPU"),
    (["--window", "now,+1m", "--match", ""], 2, "no label matcher"),
    (["--window", "now,+1m", "--min-coverage", "nan"], 2, "min-coverage"),
    (["--window", "now,+1m", "--max-gap", "9" * 400 + "s"], 2, "out of range"),
    (["--window", "now+9999999d,+1h"], 2, "out of range"),
    (["--format", "xml"], 2, "xml"),
]


def test_errors_are_one_line(llem_integrate: Callable[..., Done], subtests: pytest.Subtests) -> None:
    """An error is one line on stderr. Its kind determines the exit code."""
    for args, code, message in ERRORS:
        with subtests.test(args=args):
            done = llem_integrate(*args)
            assert (done.code, done.stdout) == (code, "")
            (line,) = done.stderr.splitlines()
            assert line.startswith("error: ")
            assert message in line


def test_the_windows_of_a_job_in_a_file(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """--job measures the GPU with the job, from the first scrape with the job to the last."""
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955", "job_id": "4711", "job": "llem"}
    shown = [(second * 1000, 1.0) for second in range(40, 81, 5)]
    path = tmp_path / "page.om"
    path.write_text(page(scraped(0), scraped(1), series("llem_gpu_job_info", labels, shown)))
    done = llem_integrate("--source", str(path), "--job", "4711", "--format", "json")
    assert (done.code, done.stderr) == (0, "")
    (found,) = json.loads(done.stdout)["windows"]
    assert (found["name"], found["start"], found["end"]) == ("4711", BEGIN + 40, BEGIN + 80)
    assert found["per_gpu_j"] == pytest.approx({"GPU-0": 4000.0})


def test_options_from_the_environment(
    file: str, llem_integrate: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLEM_INTEGRATE_* set options. Windows and matchers are separated by newlines and may contain spaces."""
    monkeypatch.setenv("LLEM_INTEGRATE_SOURCE", file)
    monkeypatch.setenv("LLEM_INTEGRATE_FORMAT", "json")
    monkeypatch.setenv("LLEM_INTEGRATE_GPUS", "1")
    monkeypatch.setenv("LLEM_INTEGRATE_MATCH", 'instance="a b"\n gpu = "1"')
    lines = f"{rfc3339((BEGIN + 40) * 10**6).replace('T', ' ')},+20s\n{BEGIN + 60}, {BEGIN + 80}\n"
    monkeypatch.setenv("LLEM_INTEGRATE_WINDOW", lines)
    done = llem_integrate()
    assert (done.code, done.stderr) == (0, "")
    windows = json.loads(done.stdout)["windows"]
    assert [(one["start"], one["end"]) for one in windows] == [
        (BEGIN + 40, BEGIN + 60),
        (BEGIN + 60, BEGIN + 80),
    ]
    assert [list(one["per_gpu_j"]) for one in windows] == [["GPU-1"]] * 2


def test_every_option_has_its_own_variable() -> None:
    """The variable is named after the option, not after its parameter."""
    options = {option.opts[0]: option.envvar for option in cli.command.params if option.name != "version"}
    assert "--window" in options
    assert options == {
        name: "LLEM_INTEGRATE_" + name.removeprefix("--").upper().replace("-", "_").replace(".", "_")
        for name in options
    }


def piped(command: str) -> subprocess.CompletedProcess[str]:
    """llem-integrate as a shell runs it."""
    command = f"{sys.executable} -m llem_integrator {command}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)


REDIRECTED = [
    ("--format table >&-", 1, "standard output is closed"),
    ("--format json >&-", 1, "standard output is closed"),
    ("--format table >/dev/full", 1, "No space left"),
    ("--format json >/dev/full", 1, "No space left"),
    ("--format parquet >/dev/full", 1, "No space left"),
    ("--source - <&-", 1, "standard input is closed"),
    (">/dev/null 2>&-", 0, ""),
    ("--format table | head -c 0", 0, ""),
    ("--format json | head -c 0", 0, ""),
    ("--format parquet | head -c 0", 0, ""),
]


def test_closed_and_full_streams(file: str, subtests: pytest.Subtests) -> None:
    """A closed or full stream is an error of one line. A reader that exits is not an error."""
    for redirected, code, message in REDIRECTED:
        with subtests.test(redirected=redirected):
            done = piped(f"--source {file} {' '.join(window(40, 80))} {redirected}")
            assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", code)
            assert message in done.stderr


def test_an_encoding_without_the_signs(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters that the terminal's encoding lacks are replaced."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run("--source", file, *window(43.3, 73.3))
    assert (done.returncode, done.stderr) == (0, "")
    assert "?5 %" in done.stdout


def test_values_that_no_gpu_has(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """Values near the largest float are not samples. No number in the JSON is infinite."""
    path = tmp_path / "page.om"
    path.write_text(page(scraped(0, watts=1e305)))
    done = llem_integrate("--source", str(path), *window(40, 80), "--format", "json")
    assert (done.code, done.stderr) == (3, "")
    assert json.loads(done.stdout)["windows"][0]["total_j"] is None


def test_warnings_are_one_line_each(file: str, llem_integrate: Callable[..., Done]) -> None:
    """A long warning is not wrapped if the output is not a terminal."""
    done = llem_integrate("--source", file, *window(40, 80), "--gpus", "0,GPU-" + "9 9" * 80)
    assert f"warning: GPU-{'9 9' * 80} has no samples in the window" in done.stdout.splitlines()


def test_help_and_version(llem_integrate: Callable[..., Done]) -> None:
    """--help lists the exit codes, and the options in groups. --version prints the version."""
    shown = llem_integrate("--help").stdout
    assert "Exit status: 0 done" in shown
    groups = [line for line in shown.splitlines() if re.fullmatch(r"\w[\w ]*:", line)]
    names = "What to measure", "Source", "Selection", "Measurement", "Output", "Figures", "HTTP", "Other"
    assert groups == [f"{name}:" for name in names]
    for option in cli.command.params:
        assert len(re.findall(rf"^  {option.opts[0]}\b(?!-)", shown, re.MULTILINE)) == 1, option.opts
    assert "llem-integrate" in llem_integrate("--version").stdout


def test_without_arguments_the_usage_is_shown(llem_integrate: Callable[..., Done]) -> None:
    """Without arguments, the usage with examples goes to standard error, and the exit code is 2."""
    done = llem_integrate()
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")
    assert "  llem-integrate --window now-15m,now\n" in done.stderr
    assert len(done.stderr.splitlines()) < 15


def test_the_suffix_of_the_output_chooses_the_format(
    file: str, llem_integrate: Callable[..., Done], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """The file has the same bytes as with --format. --format overrides the suffix."""
    suffixes = {".csv": "csv", ".JSON": "json", ".parquet": "parquet", ".om": "openmetrics"}
    for suffix, form in {**suffixes, ".prom": "openmetrics", ".txt": "table", "": "table"}.items():
        with subtests.test(suffix=suffix):
            chosen, explicit = tmp_path / f"chosen{suffix}", tmp_path / f"{form}.csv"
            assert llem_integrate("--source", file, *window(40, 80), "--output", str(chosen)).code == 0
            options = ["--format", form, "--output", str(explicit)]
            assert llem_integrate("--source", file, *window(40, 80), *options).code == 0
            assert chosen.read_bytes() == explicit.read_bytes()


def test_an_unknown_suffix_is_an_error(llem_integrate: Callable[..., Done]) -> None:
    """A file whose suffix belongs to no format is a usage error, before any data is read."""
    done = llem_integrate("--source", "missing.om", *window(40, 80), "--output", "joules.xlsx")
    assert (done.code, done.stdout) == (2, "")
    assert ".csv" in done.stderr
    assert "--format" in done.stderr


def test_uuids_are_beside_the_index(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """The table and its warnings have the index and a short UUID, which --gpus accepts."""
    first, second = "GPU-2bae1f3c-0000-4000-8000-000000000000", "GPU-2bae1f3c-0007-4000-8000-000000000000"
    path = tmp_path / "page.om"
    path.write_text(page(scraped(0, uuid=first), scraped(1, uuid=second)))
    done = llem_integrate("--source", str(path), *window(-10, 80), "--min-coverage", "0.5")
    rows = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith(("0 ", "1 "))]
    assert rows == [["0", "GPU-2bae1f3c-0000"], ["1", "GPU-2bae1f3c-0007"]]
    assert "warning: GPU 0 (GPU-2bae1f3c-0000): " in done.stdout
    for prefix in (rows[1][1], second):
        done = llem_integrate("--source", str(path), *window(40, 80), "--gpus", prefix, "--format", "json")
        assert (done.code, list(json.loads(done.stdout)["windows"][0]["per_gpu_j"])) == (0, [second])
    done = llem_integrate("--source", str(path), *window(40, 80), "--gpus", "GPU-2bae")
    assert (done.code, done.stdout) == (2, "")
    assert f"'GPU-2bae' matches several GPUs: {first}, {second}" in done.stderr


def listens(pid: str) -> bool:
    """Whether a process has a TCP socket that listens. Source: proc(5), /proc/net/tcp; 0A is TCP_LISTEN."""
    try:
        sockets = {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except OSError:  # it has ended
        return False
    return any(row[3] == "0A" and f"socket:[{row[9]}]" in sockets for row in rows)


@pytest.mark.parametrize(
    ("sent", "code", "last"), [(signal.SIGINT, 130, ["interrupted"]), (signal.SIGTERM, 143, [])]
)
@pytest.mark.parametrize("measures", [False, True], ids=["starts", "measures"])
def test_a_demo_that_is_stopped_leaves_nothing_running(
    sent: signal.Signals, code: int, last: list[str], measures: bool
) -> None:
    """A signal during or after the start ends the demo and its exporter, which prints nothing."""
    command = [sys.executable, "-m", "llem_integrator", "--demo"]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, start_new_session=True, **streams) as process:
        tasks = Path(f"/proc/{process.pid}/task")
        children = tasks / str(process.pid) / "children"
        # Its second thread is the watchdog of an exporter that has begun to start.
        wait_until(lambda: len(list(tasks.iterdir())) > 1, "a demo that waits for its exporter")
        if measures:
            wait_until(lambda: any(map(listens, children.read_text().split())), "an exporter that listens")
        found = children.read_text().split()
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout, stderr.splitlines()[-1:]) == (code, "", last)
    assert not any(Path(f"/proc/{child}").exists() for child in found)


def test_a_demo_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the exporter does not start, the error contains its reason."""
    monkeypatch.setenv("LLEM_EXPORTER_SAMPLE_INTERVAL", "1us")
    done = run("--demo")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the exporter did not start (")
    assert "sample-interval" in line
