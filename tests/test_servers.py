"""The servers of tests/servers.py do what the other tests rely on."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from tests.servers import (
    Alertmanager,
    Exporter,
    Prometheus,
    PrometheusRelease,
    ServerError,
    VictoriaMetrics,
    free_port,
    program,
    scrape_config,
    wait_until,
)

TRACE = Path(__file__).parents[1] / "exporter" / "llem_exporter" / "traces" / "llm_serving.csv"
POWER = """\
# TYPE power gauge
power{gpu="0"} 100.125 1795507546.001
power{gpu="0"} 100.25 1795507546.101
power{gpu="1"} 70 1795507546.101
# EOF
"""


def test_prometheus_scrapes_itself_and_stores_up(tmp_path: Path, servers: ExitStack) -> None:
    """A Prometheus that scrapes itself says up = 1."""
    port = free_port()
    prometheus = Prometheus(tmp_path, [scrape_config("self", f"127.0.0.1:{port}")], port=port)
    servers.enter_context(prometheus)
    (up,) = prometheus.wait_for("up == 1")
    assert up["metric"]["instance"] == prometheus.address


def test_prometheus_takes_a_new_configuration_on_reload(tmp_path: Path, servers: ExitStack) -> None:
    """Targets given by configure() are scraped after reload(), and a broken file is an error."""
    prometheus = servers.enter_context(Prometheus(tmp_path))
    assert prometheus.query("up") == []
    prometheus.configure([scrape_config("self", prometheus)])
    prometheus.reload()
    prometheus.wait_for("up == 1")
    prometheus.configure(config={"no_such_key": 1})
    with pytest.raises(ServerError, match="no_such_key"):
        prometheus.reload()


def test_prometheus_on_blocks_gives_back_each_sample(
    tmp_path: Path, servers: ExitStack, prometheus_release: PrometheusRelease
) -> None:
    """Blocks made of an OpenMetrics text give its values back, each at its own millisecond."""
    prometheus = servers.enter_context(Prometheus.on_blocks(tmp_path, POWER, release=prometheus_release))
    result = prometheus.query("power[10s]", 1795507546.101)
    assert {series["metric"]["gpu"]: series["values"] for series in result} == {
        "0": [[1795507546.001, "100.125"], [1795507546.101, "100.25"]],
        "1": [[1795507546.101, "70"]],
    }
    assert prometheus.value('power{gpu="1"}', 1795507546.2) == 70.0


def test_ranges_are_closed_up_to_prometheus_2_and_left_open_from_3(
    tmp_path: Path, servers: ExitStack, prometheus_release: PrometheusRelease
) -> None:
    """A sample exactly one range old is in it on Prometheus 2 and not on 3: both kinds are tested here."""
    prometheus = servers.enter_context(Prometheus.on_blocks(tmp_path, POWER, release=prometheus_release))
    (series,) = prometheus.query('power{gpu="0"}[100ms]', 1795507546.101)
    oldest = [[1795507546.001, "100.125"]] if prometheus_release.major == 2 else []
    assert series["values"] == [*oldest, [1795507546.101, "100.25"]]


def test_blocks_of_a_broken_text_are_an_error(tmp_path: Path) -> None:
    """promtool's own words come back where it makes no blocks."""
    with pytest.raises(ServerError, match="promtool made no blocks"):
        Prometheus.on_blocks(tmp_path, "power 1 1795507546\n")


def test_victoriametrics_scrapes_and_exports(tmp_path: Path, servers: ExitStack) -> None:
    """A VictoriaMetrics that scrapes itself answers queries and exports raw samples."""
    port = free_port()
    victoria = servers.enter_context(
        VictoriaMetrics(tmp_path, [scrape_config("self", f"127.0.0.1:{port}")], port=port)
    )
    victoria.wait_for("up == 1")
    (series,) = victoria.export('up{job="self"}')
    assert series["values"][-1] == 1
    assert abs(series["timestamps"][-1] / 1000 - time.time()) < 60


def test_alertmanager_is_told_by_prometheus(tmp_path: Path, servers: ExitStack) -> None:
    """An alert of a Prometheus arrives at the Alertmanager named in its configuration."""
    alertmanager_folder, prometheus_folder = tmp_path / "alertmanager", tmp_path / "prometheus"
    alertmanager_folder.mkdir()
    prometheus_folder.mkdir()
    alertmanager = servers.enter_context(Alertmanager(alertmanager_folder))
    assert alertmanager.alerts() == []
    rules = tmp_path / "rules.yml"
    rules.write_text('{"groups": [{"name": "g", "rules": [{"alert": "Always", "expr": "vector(1)"}]}]}')
    config = {
        "global": {"evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]},
    }
    # Its first notification comes before its discovery knows the Alertmanager; the next would be 1 min later.
    args = ["--rules.alert.resend-delay=1s"]
    servers.enter_context(Prometheus(prometheus_folder, config=config, args=args))
    (alert,) = wait_until(alertmanager.alerts, "an alert")
    assert alert["labels"]["alertname"] == "Always"


def test_exporter_says_where_it_listens_and_keeps_its_port(servers: ExitStack) -> None:
    """An exporter on a port of its own choice is found by what it logs, and starts there again."""
    exporter = servers.enter_context(Exporter(args=["--replay", str(TRACE)]))
    url = exporter.url
    wait_until(lambda: "llem_gpu_power_watts{" in exporter.metrics(), "power on /metrics")
    exporter.kill()
    exporter.start()
    assert exporter.url == url
    wait_until(lambda: "llem_gpu_power_watts{" in exporter.metrics(), "power on /metrics")
    assert exporter.terminate() == 0


def test_server_hangs_on_stop_and_goes_on_after_cont(tmp_path: Path, servers: ExitStack) -> None:
    """A stopped server accepts connections and answers nothing until it is continued."""
    prometheus = servers.enter_context(Prometheus(tmp_path))
    prometheus.stop()
    with pytest.raises(urllib3.exceptions.TimeoutError):
        prometheus.fetch("/-/ready", timeout_s=0.3)
    prometheus.cont()
    assert prometheus.fetch("/-/ready").status == 200


def test_killed_server_starts_again_on_its_port_and_data(tmp_path: Path, servers: ExitStack) -> None:
    """After kill() a server's address refuses; start() brings it back with what it had stored."""
    prometheus = servers.enter_context(Prometheus.on_blocks(tmp_path, POWER))
    url = prometheus.url
    prometheus.kill()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        prometheus.fetch("/-/ready")
    prometheus.start()
    assert prometheus.url == url
    assert len(prometheus.query("power", 1795507546.2)) == 2
    assert prometheus.terminate() == 0


def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A server that exits at its start is an error that carries its log."""
    with pytest.raises(ServerError, match="no-such-option"), Prometheus(tmp_path, args=["--no-such-option"]):
        pass


def test_missing_program_names_its_package() -> None:
    """A program that is not installed is an error, never a skip."""
    with pytest.raises(FileNotFoundError, match="apt-get install some-package"):
        program("no-such-program", "some-package")


def test_servers_die_with_their_test_run(tmp_path: Path) -> None:
    """A server is gone soon after the process that started it was killed."""
    script = (
        "import sys, time; from pathlib import Path; from tests.servers import Prometheus\n"
        "with Prometheus(Path(sys.argv[1])) as prometheus:\n"
        "    print(prometheus.pid, flush=True); time.sleep(60)\n"
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
    wait_until(lambda: not _runs(pid), "the server's death", 5.0)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
