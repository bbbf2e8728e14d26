"""llem-measure, run as a program: joules, exit codes, options, the report, and machines without a GPU."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_measure.child import ROOT, site_without

PROGRAM = (sys.executable, "-W", "error", "-m", "llem_measure.command")


def run(env: Mapping[str, str], *arguments: str, program: tuple[str, ...] = PROGRAM, **more: Any) -> Any:
    """Run llem-measure to its end and return its exit code and output."""
    clean = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [*program, *arguments],
        env={**clean, "PYTHONPATH": str(ROOT / "exporter"), **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **more,
    )


def document(env: Mapping[str, str], folder: Path, *arguments: str) -> Any:
    """Return the JSON document about a command that succeeds."""
    path = folder / "energy.json"
    done = run(env, "--format", "json", "--output", str(path), *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_the_best_backend_measures_every_gpu(steady: FakeDriver, tmp_path: Path) -> None:
    """Without options zeus measures both GPUs. The exact joules are within the bounds."""
    found = document(steady.env, tmp_path, "--amount", "tokens=1000", "--", "sleep", "0.5")
    assert found["backend"] == "zeus"
    assert [[gpu["index"], gpu["uuid"], gpu["name"]] for gpu in found["per_gpu"]] == [
        [gpu.index, gpu.uuid, gpu.name] for gpu in steady.gpus
    ]
    for gpu in found["per_gpu"]:
        exact = steady.exact_joules(gpu["index"], found["start_unix_s"], found["end_unix_s"])
        assert gpu["joules_low"] <= exact <= gpu["joules_high"]
        assert gpu["peak_watts"] is None
    assert found["joules"] == pytest.approx(sum(gpu["joules"] for gpu in found["per_gpu"]))
    assert found["per"][0]["joules_per"] == pytest.approx(found["joules"] / 1000)


def test_the_document_has_the_fields_of_schema_1(steady: FakeDriver, tmp_path: Path) -> None:
    """The JSON document of nvml has all fields; the joules are those of a constant load."""
    command = ["sh", "-c", "sleep 0.5"]
    options = ["--backend", "nvml", "--amount", "tokens=1000", "--amount", "requests=2.5"]
    found = document(steady.env, tmp_path, *options, "--", *command)
    assert list(found) == [
        *("schema", "command", "exit_code", "start_unix_s", "end_unix_s", "duration_s", "joules"),
        *(
            "joules_low",
            "joules_high",
            "coverage",
            "backend",
            "scope",
            "per_gpu",
            "per",
            "considered",
            "warnings",
        ),
    ]
    assert (found["schema"], found["command"], found["exit_code"]) == (1, command, 0)
    assert (found["backend"], found["scope"], found["coverage"]) == ("nvml", "gpu", 1.0)
    seconds = found["duration_s"]
    assert found["end_unix_s"] - found["start_unix_s"] == pytest.approx(seconds, abs=1e-6)
    for gpu, watts in zip(found["per_gpu"], (100, 300), strict=True):
        assert gpu["joules"] == pytest.approx(watts * seconds)
        assert gpu["joules_low"] <= watts * seconds <= gpu["joules_high"]
        assert gpu["mean_watts"] == pytest.approx(watts)
        assert (gpu["peak_watts"], gpu["coverage"]) == (watts, 1.0)
    assert [[per["name"], per["amount"]] for per in found["per"]] == [["tokens", 1000.0], ["requests", 2.5]]
    for per in found["per"]:
        for name in ("joules", "joules_low", "joules_high"):
            assert per[name.replace("joules", "joules_per")] == pytest.approx(found[name] / per["amount"])
    assert {"code", "message", "uuid"} == set(found["warnings"][0])
    assert found["warnings"][0]["code"] == "short_window"


def test_the_table_is_on_standard_error(steady: FakeDriver) -> None:
    """The table shows each GPU, the total and the amount; standard output is the command's."""
    done = run(
        steady.env, "--backend", "nvml", "--amount", "tokens=10", "--", "sh", "-c", "echo out; sleep 0.3"
    )
    assert (done.returncode, done.stdout) == (0, "out\n")
    title, headings, first, second, total, tokens, *warnings = done.stderr.splitlines()
    assert title.startswith("llem-measure: 0.")
    assert title.endswith(" s, backend nvml, scope gpu, exit code 0")
    assert headings.split() == [
        "GPU",
        "name",
        "uuid",
        "joules",
        "low",
        "high",
        *("mean", "W", "peak", "W"),
        "coverage",
    ]
    for line, gpu, watts in ((first, steady.gpus[0], "100.0"), (second, steady.gpus[1], "300.0")):
        assert line.startswith(f"{gpu.index}    {gpu.name}  {gpu.uuid[:12]}  ")
        assert line.split()[-3:] == [watts, watts, "1.0000"]
    assert total.startswith("total ")
    assert tokens.startswith("tokens: 10, ")
    assert "measure 5 s or more" in warnings[0]


def test_gpus_are_those_of_cuda_visible_devices(steady: FakeDriver, tmp_path: Path) -> None:
    """CUDA_VISIBLE_DEVICES chooses the GPUs by UUID, and the command sees it unchanged."""
    uuid = steady.gpus[1].uuid
    env = {**steady.env, "CUDA_VISIBLE_DEVICES": uuid}
    found = document(env, tmp_path, "--", "sh", "-c", f'test "$CUDA_VISIBLE_DEVICES" = {uuid}')
    assert [[gpu["index"], gpu["uuid"]] for gpu in found["per_gpu"]] == [[1, uuid]]


@pytest.mark.parametrize("asked", ["1", "{uuid}", "{uuid:.12}", "1,{uuid}"])
def test_gpus_can_be_named(steady: FakeDriver, tmp_path: Path, asked: str) -> None:
    """--gpus takes an index, a UUID or the start of one. It overrides CUDA_VISIBLE_DEVICES."""
    env = {**steady.env, "CUDA_VISIBLE_DEVICES": "0"}
    gpus = asked.format(uuid=steady.gpus[1].uuid)
    found = document(env, tmp_path, "--backend", "nvml", "--gpus", gpus, "--", "true")
    assert [gpu["index"] for gpu in found["per_gpu"]] == [1]


def test_options_can_be_set_in_the_environment(steady: FakeDriver, tmp_path: Path) -> None:
    """Each option has a variable LLEM_MEASURE_..."""
    path = tmp_path / "report"
    variables = {
        "LLEM_MEASURE_BACKEND": "nvml",
        "LLEM_MEASURE_GPUS": "1",
        "LLEM_MEASURE_FORMAT": "json",
        "LLEM_MEASURE_OUTPUT": str(path),
        "LLEM_MEASURE_AMOUNT": "tokens=5 requests=2",
        "LLEM_MEASURE_DRIVER_TIMEOUT": "30",
    }
    done = run({**steady.env, **variables}, "true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = json.loads(path.read_text())
    assert (found["backend"], [gpu["index"] for gpu in found["per_gpu"]]) == ("nvml", [1])
    assert [per["name"] for per in found["per"]] == ["tokens", "requests"]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 0", 0)]
)
def test_exit_codes_are_the_commands(script: str, code: int) -> None:
    """The exit code is that of the command, or 128 + N where signal N ended it."""
    done = run({}, "--backend", "nvml", "--", "sh", "-c", script)
    assert done.returncode == code


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    """127: not found; 126: not executable. One line says so."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    for name, code, reason in (
        (str(script), 126, "Permission denied"),
        ("no-such-command", 127, "not found"),
    ):
        done = run({}, "--backend", "nvml", "--", name)
        assert done.returncode == code
        assert reason in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "options",
    [
        ["--gpus", "5"],
        ["--gpus", "GPU-"],
        ["--gpus", "GPU-0000"],
        ["--gpus", ","],
        ["--amount", "tokens"],
        ["--amount", "tokens=0"],
        ["--amount", "tokens=nan"],
        ["--amount", "tokens=inf"],
        ["--amount", "=1"],
        ["--amount", "tokens=1", "--amount", "tokens=2"],
        ["--backend", "no-such-backend"],
        ["--output", "-"],
        ["--output", "no/such/folder/file"],
        ["--output", "."],
        ["--driver.timeout", "0"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_usage_errors_come_before_the_command(steady: FakeDriver, options: list[str]) -> None:
    """A usage error is exit code 2, and the command is not started."""
    done = run(steady.env, *options, "--", "echo", "started")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr


def test_a_command_is_required() -> None:
    """Without a command there is a usage error."""
    assert run({}, "--backend", "nvml").returncode == 2


def test_the_command_needs_no_separator() -> None:
    """Options after the command are the command's."""
    done = run({}, "--backend", "nvml", "sh", "-c", "echo $0", "--backend")
    assert (done.returncode, done.stdout) == (0, "--backend\n")


def test_help_has_an_example_and_exit_codes_and_loads_no_driver_library() -> None:
    """--help imports neither pynvml nor zeus."""
    shows = "import sys; from llem_measure.command import main; main(['--help'], standalone_mode=False); "
    loaded = "print(sorted({'pynvml', 'zeus', 'codecarbon', 'numpy', 'rich'} & sys.modules.keys()))"
    done = run({}, program=(sys.executable, "-c", shows + loaded))
    assert done.returncode == 0, done.stderr
    assert "llem-measure -- python train.py" in done.stdout
    assert "The exit code is that of COMMAND" in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_without_a_backend_the_command_runs(tmp_path: Path) -> None:
    """No GPU, no zeus, no CodeCarbon: one line with the reasons, and joules are null in JSON."""
    site = site_without(tmp_path, "zeus", "codecarbon")
    path = tmp_path / "energy.json"
    program = (sys.executable, "-S", "-m", "llem_measure.command")
    env = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "exporter")])}
    done = run(env, "--", "sh", "-c", "echo out; exit 4", program=program)
    assert (done.returncode, done.stdout) == (4, "out\n")
    [line] = done.stderr.splitlines()
    assert line.startswith("llem-measure: energy was not measured: zeus: ")
    for part in ("zeus: ", "nvml: NVML cannot be opened", "codecarbon: "):
        assert part in line
    options = ("--format", "json", "--output", str(path), "--amount", "tokens=5", "--gpus", "0")
    done = run(env, *options, "--", "sh", "-c", "exit 4", program=program)
    assert done.returncode == 4
    found = json.loads(path.read_text())
    assert (found["joules"], found["backend"], found["coverage"], found["per_gpu"]) == (None, None, None, [])
    assert found["exit_code"] == 4
    assert found["duration_s"] > 0
    assert found["per"][0]["joules_per"] is None
    assert found["warnings"][0]["code"] == "energy_unavailable"
    assert "NVML cannot be opened" in found["warnings"][0]["message"]


def test_without_a_gpu_only_cpu_and_memory_are_measured() -> None:
    """Without a GPU, CodeCarbon measures the node, and a line says that no GPU is measured."""
    done = run({}, "--", "sh", "-c", "exit 4", program=(sys.executable, "-m", "llem_measure.command"))
    assert done.returncode == 4
    assert (
        "llem-measure: no GPU is measured; CodeCarbon estimates CPU and memory: NVML cannot be opened"
        in done.stderr
    )
    assert "backend codecarbon, scope node" in done.stderr


def test_a_hung_gpu_does_not_stop_the_command(steady: FakeDriver) -> None:
    """If a GPU does not answer within --driver.timeout, the command runs without a measurement, and ends."""
    steady.gpus[1].hung = True
    done = run(steady.env, "--driver.timeout", "0.5", "--", "sh", "-c", "echo out; exit 4")
    assert (done.returncode, done.stdout) == (4, "out\n")
    [line] = done.stderr.splitlines()
    assert line.startswith("llem-measure: energy was not measured: GPU 1 hangs: ")


def test_a_hung_gpu_beside_the_asked_one_does_no_harm(steady: FakeDriver, tmp_path: Path) -> None:
    """--gpus with an index calls no other GPU."""
    steady.gpus[1].hung = True
    options = ("--backend", "nvml", "--gpus", "0", "--driver.timeout", "60")
    found = document(steady.env, tmp_path, *options, "--", "sleep", "0.3")
    assert [gpu["index"] for gpu in found["per_gpu"]] == [0]
    assert found["joules"] > 0


def test_a_gpu_that_hangs_later_does_not_change_the_exit_code(steady: FakeDriver, tmp_path: Path) -> None:
    """A GPU that hangs while the command runs is reported, and the other GPU keeps its joules."""
    path = tmp_path / "energy.json"
    options = ["--backend", "nvml", "--format", "json", "--output", str(path)]
    with subprocess.Popen(
        [*PROGRAM, *options, "--", "sh", "-c", "echo begun; read line; exit 4"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "exporter"), **steady.env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        steady.gpus[1].hung = True
        process.communicate("\n", timeout=300)
    assert process.returncode == 4
    found = json.loads(path.read_text())
    assert found["per_gpu"][0]["joules"] > 0
    assert "gpu_lost" in [warning["code"] for warning in found["warnings"]]
    assert found["joules_high"] is None or found["per_gpu"][1]["joules"] is not None


def test_the_output_file_is_written_atomically(steady: FakeDriver, tmp_path: Path) -> None:
    """The old file stays until the new one is complete, and no other file remains."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "energy.txt"
    path.write_text("old\n")
    path.chmod(0o640)
    done = run(steady.env, "--backend", "nvml", "--output", str(path), "--", "cat", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "old\n", "")
    assert path.read_text().startswith("llem-measure: ")
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(folder.iterdir()) == [path]


def test_a_report_that_cannot_be_written_is_printed(steady: FakeDriver, tmp_path: Path) -> None:
    """If the folder has vanished, the report goes to standard error, and the exit code stays."""
    folder = tmp_path / "out"
    folder.mkdir()
    script = f"rmdir {folder}; exit 4"
    options = ("--backend", "nvml", "--output", str(folder / "file"))
    done = run(steady.env, *options, "--", "sh", "-c", script)
    assert done.returncode == 4
    assert "cannot write" in done.stderr
    assert "total " in done.stderr


def test_the_documentation_is_true(steady: FakeDriver) -> None:
    """The example in measure.md runs, and each option that it names exists."""
    text = (ROOT / "exporter" / "measure.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = run(steady.env, program=(sys.executable, "-c", example))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
    help_text = run({}, "--help").stdout
    for option in re.findall(r"`(--[a-z.]+)", text):
        assert option in help_text
