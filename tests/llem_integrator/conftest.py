"""The Prometheus that most tests of a store read from, and the command without a process of its own."""

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from llem_integrator import cli
from tests.llem_integrator.traces import trace_text
from tests.servers import Prometheus, PrometheusRelease


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Prometheus]:
    """A Prometheus that holds 20,000 samples of a 10 Hz trace of two GPUs."""
    directory = tmp_path_factory.mktemp("traced")
    with Prometheus.on_blocks(directory, trace_text(20_000), release=prometheus_release) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Done:
    """What a run of llem-integrate returned and printed."""

    code: int | str | None
    stdout: str
    stderr: str


@pytest.fixture
def llem_integrate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """Run llem-integrate with these arguments in this process, which takes far less time than a new one."""

    def run(*args: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["llem-integrate", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return Done(ended.value.code, printed.out, printed.err)

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)
