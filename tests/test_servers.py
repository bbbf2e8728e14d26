"""The servers in tests/servers behave as the other tests expect."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from tests.servers import Prometheus, PrometheusRelease, ServerError, program, wait_until

POWER = """\
# TYPE power gauge
power{gpu="0"} 100.125 1795507546.001
power{gpu="0"} 100.25 1795507546.101
power{gpu="1"} 70 1795507546.101
# EOF
"""


def test_blocks_return_each_sample(
    tmp_path: Path, servers: ExitStack, prometheus_release: PrometheusRelease
) -> None:
    """Blocks return the samples of their text.

    In Prometheus 2 a range includes its start, in 3 it does not.
    """
    prometheus = servers.enter_context(Prometheus.on_blocks(tmp_path, POWER, release=prometheus_release))

    def values(selector: str) -> dict[str, list[list[object]]]:
        result = prometheus.query(selector, 1795507546.101)
        return {series["metric"]["gpu"]: series["values"] for series in result}

    oldest, newest = [1795507546.001, "100.125"], [1795507546.101, "100.25"]
    assert values("power[10s]") == {"0": [oldest, newest], "1": [[1795507546.101, "70"]]}
    is_closed = prometheus_release.major == 2
    assert values('power{gpu="0"}[100ms]') == {"0": [oldest, newest] if is_closed else [newest]}


def test_a_server_can_be_stopped_continued_killed_and_restarted(tmp_path: Path, servers: ExitStack) -> None:
    """A server hangs between stop() and cont(). After kill(), start() restarts it with its data."""
    prometheus = servers.enter_context(Prometheus.on_blocks(tmp_path, POWER))
    url = prometheus.url
    prometheus.stop()
    with pytest.raises(urllib3.exceptions.TimeoutError):
        prometheus.fetch("/-/ready", timeout_s=0.3)
    prometheus.cont()
    assert prometheus.fetch("/-/ready").status == 200
    prometheus.kill()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        prometheus.fetch("/-/ready")
    prometheus.start()
    assert prometheus.url == url
    assert len(prometheus.query("power", 1795507546.2)) == 2
    assert prometheus.terminate() == 0


def test_a_server_that_cannot_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    """A server that exits at the start raises a ServerError with its log."""
    with pytest.raises(ServerError, match="no-such-option"), Prometheus(tmp_path, args=["--no-such-option"]):
        pass


def test_blocks_of_an_invalid_text_are_an_error(tmp_path: Path) -> None:
    """A text that promtool rejects raises a ServerError."""
    with pytest.raises(ServerError, match="promtool made no blocks"):
        Prometheus.on_blocks(tmp_path, "power 1 1795507546\n")


def test_a_missing_program_names_its_package() -> None:
    """A program that is not installed is an error, not a skip."""
    with pytest.raises(FileNotFoundError, match="apt-get install some-package"):
        program("no-such-program", "some-package")


def test_servers_die_with_their_test_run(tmp_path: Path) -> None:
    """A server dies when the process that started it is killed."""
    script = (
        "import sys, time; from pathlib import Path; from tests.servers import Prometheus\n"
        "with Prometheus(Path(sys.argv[1])) as prometheus:\n"
        "    print(prometheus.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not _is_running(pid), "the server's death")


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
