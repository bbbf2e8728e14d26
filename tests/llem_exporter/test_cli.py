"""The command: options, environment, and one-line errors."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from llem_core import __version__
from llem_exporter.cli import main
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import scrape
from tests.servers import wait_until


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llem_exporter", *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(*args: str, **env: str) -> str:
    """Return the only line of an exporter that does not start."""
    done = run("--web.listen-address", "127.0.0.1:0", *args, **env)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_help_names_every_option_and_loads_nothing_heavy() -> None:
    """--help imports click, and no other third-party package."""
    command = [sys.executable, "-X", "importtime", "-m", "llem_exporter", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {
        "aiohttp",
        "bcrypt",
        "yaml",
        "numpy",
        "prometheus_client",
        "pynvml",
        "zeus",
        "codecarbon",
    }
    text = done.stdout
    assert 'default: ""' not in text
    for option in (
        "--web.listen-address",
        "--web.systemd-socket",
        "--web.config.file",
        "--log.format",
        "--sample-interval",
        "--gpus",
        "--collector.zeus / --no-collector.zeus",
        "--history.retention",
        "--replay",
        "--log.level",
    ):
        assert option in text


def test_version() -> None:
    """--version prints the package's version."""
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_without_a_gpu_it_says_why_and_what_to_do() -> None:
    """The error contains NVML's reason and suggests --replay."""
    line = refused(FAKE_NVML_STATE="/none", LD_LIBRARY_PATH="")
    assert "NVML_ERROR_LIBRARY_NOT_FOUND" in line or "NVML_ERROR_DRIVER_NOT_LOADED" in line
    assert "--replay demo" in line


def test_a_driver_library_that_cannot_be_loaded_is_an_error_with_the_loaders_words(tmp_path: Path) -> None:
    """A broken library is not reported as missing: the error has the message of the dynamic loader."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    line = refused(LD_LIBRARY_PATH=str(tmp_path))
    assert "NVML_ERROR_LIBRARY_NOT_FOUND" in line
    assert "libnvidia-ml.so.1: file too short" in line


def test_a_driver_without_gpus_is_an_error(driver: FakeDriver) -> None:
    """The error suggests --replay."""
    driver.gpu_count = 0
    line = refused(**driver.env)
    assert line == "Error: NVML finds no GPU; without a GPU, replay a trace: --replay demo"


def test_a_port_in_use_is_named(start: StartExporter) -> None:
    """The error contains the address and the reason of the operating system."""
    exporter = start("--replay", "demo")
    done = run("--replay", "demo", "--web.listen-address", exporter.address)
    assert done.returncode == 1
    assert done.stderr == f"Error: cannot listen on {exporter.address}: Address already in use\n"


def test_a_malformed_trace_is_one_line(tmp_path: Path) -> None:
    """The error contains the file, the line and the value."""
    path = tmp_path / "trace.csv"
    path.write_text("seconds,gpu,watts\n0,0,x\n")
    assert (
        refused("--replay", str(path))
        == f"Error: {path}, line 2: watts must be a number from 0 to 1e+12, not 'x'"
    )


def test_a_gpu_that_is_not_there_is_named() -> None:
    """The error lists the existing GPUs."""
    line = refused("--replay", "demo", "--gpus", "0,7")
    assert line.startswith("Error: GPU '7' not found; the GPUs are 0 (GPU-")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--gpus", "none", "--replay", "demo"], "--gpus none cannot be combined with --replay"),
        (
            ["--gpus", "none", "--no-collector.codecarbon"],
            "--gpus none needs CodeCarbon; remove --no-collector.codecarbon",
        ),
        (["--gpus", "none,0"], "not 'none,0'"),
        (["--gpus", ","], "--gpus ',' contains no GPU"),
    ],
)
def test_options_that_leave_nothing_to_read_are_refused(args: list[str], said: str) -> None:
    """If the options leave nothing to read, the error names them."""
    assert said in refused(*args)


def test_none_needs_codecarbon(tmp_path: Path) -> None:
    """If CodeCarbon is not installed, the error contains the pip command."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'codecarbon' else find(name, *rest)\n"
    )
    assert "pip install 'codecarbon>=3.3'" in refused("--gpus", "none", PYTHONPATH=str(tmp_path))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("a..b:9955", "label"),
        ("no-such-host.invalid:9955", "Name or service not known|Temporary failure in name resolution"),
        ("[::::]:0", "Name or service not known"),
    ],
)
def test_an_invalid_address_is_one_line(address: str, said: str) -> None:
    """The error contains the message of the resolver."""
    done = run("--replay", "demo", "--web.listen-address", address)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.startswith("Error: cannot listen on ")) == (1, True)
    assert re.search(said, line)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--sample-interval", "10ms"),
        ("--sample-interval", "11s"),
        ("--sample-interval", "100"),
        ("--sample-interval", "33.3ms"),
        ("--history.retention", "1h"),
        ("--web.listen-address", "9955"),
        ("--web.listen-address", "localhost:99999"),
        ("--log.level", "loud"),
    ],
)
def test_an_invalid_value_is_a_usage_error(option: str, value: str) -> None:
    """The exit status is 2, and the message contains the value."""
    done = CliRunner().invoke(main, [option, value])
    assert done.exit_code == 2
    assert value in done.output


def test_gpus_are_chosen_by_index_or_uuid(start: StartExporter, driver: FakeDriver) -> None:
    """Only the requested GPUs are published. The others are not read after the start."""
    gpus = f"0,{driver.gpus[2].uuid}"
    exporter = start("--gpus", gpus, "--no-collector.zeus", "--no-collector.codecarbon", driver=driver)
    assert {labels["gpu"] for labels in scrape(exporter).labels("llem_gpu_info")} == {"0", "2"}
    before = driver.calls()
    wait_until(lambda: driver.calls()[2].fields >= before[2].fields + 10, "readings")
    assert driver.calls()[1] == before[1]


def test_options_come_from_the_environment(start: StartExporter) -> None:
    """LLEM_EXPORTER_OPTION sets an option."""
    exporter = start(LLEM_EXPORTER_REPLAY="demo", LLEM_EXPORTER_SAMPLE_INTERVAL="50ms")
    assert scrape(exporter).value("llem_sampler_interval_seconds") == 0.05


def has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6) as trial:
        try:
            trial.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_it_listens_on_ipv6_too() -> None:
    """IPv6 addresses are in brackets. The log has a URL, or an error if the machine has no ::1."""
    done = subprocess.Popen(
        [sys.executable, "-m", "llem_exporter", "--replay", "demo", "--web.listen-address", "[::1]:0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with done:
        assert done.stderr is not None
        overdue = threading.Timer(60, done.kill)
        overdue.start()
        line = done.stderr.readline()
        overdue.cancel()
        done.terminate()
    assert ("listening on http://[::1]:" if has_ipv6_loopback() else "cannot listen on [::1]") in line


def test_importing_everything_opens_nothing() -> None:
    """Imports load no NVML or zeus and start no thread, so a fork after them is safe."""
    code = (
        "import sys, threading, llem_exporter.exporter, llem_exporter.cli\n"
        "assert not {'pynvml', 'zeus', 'codecarbon', 'numpy'} & set(sys.modules), 'imported'\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
