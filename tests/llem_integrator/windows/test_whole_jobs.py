"""Jobs from their file on the node to their joules: exporter, Prometheus and llem-integrate."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Exporter, Prometheus, scrape_config, wait_until

pytestmark = pytest.mark.full


@dataclass(frozen=True)
class Node:
    """A node of two replayed GPUs, as a Prometheus has scraped it.

    On the first ran job 4711, and job 4712 of another user at the same time. On the second ran job 4720,
    4721, and 4720 again.
    """

    exporter: Exporter
    prometheus: Prometheus
    uuids: tuple[str, ...]
    begun_s: float
    ended_s: float

    def integrate(self, *args: str, stdin: str = "") -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, windows and stderr."""
        command = [
            sys.executable,
            "-m",
            "llem_integrator",
            "--source",
            self.prometheus.url,
            "--format",
            "json",
        ]
        done = subprocess.run(
            [*command, *args], input=stdin, capture_output=True, text=True, check=False, timeout=100
        )
        return done.returncode, json.loads(done.stdout)["windows"] if done.stdout else [], done.stderr


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    jobs = tmp_path_factory.mktemp("jobs")
    with ExitStack() as stack:
        exporter = stack.enter_context(Exporter(args=["--replay", "demo", "--jobs.dir", str(jobs)]))
        prometheus = stack.enter_context(
            Prometheus(
                tmp_path_factory.mktemp("prometheus"),
                [
                    scrape_config("llem", exporter),
                    scrape_config("history", exporter, path="/history", params={"scraper": ["p"]}),
                ],
            )
        )
        info = prometheus.wait_for("llem_gpu_power_trace_watts")
        first, second = sorted(one["metric"]["uuid"] for one in info)
        prometheus.wait_for("count_over_time(llem_gpu_power_watts[1m]) >= 3")
        begun_s = time.time()
        (jobs / f"{first}.4711").write_text("job_id=4711\nuser=ada\n")
        (jobs / f"{first}.eve").write_text("job_id=4712\nuser=eve\n")
        on_second = jobs / second
        for job, scrapes in (("4720", 5), ("4721", 4), ("4720", 10)):
            aside = jobs / ".aside"
            aside.write_text(f"job_id={job}\n")
            aside.rename(on_second)
            seen = f'count_over_time(llem_gpu_job_info{{job_id="{job}"}}[5m]) >= {scrapes}'
            prometheus.wait_for(seen)
            (jobs / f"{first}.eve").unlink(missing_ok=True)
        on_second.unlink()
        (jobs / f"{first}.4711").unlink()
        ended_s = time.time()
        gone = "count(count_over_time(llem_gpu_job_info[2s])) or vector(0)"
        wait_until(lambda: prometheus.value(gone) == 0, "the job's end in Prometheus")
        yield Node(exporter, prometheus, (first, second), begun_s, ended_s)


def test_a_job_has_its_own_gpus_and_times(node: Node) -> None:
    """--job measures the GPUs of the job, from the first scrape with the job to the last."""
    code, (window,), errors = node.integrate("--job", "4711", "--wait", "20s")
    assert (code, errors) == (0, "")
    assert list(window["per_gpu_j"]) == [node.uuids[0]]
    assert (window["name"], window["valid"]) == ("4711", True)
    assert node.begun_s - 0.1 <= window["start"] < window["end"] <= node.ended_s + 2
    assert window["duration_sec"] >= 11
    assert [(warning["code"], warning["uuid"]) for warning in window["warnings"]] == [
        ("gpu_shared", node.uuids[0])
    ]
    assert "at the same time: 4712;" in window["warnings"][0]["message"]


def test_a_job_that_was_requeued_has_not_the_joules_of_another(node: Node) -> None:
    """The job has two windows. The window of the other job is between them."""
    code, (before, after), errors = node.integrate("--job", "4720", "--wait", "20s")
    assert (code, errors) == (0, "")
    code, (between,), errors = node.integrate("--job", "4721", "--wait", "20s")
    assert (code, errors) == (0, "")
    assert before["end"] < between["start"] < between["end"] < after["start"]
    for window in (before, between, after):
        assert list(window["per_gpu_j"]) == [node.uuids[1]]
        assert window["valid"]


def test_a_job_that_nobody_saw(node: Node) -> None:
    """An unknown job gives an error of one line and no joules."""
    code, windows, errors = node.integrate("--job", "4713")
    assert (code, windows) == (1, [])
    assert errors == (
        f"error: {node.prometheus.url} has no job '4713' in llem_gpu_job_info in the last 400 days; "
        "check the ID (it is the label job_id)\n"
    )


def test_an_exporter_does_not_know_past_jobs(node: Node) -> None:
    """--job with an exporter as the source is a usage error that names what is needed."""
    code, windows, errors = node.integrate("--job", "4711", "--source", node.exporter.url)
    assert (code, windows, errors.count("\n")) == (2, [], 1)
    assert f"--job 4711 needs a Prometheus that scrapes /metrics of {node.exporter.url}" in errors


def stamp(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def sacct(node: Node, gpus: dict[str, int]) -> str:
    lines = [
        f"{job}|{stamp(node.begun_s + 1)}|{stamp(node.ended_s)}|127.0.0.1|billing=1,gres/gpu={count}"
        for job, count in gpus.items()
    ]
    return "\n".join(["JobID|Start|End|NodeList|AllocTRES", *lines, ""])


def test_sacct_says_when_and_where(node: Node) -> None:
    """A job with all GPUs of its node is measured on its node."""
    code, (window,), errors = node.integrate(
        "--windows", "-", "--timezone", "UTC", "--wait", "20s", stdin=sacct(node, {"7": 2})
    )
    assert (code, errors, window["name"]) == (0, "", "7")
    assert sorted(window["per_gpu_j"]) == list(node.uuids)


def test_a_bad_row_costs_no_other(node: Node) -> None:
    """The job without a length is reported, the other is measured, and the exit code is 3."""
    begun = stamp(node.begun_s + 1)
    bad = f"8|{begun}|{begun}|127.0.0.1|gres/gpu=2\n"
    code, (window,), errors = node.integrate(
        "--windows", "-", "--timezone", "UTC", stdin=f"\ufeff{sacct(node, {'7': 2})}{bad}"
    )
    assert (code, window["name"], window["valid"]) == (3, "7", True)
    assert errors.startswith("left out standard input: line 3: job 8 lasted less than one second: ")
    assert errors.count("\n") == 1


def test_the_wait_ends_with_the_samples(node: Node) -> None:
    """With --wait, a window that ends now is complete after the next scrapes."""
    code, (window,), errors = node.integrate("--window", "now-5s,now", "--wait", "30s", "--backend", "nvml")
    assert (code, errors, window["valid"]) == (0, "", True)
    assert all(gpu["coverage"] == 1 for gpu in window["gpus"])


def test_a_file_is_not_waited_for(node: Node, tmp_path: Path) -> None:
    """--wait with a file is a usage error of one line."""
    code, _, errors = node.integrate("--window", "1,2", "--wait", "1s", "--source", str(tmp_path / "x"))
    assert (code, errors.count("\n")) == (2, 1)
    assert "--wait" in errors


def test_a_share_of_a_node_is_nobodys_guess(node: Node) -> None:
    """A job with fewer GPUs than its node has no joules, because sacct does not name its GPUs."""
    code, windows, errors = node.integrate(
        "--windows", "-", "--timezone", "UTC", stdin=sacct(node, {"7": 2, "8": 1, "9": 3})
    )
    assert (code, errors) == (3, "")
    assert [(one["name"], one["valid"], one["reasons"]) for one in windows] == [
        ("7", True, []),
        ("8", False, ["gpus_unknown"]),
        ("9", False, ["no_data"]),
    ]
    assert windows[1]["total_j"] is None
    assert all(gpu["joules"] is None for gpu in windows[1]["gpus"])
