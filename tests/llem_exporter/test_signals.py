"""SIGTERM, SIGINT and SIGHUP, at any moment."""

import http.client
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from tests.bench.bench_exporter import PrefilledExporter
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.web.socket_rig import connect, get
from tests.servers import Exporter, wait_until
from tests.servers.process import STOP_SECONDS


@pytest.fixture
def full(servers: ExitStack, tmp_path: Path) -> Exporter:
    """An exporter whose /history takes a while."""
    driver = servers.enter_context(FakeDriver(tmp_path, gpus=8))
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    exporter = servers.enter_context(PrefilledExporter(env=driver.env, args=args))
    wait_until(lambda: exporter.fetch("/-/ready").status == 200, "ready")
    return exporter


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_although_connections_are_open(start: StartExporter, number: signal.Signals) -> None:
    """SIGTERM gives exit status 0 and no log line."""
    exporter = start("--replay", "demo")
    with connect(exporter), connect(exporter) as kept:
        kept.sendall(get("/metrics"))
        assert kept.recv(12) == b"HTTP/1.1 200"
        os.kill(exporter.pid, number)
        assert exporter.process.wait(STOP_SECONDS) == 0
    assert not {"ERROR", "WARNING", "Traceback"} & set(exporter.log().replace(":", " ").split())


def test_a_scrape_in_progress_is_finished_or_cut(full: Exporter) -> None:
    """At SIGTERM, a response is sent whole, or the client can detect that it is incomplete.

    The process ends even if a client does not read.
    """
    pages, failures = list[bytes](), list[Exception]()
    begun = threading.Barrier(5)

    def pull() -> None:
        client = http.client.HTTPConnection("127.0.0.1", full.port, timeout=60)
        client.request("GET", "/history?since=0")
        answer = client.getresponse()
        begun.wait(60)
        try:
            pages.append(answer.read())
        except (http.client.HTTPException, ConnectionError) as exc:
            failures.append(exc)
        client.close()

    threads = [threading.Thread(target=pull) for _ in range(4)]
    with connect(full, 4096) as slow:
        slow.sendall(get("/history?since=0"))
        for thread in threads:
            thread.start()
        begun.wait(60)
        assert full.terminate() == 0
        for thread in threads:
            thread.join(60)
    assert len(pages) + len(failures) == 4
    assert all(b"llem_sampler_interval_seconds" in page for page in pages), "an answer looks whole and is not"
    assert not {"ERROR", "Traceback"} & set(full.log().replace(":", " ").split())


def test_sighup_never_ends_it(servers: ExitStack) -> None:
    """SIGHUP does not end the exporter, at its start or during scrapes. All scrapes are served."""
    exporter = Exporter(args=("--replay", "demo"))
    hung_up = threading.Event()

    def hang_up() -> None:
        while not hung_up.wait(0.02):
            if b"llem_exporter" in Path(f"/proc/{exporter.pid}/cmdline").read_bytes():
                break
        wait_until(lambda: ignores_sighup(exporter.pid), "a program that ignores SIGHUP")
        while not hung_up.wait(0.02):
            os.kill(exporter.pid, signal.SIGHUP)

    sender = threading.Timer(0.05, hang_up)
    sender.start()
    try:
        servers.enter_context(exporter)
        with urllib3.HTTPConnectionPool("127.0.0.1", exporter.port, maxsize=1, retries=False) as pool:
            statuses = {pool.request("GET", "/metrics").status for _ in range(50)}
            assert pool.num_connections == 1
    finally:
        hung_up.set()
        sender.join(60)
    assert statuses == {200}
    assert exporter.process.poll() is None


def ignores_sighup(pid: int) -> bool:
    """Whether SIGHUP is ignored or handled. Source: proc(5), SigIgn and SigCgt of status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn", "SigCgt"))]
    return any(mask & 1 << (signal.SIGHUP - 1) for mask in masks)
