"""Slurm's prolog and epilog, run as slurmd runs them, on a fake node with a real exporter and Prometheus."""

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import FakeDriver
from tests.servers import Exporter, Prometheus, PrometheusRelease, scrape_config, wait_until

pytestmark = pytest.mark.full

SLURM = Path(__file__).parents[2] / "exporter" / "deploy" / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sh"))
INFORMATION = """Model: \t\t NVIDIA H100
IRQ:   \t\t 16
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.5e.00.01
Device Minor: \t {minor}
GPU Excluded:\t No
"""


@dataclass(frozen=True)
class Node:
    """A node's folders, and how its slurmd calls the scripts."""

    root: Path
    settings: dict[str, str]

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    def call(self, script: str, job: str, gpus: str | None, **more: str) -> str:
        """Run a script for a job; what it logged. It must succeed, whatever happens: else the node drains."""
        gpu_env = {} if gpus is None else {"SLURM_JOB_GPUS": gpus}
        job_env = {
            "SLURM_JOB_ID": job,
            "SLURM_JOB_USER": "ada",
            "SLURM_JOB_ACCOUNT": "physics",
            "SLURM_JOB_PARTITION": "gpu",
            "SLURMD_NODENAME": "node1",
            **gpu_env,
        }
        done = subprocess.run(
            [SLURM / script],
            env={"PATH": os.environ["PATH"], **self.settings, **job_env, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "")
        return done.stderr

    def job_files(self) -> list[str]:
        return sorted(path.name for path in self.jobs.iterdir())

    def result(self, job: str, suffix: str = "json") -> str:
        """What the epilog left behind, as soon as it is there."""
        found = wait_until(lambda: sorted(self.spool.glob(f"{job}.node1.*")), f"a result of job {job}")
        texts = {path.suffix: path.read_text() for path in found}
        assert list(texts) == [f".{suffix}"], texts
        return texts[f".{suffix}"]


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    """Three GPUs whose minor numbers are not their indices, as after a GPU fell off the bus."""
    fake = FakeDriver(tmp_path, gpus=3)
    for gpu, minor in zip(fake.gpus, (2, 0, 1), strict=True):
        gpu.minor_number = minor
    return fake


@pytest.fixture
def node(tmp_path: Path, driver: FakeDriver) -> Node:
    for gpu in driver.gpus:
        folder = tmp_path / "proc" / f"0000:{gpu.pci_bus:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(INFORMATION.format(uuid=gpu.uuid, minor=gpu.minor_number))
    settings = {
        "LLEM_JOBS_DIR": str(tmp_path / "jobs"),
        "LLEM_PROC_GPUS": str(tmp_path / "proc"),
        "LLEM_SPOOL_DIR": str(tmp_path / "spool"),
        "LLEM_INTEGRATE": str(Path(sys.executable).with_name("llem-integrate")),
        "LLEM_RUN_AS": getpass.getuser(),
        "LLEM_PATIENCE_S": "1",
        "LLEM_SETTLE_S": "5",
    }
    return Node(tmp_path, settings)


def with_minor(driver: FakeDriver, minor: int) -> int:
    """The index of the GPU of a minor number."""
    return next(gpu.index for gpu in driver.gpus if gpu.minor_number == minor)


def series(prometheus: Prometheus, job: str) -> list[dict[str, str]]:
    found: Sequence[Any] = prometheus.query(f'llem_gpu_job_info{{job_id="{job}"}}')
    return [entry["metric"] for entry in found]


JOB_SECONDS = 4


def test_two_jobs_from_prolog_to_joules(
    node: Node, driver: FakeDriver, servers: ExitStack, prometheus_release: PrometheusRelease
) -> None:
    """Both are in Prometheus while they run and gone after it; one's joules are asked of Prometheus, the
    other's of the exporter, and their bounds hold the exact ones of each GPU."""
    servers.enter_context(driver)
    exporter = servers.enter_context(
        Exporter(env=driver.env, args=["--no-collector.codecarbon", "--jobs.dir", str(node.jobs)])
    )
    jobs = [
        scrape_config("llem", exporter),
        scrape_config("llem-history", exporter, path="/history", params={"scraper": ["prom-a"]}),
    ]
    (node.root / "prometheus").mkdir()
    prometheus = servers.enter_context(Prometheus(node.root / "prometheus", jobs, release=prometheus_release))
    prometheus.wait_for("llem_gpu_zeus_energy_trace_joules_total")
    start_s = int(time.time()) + 1
    sources = {"4711": prometheus.url, "4712": exporter.url}
    uuids = sorted(driver.gpus[with_minor(driver, minor)].uuid for minor in (0, 2))
    for job in sources:
        assert node.call("prolog.sh", job, "0,2") == ""
    for job in sources:
        wait_until(lambda job=job: len(series(prometheus, job)) == 2, "the job in Prometheus")  # type: ignore[misc]
        assert sorted(labels["uuid"] for labels in series(prometheus, job)) == uuids
        for labels in series(prometheus, job):
            assert [labels[name] for name in ("user", "account", "partition")] == ["ada", "physics", "gpu"]
    time.sleep(max(0.0, start_s + JOB_SECONDS - time.time()))
    for job, url in sources.items():
        assert node.call("epilog.sh", job, "0,2", SLURM_JOB_START_TIME=str(start_s), LLEM_SOURCE=url) == ""
    assert node.job_files() == []
    by_uuid = {gpu.uuid: gpu.index for gpu in driver.gpus}
    for job in sources:
        wait_until(lambda job=job: not series(prometheus, job), "the job gone from Prometheus")  # type: ignore[misc]
        (window,) = json.loads(node.result(job))["windows"]
        assert (window["start"], window["backend"], window["valid"]) == (start_s, "zeus", True)
        assert sorted(window["per_gpu_j"]) == uuids
        for gpu in window["gpus"]:
            exact = driver.exact_joules(by_uuid[gpu["uuid"]], window["start"], window["end"])
            assert gpu["joules_low"] <= exact <= gpu["joules_high"]
            assert gpu["joules"] == pytest.approx(exact, rel=0.02)


def test_jobs_that_share_a_gpu_do_not_touch_each_other(node: Node, driver: FakeDriver) -> None:
    """One file for each job and GPU; the epilog of one job leaves the other's."""
    before_s = int(time.time())
    for job in ("1", "11"):
        assert node.call("prolog.sh", job, "0-1") == ""
    uuids = sorted(driver.gpus[with_minor(driver, minor)].uuid for minor in (0, 1))
    assert node.job_files() == [f"{uuid}.{job}" for uuid in uuids for job in ("1", "11")]
    lines = (node.jobs / f"{uuids[0]}.11").read_text().splitlines()
    assert lines[:-1] == ["job_id=11", "user=ada", "account=physics", "partition=gpu"]
    assert before_s <= int(lines[-1].removeprefix("start=")) <= time.time()
    node.call("epilog.sh", "1", "0-1", LLEM_SETTLE_S="0", LLEM_SOURCE="http://127.0.0.1:9")
    assert node.job_files() == [f"{uuid}.11" for uuid in uuids]
    assert "llem-integrate exited with 1: " in node.result("1", "error")


@pytest.mark.parametrize(
    ("job", "gpus", "expected"),
    [
        ("7", None, ""),
        ("7", "", ""),
        ("7", "9", "has no GPU with minor number 9"),
        ("7", "0,$(touch x),../1", "which is not a GPU number"),
        ("../7", "0", "SLURM_JOB_ID is not a number"),
        ("7\njob_id=8", "0", "SLURM_JOB_ID is not a number"),
    ],
)
def test_prolog_says_what_it_cannot_do(node: Node, job: str, gpus: str | None, expected: str) -> None:
    """A job without GPUs is no error; what is no number is logged, and writes nothing elsewhere."""
    said = node.call("prolog.sh", job, gpus)
    assert expected in said
    assert bool(said) == bool(expected)
    written = [path for path in node.root.rglob("*") if path.parent.name == "jobs" or path.name == "x"]
    assert len(written) == (1 if gpus and gpus.startswith("0,") else 0)


def test_prolog_succeeds_where_nothing_can_be_written(node: Node) -> None:
    """A directory that is a file, and a driver without files, are words in the log."""
    node.jobs.write_text("")
    assert "cannot create" in node.call("prolog.sh", "7", "0")
    node.jobs.unlink()
    missing = {"LLEM_PROC_GPUS": str(node.root / "nothing")}
    assert "has no GPU with minor number 0" in node.call("prolog.sh", "7", "0", **missing)


def test_prolog_is_bounded_where_the_driver_hangs(node: Node) -> None:
    """A file of the driver that never answers does not hold the job for ever."""
    information = next(node.root.glob("proc/*/information"))
    information.unlink()
    os.mkfifo(information)
    assert "has no GPU" in node.call("prolog.sh", "7", "0,1,2")


def test_epilog_does_not_hold_the_node(node: Node) -> None:
    """It returns before the joules are there, with the job's files gone; a store that hangs is given up."""
    assert node.call("prolog.sh", "8", "0") == ""
    hangs = node.root / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 300\n")
    hangs.chmod(0o755)
    settings = {"LLEM_INTEGRATE": str(hangs), "LLEM_SETTLE_S": "1", "LLEM_TIMEOUT_S": "3"}
    assert node.call("epilog.sh", "8", "0", **settings) == ""
    assert list(node.spool.glob("8.node1.error")) == []
    assert node.job_files() == []
    assert "took longer than 3 s" in node.result("8", "error")
    assert sorted(path.name for path in node.spool.iterdir()) == ["8.node1.error"]


def test_a_password_in_the_source_is_on_no_command_line(node: Node) -> None:
    """Everyone on a node can read those of all processes; the environment is its own user's alone."""
    assert node.call("prolog.sh", "8", "0") == ""
    told = node.root / "told"
    integrate = node.root / "integrate"
    integrate.write_text(f'#!/bin/sh\necho "$*" "$LLEM_INTEGRATE_SOURCE" >{told}\nps -eo args >{told}.all\n')
    integrate.chmod(0o755)
    settings = {
        "LLEM_INTEGRATE": str(integrate),
        "LLEM_SETTLE_S": "0",
        "LLEM_SOURCE": "http://ann:s3cr3t-of-ann@p:9090",
    }
    assert node.call("epilog.sh", "8", "0", **settings) == ""
    node.result("8")
    arguments, _, source = told.read_text().strip().rpartition(" ")
    assert source == settings["LLEM_SOURCE"]
    assert "--window" in arguments
    assert "s3cr3t-of-ann" not in arguments + Path(f"{told}.all").read_text()


def test_epilog_outlives_its_process_group(node: Node) -> None:
    """slurmd ends what an epilog leaves running in its group; the integration is not in it."""
    assert node.call("prolog.sh", "9", "0") == ""
    settings = {"LLEM_SETTLE_S": "1", "LLEM_SOURCE": "http://127.0.0.1:9"}
    env = {"PATH": os.environ["PATH"], **node.settings, **settings}
    epilog = subprocess.Popen(
        [SLURM / "epilog.sh"],
        env={**env, "SLURM_JOB_ID": "9", "SLURMD_NODENAME": "node1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    _, said = epilog.communicate(timeout=60)
    with pytest.raises(ProcessLookupError):
        os.killpg(epilog.pid, signal.SIGKILL)
    assert said == b""
    assert "exited with 1" in node.result("9", "error")


def test_epilog_of_a_job_without_gpus_does_nothing(node: Node) -> None:
    """No files, no window, no words; and a missing start is said."""
    assert node.call("epilog.sh", "10", None) == ""
    node.jobs.mkdir()
    (node.jobs / "GPU-1.10").write_text("job_id=10\n")
    assert "its start is neither in" in node.call("epilog.sh", "10", "0")
    assert node.job_files() == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    """No word from shellcheck, and the scripts can be run as they are."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run(
        [shellcheck, "--enable=all", "--exclude=SC2250,SC2249,SC2312,SC2310", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "")
    assert os.access(script, os.X_OK)
