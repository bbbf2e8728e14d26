"""Where an answer goes: a file that is whole or not there, a pipe, a terminal."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from llem_core.errors import LLEMError
from llem_integrator.report import BINARY, FORMATS, output
from tests.llem_integrator.conftest import Done
from tests.llem_integrator.measured import BEGIN, two_gpus
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn
from tests.servers import Pushgateway, wait_until

COMMAND = [sys.executable, "-m", "llem_integrator"]
WINDOW = ["--window", f"{BEGIN + 40},+40s"]


def run(*args: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*COMMAND, *args], capture_output=True, timeout=120, check=False)


def test_a_file_holds_what_standard_output_would(
    tmp_path: Path, llem_integrate: Callable[..., Done], subtests: pytest.Subtests
) -> None:
    """--output writes the same bytes, prints nothing, and leaves no other file."""
    source = two_gpus(tmp_path)
    for form in set(FORMATS) - BINARY:
        folder = tmp_path / form
        folder.mkdir()
        with subtests.test(form=form):
            printed = llem_integrate("--source", source, *WINDOW, "--format", form)
            output_file = str(folder / "answer")
            done = llem_integrate("--source", source, *WINDOW, "--format", form, "--output", output_file)
            assert (done.code, done.stdout, done.stderr) == (0, "", "")
            assert (folder / "answer").read_text() == printed.stdout
            assert len(printed.stdout) > 300
            assert [path.name for path in folder.iterdir()] == ["answer"]


def test_parquet_goes_through_a_pipe(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """A pipe has no position. It gets the same bytes as a file."""
    asked = ["--source", two_gpus(tmp_path), *WINDOW, "--format", "parquet"]
    done = run(*asked)
    table = pyarrow.parquet.read_table(io.BytesIO(done.stdout))
    assert table.column("joules").to_pylist() == pytest.approx([4000, 10_000])
    llem_integrate(*asked, "--output", str(tmp_path / "answer"))
    assert (tmp_path / "answer").read_bytes() == done.stdout


def test_a_pushgateway_takes_openmetrics(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """A Pushgateway accepts the samples and shows them to Prometheus."""
    done = llem_integrate("--source", two_gpus(tmp_path), *WINDOW, "--format", "openmetrics")
    with Pushgateway() as gateway:
        sent = urllib3.request("PUT", f"{gateway.url}/metrics/job/llem", body=done.stdout, retries=False)
        assert (sent.status, sent.data) == (200, b"")
        families = text_string_to_metric_families(gateway.fetch_text("/metrics"))
        joules = {
            sample.labels["uuid"]: sample.value
            for family in families
            if family.name == "llem_window_energy_joules"
            for sample in family.samples
        }
    assert joules == pytest.approx({"GPU-0": 4000, "GPU-1": 10_000})


def test_parquet_is_not_for_a_terminal() -> None:
    """Parquet on a terminal is a usage error, before any data is read."""
    ours, theirs = pty.openpty()
    try:
        command = [*COMMAND, "--source", "missing.om", *WINDOW, "--format", "parquet"]
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=120, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"--output FILE" in done.stderr


def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, llem_integrate: Callable[..., Done], subtests: pytest.Subtests
) -> None:
    """A missing folder, a file as a folder, or a folder as a file give one line with the path."""
    source = two_gpus(tmp_path)
    (tmp_path / "plain").write_text("")
    options = [("--output", where) for where in ("missing/answer", "", "plain/answer")]
    options += [("--plot", where) for where in ("missing/answer/p.svg", "plain/answer/p.svg")]
    for option, where in options:
        with subtests.test(option=option, where=where):
            path = str(tmp_path / where)
            done = llem_integrate("--source", source, *WINDOW, option, path)
            assert (done.code, done.stdout) == (1, "")
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"error: cannot write {path}: ")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """After an error, the old file is unchanged, and there is no other file."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "answer").write_text("old")

    def fail() -> None:
        with output.opened(str(folder / "answer"), binary=False) as out:
            out.write("new")
            assert (folder / "answer").read_text() == "old"
            raise LLEMError("half")

    with pytest.raises(LLEMError, match="half"):
        fail()
    assert [path.read_text() for path in folder.iterdir()] == ["old"]


def test_a_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    """A new file follows the umask. A replaced file keeps its mode, and a link stays a link."""
    before = os.umask(0o027)
    try:
        with output.opened(str(tmp_path / "new"), binary=False) as out:
            out.write("a")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o604)
    (tmp_path / "link").symlink_to("new")
    with output.opened(str(tmp_path / "link"), binary=True) as out:
        out.write(b"b")
    assert (tmp_path / "link").is_symlink()
    assert ((tmp_path / "new").read_text(), (tmp_path / "new").stat().st_mode & 0o777) == ("b", 0o604)


def test_a_named_pipe_is_written_as_it_comes(tmp_path: Path) -> None:
    """A named pipe is written directly and not replaced."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    options = ["--source", two_gpus(tmp_path), *WINDOW, "--format", "json", "--output", str(path)]
    with subprocess.Popen([*COMMAND, *options]) as process:
        document = json.loads(path.read_text())
        assert process.wait(timeout=120) == 0
    assert document["schema"] == 1
    assert path.is_fifo()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_no_half_of_a_file(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    """After a signal, there is neither the file nor a temporary file."""
    go_on = threading.Event()

    def reply(asked: Asked) -> Reply:
        if asked.path.startswith("/history"):
            go_on.wait()
        return Reply(body=b"llem-exporter") if asked.path == "/" else Reply(status=404)

    with StandIn(reply) as server:
        options = [
            "--source",
            server.url,
            *WINDOW,
            "--output",
            str(tmp_path / "a"),
            "--plot",
            str(tmp_path / "p.svg"),
        ]
        with subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            wait_until(
                lambda: any(asked.path.startswith("/history") for asked in server.asked), "the request"
            )
            assert len(list(tmp_path.iterdir())) == 2
            process.send_signal(sent)
            process.communicate(timeout=120)
            go_on.set()
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []


def test_the_progress_bar_is_beside_the_answer(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """With a progress bar on stderr, standard output contains only the result."""
    source = two_gpus(tmp_path)
    plain, barred = (
        llem_integrate("--source", source, *WINDOW, "--format", "json", option)
        for option in ("--no-progress", "--progress")
    )
    assert barred.stdout == plain.stdout
    assert json.loads(barred.stdout)["windows"]


def test_on_a_terminal_the_bar_makes_room(tmp_path: Path) -> None:
    """If both are on a terminal, tables and the bar have separate lines."""
    ours, theirs = pty.openpty()
    windows = [*WINDOW, "--window", f"{BEGIN + 20},+40s", "--window", f"{BEGIN + 10},+40s"]
    command = [*COMMAND, "--source", two_gpus(tmp_path), *windows]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:
            pass  # the end of a terminal
        assert process.wait(timeout=120) == 0
    os.close(ours)
    lines = shown.decode().replace("\x1b[2K", "\n").splitlines()
    totals = [line for line in lines if line.lstrip("\x1b[0123456789;?hlAGK\r").startswith("total ")]
    assert len(totals) == 3
