"""Lists and jobs on the command line: what is answered, what is said, and the exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.llem_integrator.conftest import Done
from tests.llem_integrator.pages import T0, page, scraped, series
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn

BEGIN = T0 // 1000
Run = Callable[..., Done]


def row(job: str, start: int, end: int, tres: str, nodes: str = "n1") -> str:
    """A row of sacct, with times in seconds after T0 as SLURM_TIME_FORMAT=%s prints them."""
    return f"{job}|{BEGIN + start}|{BEGIN + end}|{nodes}|{tres}"


@pytest.fixture
def listed(tmp_path: Path, llem_integrate: Run) -> Callable[..., tuple[Done, dict[str, dict[str, Any]]]]:
    """Answer the jobs of a sacct list from a page; return windows by name."""

    def run(rows: list[str], *parts: list[str]) -> tuple[Done, dict[str, dict[str, Any]]]:
        (tmp_path / "page.om").write_text(page(*parts))
        (tmp_path / "jobs").write_text("\n".join(["JobID|Start|End|NodeList|AllocTRES", *rows, ""]))
        args = ("--source", str(tmp_path / "page.om"), "--windows", str(tmp_path / "jobs"))
        done = llem_integrate(*args, "--timezone", "UTC", "--format", "json")
        return done, {window["name"]: window for window in json.loads(done.stdout)["windows"]}

    return run


def test_bad_rows_are_reported_and_the_others_answered(listed: Callable[..., Any]) -> None:
    """Each bad row is one line on stderr, and the exit code is 3."""
    rows = [
        row("1", 40, 80, "gres/gpu=1"),
        row("2", 50, 50, "gres/gpu=1"),
        "3|x|y",
        row("4", 60, 50, "gres/gpu=1"),
    ]
    done, windows = listed([*rows, row("5", 60, 80, "gres/gpu=1")], scraped(0))
    assert done.code == 3
    assert {name: window["total_j"] for name, window in windows.items()} == pytest.approx(
        {"1": 4000, "5": 2000}
    )
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[2][:7] for line in lines] == ["line 3:", "line 4:", "line 5:"]
    assert all(line.startswith("left out ") for line in lines)
    done, windows = listed([row("2", 50, 50, "gres/gpu=1")], scraped(0))
    assert (done.code, windows, done.stderr.count("\n")) == (3, {}, 1)


def test_names_of_nodes_match_in_both_directions(listed: Callable[..., Any]) -> None:
    """The node's name in sacct and in the source may differ in domain, port and capitals."""
    for nodes, instance in (
        ("node01", "Node01.cluster.local:9955"),
        ("Node01.cluster.local", "node01:9955"),
        ("NODE01", "node01"),
    ):
        rows = [row("1", 40, 80, "gres/gpu=1", nodes)]
        done, windows = listed(rows, scraped(0, instance=instance), scraped(1, instance="node010:9955"))
        assert (done.code, done.stderr) == (0, "")
        assert windows["1"]["per_gpu_j"] == pytest.approx({"GPU-0": 4000})


def test_a_slice_by_any_name_has_no_joules(listed: Callable[..., Any]) -> None:
    """If a GPU is divided into MIG slices in the window, nobody knows the joules of a job on it."""
    mig = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955", "mig_uuid": "MIG-0", "profile": "3g.40gb"}
    divided = series("llem_gpu_mig_info", mig, [(s * 1000, 1) for s in range(0, 121, 5)])
    rows = [row(job, 40, 80, "cpu=6,gres/gpu:a100l.3=1,gres/gpu=1") for job in ("101", "102")]
    done, windows = listed(rows, scraped(0), divided)
    assert done.code == 3
    for window in windows.values():
        assert (window["reasons"], window["total_j"], window["per_gpu_j"]) == (
            ["gpus_unknown"],
            None,
            {"GPU-0": None},
        )
        assert "MIG slices" in window["warnings"][0]["message"]
    before = series("llem_gpu_mig_info", mig, [(0, 1)])
    done, windows = listed(rows[:1], scraped(0), before)
    assert (done.code, windows["101"]["total_j"]) == (0, pytest.approx(4000))


def test_shares_and_untracked_gpus_are_listed(listed: Callable[..., Any]) -> None:
    """Jobs with a share of a GPU, or of a cluster that does not track GPUs, have no joules and a reason."""
    rows = [
        row("1", 40, 80, "cpu=6,gres/shard=2"),
        row("2", 40, 80, "cpu=6,gres/mps=50"),
        row("3", 40, 80, "cpu=6"),
    ]
    done, windows = listed(rows, scraped(0))
    assert (done.code, done.stderr) == (3, "")
    assert {
        name: (window["reasons"], window["total_j"]) for name, window in windows.items()
    } == dict.fromkeys("123", (["gpus_unknown"], None))
    messages = [window["warnings"][0]["message"] for window in windows.values()]
    assert ["gres/shard=2" in messages[0], "gres/mps=50" in messages[1], "sacct shows no" in messages[2]] == [
        True
    ] * 3


def test_fewer_gpus_than_the_job_had(listed: Callable[..., Any]) -> None:
    """The warning says how many GPUs the job had, and how many the source shows."""
    done, windows = listed([row("1", 40, 80, "gres/gpu=8")], *(scraped(gpu) for gpu in range(7)))
    assert (done.code, windows["1"]["reasons"], windows["1"]["total_j"]) == (3, ["no_data"], None)
    message = windows["1"]["warnings"][0]["message"]
    assert message.startswith(
        "the job had 8 GPUs, but the source has only 7 on its hosts, so there is no total"
    )


def test_jobs_of_one_id_and_of_one_gpu(tmp_path: Path, llem_integrate: Run) -> None:
    """Two jobs with one ID are two windows, and a job on a GPU of another has a warning in its window."""

    def job(gpu: int, job_id: str, user: str) -> list[str]:
        labels = {
            "gpu": str(gpu),
            "uuid": f"GPU-{gpu}",
            "instance": "n1:9955",
            "job_id": job_id,
            "user": user,
        }
        return series("llem_gpu_job_info", labels, [(s * 1000, 1.0) for s in range(40, 81, 5)])

    path = tmp_path / "page.om"
    jobs = [job(0, "7", "ada"), job(1, "7", "bob"), job(1, "8", "eve")]
    path.write_text(page(scraped(0), scraped(1, watts=200.0), *jobs))
    done = llem_integrate("--source", str(path), "--job", "7", "--format", "json")
    assert (done.code, done.stderr) == (0, "")
    ada, bob = json.loads(done.stdout)["windows"]
    assert (ada["name"], ada["total_j"], ada["warnings"]) == ("7 (user=ada)", pytest.approx(4000), [])
    assert (bob["name"], bob["total_j"]) == ("7 (user=bob)", pytest.approx(8000))
    assert [(warning["code"], warning["uuid"]) for warning in bob["warnings"]] == [("gpu_shared", "GPU-1")]
    assert "at the same time: 8;" in bob["warnings"][0]["message"]


def test_only_the_hosts_of_a_list_are_waited_for(tmp_path: Path, llem_integrate: Run) -> None:
    """--wait with a list of jobs ignores other hosts, whose samples may come later."""
    listed_host = scraped(0, seconds=range(0, 121, 5), host="n1")
    other_host = scraped(1, seconds=range(0, 61, 5), host="n2")
    history = page(listed_host, other_host).encode()

    def exporter(asked: Asked) -> Reply:
        if asked.path.startswith("/history"):
            return Reply(body=history)
        return Reply(body=b"llem-exporter") if asked.path == "/" else Reply(404)

    (tmp_path / "jobs").write_text(
        "\n".join(["JobID|Start|End|NodeList|AllocTRES", row("1", 20, 60, "gres/gpu=1"), ""])
    )
    with StandIn(exporter) as server:
        list_options = ("--windows", str(tmp_path / "jobs"), "--timezone", "UTC", "--node-label", "host")
        done = llem_integrate("--source", server.url, *list_options, "--wait", "20s", "--format", "csv")
        assert (done.code, len(done.stdout.splitlines())) == (0, 2)
        assert [asked.path for asked in server.asked].count("/") == 3  # opened, to wait once, and to read
