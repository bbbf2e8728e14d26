"""llem-integrate --dask as its users run it: what it says, how it ends, and that secrets stay secret."""

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from tests.llem_integrator.conftest import Done
from tests.llem_integrator.dask.processes import Cluster, cluster
from tests.llem_integrator.pages import T0, page, scraped, trace
from tests.llem_integrator.remote_read.test_client import READ
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, between
from tests.servers import Prometheus, free_port, installed_prometheus, wait_until

BEGIN = T0 // 1000
SECRET = "hunter2-xyzzy"  # noqa: S105 (of no server)
BOUND_S = 120.0


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    text = page(trace(0, [(ms, 100 + ms / 1600) for ms in range(0, 120_000, 100)]), scraped(0))
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus.on_blocks(folder, text, release=installed_prometheus()) as server:
        yield server.url


def command(source: str, dask: str, *more: str) -> list[str]:
    asked = ["--source", source, "--dask", dask, "--window", f"{BEGIN + 3},{BEGIN + 99.7}"]
    return [sys.executable, "-m", "llem_integrator", *asked, "--format", "json", *more]


def run(source: str, dask: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, dask, *more), capture_output=True, text=True, timeout=BOUND_S, check=False
    )


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The line of an error, which is all that was printed."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.full
def test_it_prints_what_it_prints_alone(workers: Cluster, prometheus: str) -> None:
    """The output is the same with and without --dask. Dask prints nothing."""
    found = run(prometheus, workers.address, "--backend", "nvml")
    asked = ["--source", prometheus, "--window", f"{BEGIN + 3},{BEGIN + 99.7}", "--backend", "nvml"]
    alone = subprocess.run(
        [sys.executable, "-m", "llem_integrator", *asked, "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (found.returncode, found.stderr, found.stdout) == (0, "", alone.stdout)
    assert json.loads(found.stdout)["windows"][0]["gpus"][0]["method"] == "trapezoid"


@pytest.mark.full
def test_no_scheduler_is_one_line(prometheus: str) -> None:
    """If nothing listens on the address, there is an error within seconds."""
    line = one_line(run(prometheus, f"tcp://127.0.0.1:{free_port()}"), 1)
    assert "no Dask scheduler answers at tcp://127.0.0.1:" in line


@pytest.mark.full
def test_another_server_is_no_scheduler(prometheus: str) -> None:
    """A server that does not speak Dask's protocol is an error after a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        line = one_line(run(prometheus, f"127.0.0.1:{mute.getsockname()[1]}"), 1)
    assert "no Dask scheduler answers at 127.0.0.1:" in line


def test_a_wrong_address_is_usage(
    tmp_path: Path, llem_integrate: Callable[..., Done], subtests: pytest.Subtests
) -> None:
    """An invalid scheduler address is a usage error before any connection."""
    text = tmp_path / "page.om"
    text.write_text(page(scraped(0)))
    asked = ["--source", str(text), "--window", f"{BEGIN + 3},{BEGIN + 99.7}"]
    for address in ("", "8786", "http://127.0.0.1:8786", "tcp://", "tcp://me@host:8786"):
        with subtests.test(address=address):
            done = llem_integrate(*asked, "--dask", address)
            assert (done.code, done.stdout) == (2, "")
            (line,) = done.stderr.splitlines()
            assert "not the address of a Dask scheduler" in line


@pytest.mark.full
def test_what_only_one_can_read_is_refused(workers: Cluster, tmp_path: Path) -> None:
    """--dask rejects standard input, an exporter and the demo."""
    with StandIn(lambda _: Reply(body=b"llem-exporter")) as exporter:
        assert "is not" in one_line(run(exporter.url, workers.address), 2)
    text = tmp_path / "page.om"
    text.write_text(page(scraped(0)))
    with text.open() as given:
        done = subprocess.run(
            command("-", workers.address), stdin=given, capture_output=True, text=True, check=False
        )
    assert "standard input is not" in one_line(done, 2)
    demo = [sys.executable, "-m", "llem_integrator", "--demo", "--dask", workers.address]
    assert "omit --dask" in one_line(subprocess.run(demo, capture_output=True, text=True, check=False), 2)


@pytest.mark.full
def test_secrets_travel_and_show_nowhere(workers: Cluster, prometheus: str, tmp_path: Path) -> None:
    """Workers send the configured header to the store. No log, error or result contains it."""
    token = tmp_path / "token"
    token.write_text(SECRET)
    broken = threading.Event()
    wanted = f"Bearer {SECRET}"

    def guard(asked: Asked) -> Reply | None:
        if asked.headers.get("authorization") != wanted:
            return Reply(401, b"who are you")
        return Reply(400, b"broken") if broken.is_set() and asked.path.startswith("/api/v1/read") else None

    with between(prometheus, before=guard) as store:
        url = store.url.replace("http://", f"http://me:{SECRET}@")
        more = ["--http.bearer-token-file", str(token), "--backend", "nvml"]
        found = run(url, workers.address, *more)
        assert found.returncode == 0, found.stderr
        names = {asked.headers.get("authorization") for asked in store.asked}
        assert names == {wanted}
    with between(prometheus, before=guard) as store:
        url = store.url.replace("http://", f"http://me:{SECRET}@")
        (tmp_path / "wrong").write_text(f"{SECRET}-too")
        wrong = run(url, workers.address, "--http.bearer-token-file", str(tmp_path / "wrong"))
        assert wrong.returncode == 1
    everything = found.stdout + found.stderr + wrong.stdout + wrong.stderr + workers.log()
    assert SECRET not in everything


@pytest.mark.full
def test_an_error_of_the_store_is_told_as_it_is(workers: Cluster, prometheus: str) -> None:
    """A store error on a worker is printed as one line. No log contains secrets."""

    def refuse(asked: Asked) -> Reply | None:
        by_worker = asked.path.startswith("/api/v1/read")
        return Reply(418, b"I keep no samples") if by_worker else None

    with between(prometheus, before=refuse) as store:
        url = store.url.replace("http://", f"http://me:{SECRET}@")
        line = one_line(run(url, workers.address), 1)
    assert line.endswith("/api/v1/read answered 418: I keep no samples")
    assert "Compute Failed" in workers.log()
    assert SECRET not in line + workers.log()


@pytest.mark.full
def test_warnings_of_the_store_reach_the_user(workers: Cluster, prometheus: str) -> None:
    """Warnings that the store sends to a worker are in the result."""

    def warned(asked: Asked, reply: Reply) -> Reply:
        words = asked.path.encode() + asked.body
        if reply.status != 200 or b"power_trace" not in words:
            return reply
        body = gzip.decompress(reply.body) if reply.body.startswith(b"\x1f\x8b") else reply.body
        said = json.loads(body) | {"warnings": ["a store is down"]}
        headers = {name: value for name, value in reply.headers.items() if "encoding" not in name.lower()}
        return replace(reply, body=json.dumps(said).encode(), headers=headers)

    def off(asked: Asked) -> Reply | None:
        return Reply(404) if asked.path == READ else None  # only JSON has warnings

    with between(prometheus, warned, off) as store:
        found = run(store.url, workers.address, "--backend", "nvml")
    assert found.returncode == 0, found.stderr
    (window,) = json.loads(found.stdout)["windows"]
    assert ("source_warning", "a store is down") in [
        (one["code"], one["message"]) for one in window["warnings"]
    ]


@pytest.mark.full
def test_a_scheduler_that_dies_is_one_line(prometheus: str) -> None:
    """If the scheduler dies during the run, there is one line, without messages of Dask."""
    with cluster(1) as running, holding(prometheus) as (store, asked):
        child = subprocess.Popen(
            command(store.url, running.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert asked.wait(BOUND_S)
            running.scheduler.kill()
            out, err = child.communicate(timeout=BOUND_S)
        finally:
            child.kill()
    line = one_line(subprocess.CompletedProcess([], child.returncode, out, err), 1)
    assert line == f"error: the Dask scheduler at {running.address} went away"


@contextmanager
def holding(upstream: str) -> Iterator[tuple[StandIn, threading.Event]]:
    """A store that lets workers wait for their samples until the end, and when one has asked."""
    asked, released = threading.Event(), threading.Event()

    def hold(one: Asked) -> Reply | None:
        if one.path.startswith("/api/v1/read"):
            asked.set()
            released.wait()
        return None

    with between(upstream, before=hold) as store:
        try:
            yield store, asked
        finally:
            released.set()


@pytest.mark.full
def test_ctrl_c_takes_the_work_back(prometheus: str) -> None:
    """SIGINT while workers wait for the store gives exit code 130 and leaves no task at the scheduler."""
    with cluster(1) as running, holding(prometheus) as (store, asked):
        child = subprocess.Popen(
            command(store.url, running.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert asked.wait(BOUND_S)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=BOUND_S)
        finally:
            child.kill()
        assert (child.returncode, out, err.split()) == (130, "", ["interrupted"])
        wait_until(lambda: tasks_of(running) == [], "a scheduler without tasks")


def tasks_of(running: Cluster) -> Sequence[str]:
    """What the scheduler still has to do or to keep."""

    def keys(dask_scheduler: Any) -> list[str]:
        return [str(key) for key in dask_scheduler.tasks]

    with Client(running.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        found: list[str] = client.run_on_scheduler(keys)
        return found
