"""The systemd unit: systemd's own checks of it, and the exporter under what it forbids."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy import sandbox
from tests.fake_nvml import FakeDriver
from tests.servers import Exporter, program, wait_until

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "exporter" / "deploy"
SYSTEMD = DEPLOY / "systemd"
UNIT = SYSTEMD / "llem-exporter.service"
DROP_IN = SYSTEMD / "llem-exporter.service.d" / "socket.conf"
README = (DEPLOY / "README.md").read_text()

CHANGES_BETWEEN_VERSIONS = 0.2
"""systemd weighs settings a little differently, and knows a few more, from version to version."""


def analyze(*words: str | Path) -> str:
    """What systemd-analyze says; it must find nothing wrong."""
    command = [program("systemd-analyze", "systemd"), "--no-pager", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.fixture(params=["alone", "with its socket"])
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The unit as it is installed, with a program that is there, alone or with the socket and its drop-in."""
    text = UNIT.read_text().replace("ExecStart=/opt/llem/bin/llem-exporter", "ExecStart=/bin/true")
    if request.param == "with its socket":
        shutil.copy(SYSTEMD / "llem-exporter.socket", tmp_path)
        (tmp_path / DROP_IN.parent.name).mkdir()
        shutil.copy(DROP_IN, tmp_path / DROP_IN.parent.name)
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


def test_systemd_verifies_the_units(unit: Path) -> None:
    """No unknown setting, no wrong value, in the unit, its drop-in and its socket."""
    assert analyze("verify", *unit.parent.glob("*.*[te]")) == ""


def test_exposure_is_what_the_readme_says(unit: Path) -> None:
    """`systemd-analyze security` gives the figure of the README, and a lower one with the socket."""
    found = re.search(
        r"Overall exposure level for \S+: ([0-9.]+) ", analyze("security", "--offline=true", unit)
    )
    said = re.findall(r"^\| `llem-exporter\.service`[^|]*\| ([0-9.]+) \|$", README, re.MULTILINE)
    assert len(said) == 2
    figure = said[(unit.parent / "llem-exporter.socket").exists()]
    assert found is not None
    assert float(found[1]) == pytest.approx(float(figure), abs=CHANGES_BETWEEN_VERSIONS)
    assert float(said[1]) < float(said[0]) < 1.5


def test_options_in_the_environment_exist() -> None:
    """Each variable of the environment file and the drop-in is an option of the program's."""
    text = (SYSTEMD / "llem-exporter.env").read_text() + DROP_IN.read_text()
    variables = re.findall(r"LLEM_EXPORTER_(\w+)=", text)
    said = subprocess.run(
        [sys.executable, "-m", "llem_exporter", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = {
        option.upper().replace("-", "_").replace(".", "_") for option in re.findall(r"--([\w.-]+)", said)
    }
    assert len(variables) >= 5
    assert set(variables) <= options


def test_user_and_directories_are_made(tmp_path: Path) -> None:
    """sysusers.d makes the unit's user; tmpfiles.d the job directory, writable by root alone."""
    unit = sandbox.load(UNIT)
    (tmp_path / "etc").mkdir()
    subprocess.run(
        [program("systemd-sysusers", "systemd"), f"--root={tmp_path}", SYSTEMD / "sysusers.conf"],
        check=True,
        capture_output=True,
    )
    (user,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    assert [user.split(":")[0]] == unit["User"] == unit["Group"]
    assert user.endswith(":/:/usr/sbin/nologin")
    folders = re.findall(
        r"^d (\S+) (\d+) root (\S+) -$", (SYSTEMD / "tmpfiles.conf").read_text(), re.MULTILINE
    )
    assert folders == [("/run/llem-jobs", "0755", "root"), ("/etc/llem-exporter", "0750", *unit["Group"])]
    assert "=/run/llem-jobs" in (SYSTEMD / "llem-exporter.env").read_text()


class SandboxedExporter(Exporter):
    """The exporter under the unit's filter of system calls, and as root without capabilities."""

    def _command(self) -> Sequence[str]:
        dropped = ["--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
        python = [sys.executable, "-m", "tests.deploy.sandbox", str(UNIT)]
        return [program("setpriv", "util-linux"), "--no-new-privs", *dropped, *python, *super()._command()]


def test_the_exporter_lives_under_what_the_unit_forbids(
    servers: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML, Zeus, CodeCarbon with its nvidia-smi, jobs and history all work there, and a reload does."""
    monkeypatch.chdir(ROOT)  # for -m tests.deploy.sandbox
    driver = servers.enter_context(FakeDriver(tmp_path, gpus=2))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / driver.gpus[0].uuid).write_text("job_id=1\n")
    args = ["--jobs.dir", str(tmp_path / "jobs"), "--codecarbon.country-iso-code", "DEU"]
    exporter = servers.enter_context(SandboxedExporter(env=driver.env, args=args))
    status = Path(f"/proc/{exporter.pid}/status").read_text()
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    awaited = [
        "llem_gpu_power_watts{",
        "llem_gpu_zeus_energy_joules_total{",
        "llem_gpu_job_info{",
        'llem_codecarbon_energy_joules_total{component="gpu"}',
        "llem_codecarbon_emissions_grams_total",
    ]
    os.kill(exporter.pid, signal.SIGHUP)
    wait_until(lambda: all(name in exporter.metrics() for name in awaited), f"all of {awaited}")
    assert "llem_gpu_power_trace_watts{" in exporter.fetch_text("/history?since=0")
    assert "WARNING" not in exporter.log()
    assert exporter.terminate() == 0


def test_the_sandbox_forbids_what_the_unit_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter of these tests forbids what the unit forbids."""
    monkeypatch.chdir(ROOT)
    attempts = {
        "socket.socket(socket.AF_NETLINK)": "PermissionError",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)": "PermissionError",
        "os.setuid(0)": "PermissionError",
        "os.chown('/tmp', -1, -1)": "PermissionError",
        "os.sched_setaffinity(0, {0})": "PermissionError",
        "os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))": "PermissionError",
        "socket.socket(socket.AF_INET)": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.sandbox", str(UNIT), sys.executable, "-c", _TRY, *attempts],
        capture_output=True,
        text=True,
        check=True,
    )
    assert dict(zip(attempts, done.stdout.splitlines(), strict=True)) == attempts


_TRY = """
import mmap, os, socket, sys
for attempt in sys.argv[1:]:
    try:
        eval(attempt)
    except OSError as error:
        print(type(error).__name__)
    else:
        print()
"""
