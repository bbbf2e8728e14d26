"""CodeCarbonCollector and its worker: the real library on the fake driver, and its failures."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

from llem_core import metrics
from llem_core.backend import Backend, Candidate
from llem_exporter.codecarbon.process import Worker
from llem_exporter.collectors.codecarbon import CodeCarbonCollector
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.collectors.test_carbon import gone, kill_worker, worker_of
from tests.servers import wait_until


class Watched:
    """A CodeCarbonCollector that measures every second."""

    def __init__(
        self,
        *gpu_indices: int,
        country: str | None = None,
        gpus_fresh: Callable[[], bool] = lambda: True,
        start_s: float = 60.0,
    ) -> None:
        self.gpu_indices: Callable[[], Sequence[int]] = lambda: gpu_indices
        self.carbon = CodeCarbonCollector(
            lambda: self.gpu_indices(),
            country,
            gpus_fresh=gpus_fresh,
            period_s=1.0,
            restart_s=0.2,
            start_s=start_s,
        )
        self.first: Candidate = self.carbon.candidate

    def __enter__(self) -> "Watched":
        self.carbon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.carbon.stop()

    def measures(self) -> None:
        wait_until(lambda: self.carbon.candidate.usable, "a measurement")

    def fails(self) -> str:
        """The reason, as soon as it does not measure."""
        return wait_until(self._failure, "a failure")

    def _failure(self) -> str:
        candidate = self.carbon.candidate
        return "" if candidate.usable or candidate == self.first else candidate.reason

    def measures_again(self) -> None:
        """The next measurement, usable or not."""
        before_s = self.page()[READ_AT]
        wait_until(lambda: self.page()[READ_AT] > before_s, "another measurement")

    def page(self) -> dict[str, float]:
        """Component or name of the series -> its value, and the state of the collector."""
        state = self.carbon.state()
        shown = {
            sample.labels.get("component", sample.name): sample.value
            for family in self.carbon.collect()
            for sample in family.samples
        }
        return {SUCCESS: state.success, metrics.COLLECTOR_DURATION.name: state.duration_s or 0.0, **shown}


SUCCESS, GRAMS = metrics.COLLECTOR_SUCCESS.name, metrics.CODECARBON_EMISSIONS.name
READ_AT = metrics.CODECARBON_TIMESTAMP.name


def test_a_package_in_the_working_directory_is_not_imported(
    loaded: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker imports the installed CodeCarbon, not a folder of that name in the working directory."""
    (folder := tmp_path / "started_here" / "codecarbon").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(folder.parent)
    indices = [gpu.index for gpu in loaded.gpus]
    with Worker({"gpu_indices": indices, "country_iso_code": None, "period_s": 1.0}) as worker:
        assert worker.next_measurement(60.0).joules["gpu"] > 0


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """A driver with two GPUs for the worker of a Carbon in this process."""
    driver = FakeDriver(tmp_path, gpus=2)
    for name, value in driver.env.items():
        monkeypatch.setenv(name, value)
    with driver:
        yield driver


def test_a_worker_that_dies_is_started_again(loaded: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A killed worker, or an exception, is a failure until the next measurement.

    The published duration is that of the CodeCarbon call, including the driver's time.
    """
    loaded.gpus[0].slow_call_s = 0.3
    failures = [KeyError("odd")]

    def gpu_indices() -> list[int]:
        if failures:
            raise failures.pop()
        return [0]

    watched = Watched()
    watched.gpu_indices = gpu_indices
    with watched:
        watched.measures()
        assert "KeyError: 'odd'" in caplog.text
        assert watched.page()[metrics.COLLECTOR_DURATION.name] >= 0.3
        kill_worker(os.getpid())
        assert "-9" in watched.fails()
        assert watched.page()[SUCCESS] == 0
        assert watched.carbon.candidate.backend is Backend.CODECARBON
        watched.measures()
        assert watched.page().keys() >= {"cpu", "gpu", "ram"}


def test_no_grams_without_a_country(loaded: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """Without a country there are joules but no grams, and one log line."""
    del loaded
    with Watched(0, 1) as watched:
        watched.measures()
        watched.measures_again()
        assert "gpu" in watched.page()
        assert GRAMS not in watched.page()
        assert caplog.text.count("without --codecarbon.country-iso-code") == 1


def test_without_nvidia_smi_there_is_a_warning_and_no_zero(
    loaded: FakeDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If CodeCarbon cannot see the GPUs, there are no GPU joules, and the log has the reason."""
    monkeypatch.setenv("PATH", loaded.env_without_nvidia_smi["PATH"])
    with Watched(0, 1) as watched:
        watched.measures()
        assert watched.page().keys() & {"cpu", "gpu", "ram"} == {"cpu", "ram"}
        assert "found no GPU, so no gpu joules are published" in caplog.text


def test_an_unknown_country_is_a_failure_for_good(loaded: FakeDriver) -> None:
    """The worker is not restarted if CodeCarbon does not know the country."""
    del loaded
    with Watched(0, country="XYZ") as watched:
        assert "XYZ" in watched.fails()
        wait_until(lambda: not worker_of(os.getpid()), "the worker's end")
        assert watched.page()[SUCCESS] == 0
        assert "XYZ" in watched.carbon.candidate.reason


def test_a_worker_that_stalls_is_replaced(loaded: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """A hung driver is a failure after three periods, with one log line. The next worker measures."""
    with Watched(0, 1) as watched:
        watched.measures()
        stalled = worker_of(os.getpid())
        loaded.gpus[1].hung = True
        reason = watched.fails()
        assert reason == "the CodeCarbon process sent no measurement for 3 s; it will be restarted"
        wait_until(gone(stalled), "the stalled worker's end")
        loaded.gpus[1].hung = False
        watched.measures()
        assert worker_of(os.getpid()) != stalled
        assert caplog.text.count(reason) == 1


def test_a_worker_that_does_not_come_to_measure_is_replaced(
    loaded: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that hangs from the start is a failure after the start timeout, with one log line."""
    loaded.gpus[0].hung = True
    with Watched(0, start_s=2.0) as watched:
        stalled = wait_until(lambda: worker_of(os.getpid()), "a worker")
        reason = watched.fails()
        assert reason == "the CodeCarbon process sent no measurement for 2 s; it will be restarted"
        wait_until(gone(stalled), "the stalled worker's end")
        second = wait_until(lambda: {worker_of(os.getpid())} - {0, stalled}, "another worker")
        wait_until(lambda: {worker_of(os.getpid())} - {0, *second}, "a third one")
        assert watched.page()[SUCCESS] == 0
        assert caplog.text.count(reason) == 1


def test_what_can_mend_is_tried_again(loaded: FakeDriver) -> None:
    """If CodeCarbon cannot start because of a lost GPU, the start is retried."""
    loaded.gpus[1].lost = True
    with Watched(0) as watched:
        assert watched.fails().startswith("CodeCarbon does not start")
        loaded.gpus[1].lost = False
        watched.measures()


def test_a_worker_that_crashes_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the last line of the worker's standard error."""
    (tmp_path / "json.py").write_text("raise RuntimeError('no such luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Watched() as watched:
        assert (
            watched.fails()
            == "the CodeCarbon process ended with status 1: RuntimeError: no such luck; it will be restarted"
        )


def test_a_hiccup_of_a_gpu_during_a_scrape_restarts_nothing(loaded: FakeDriver) -> None:
    """A GPU that is stale only while a page is made hides the GPU joules of that page. The worker goes on."""
    stale = Event()
    with Watched(*(gpu.index for gpu in loaded.gpus), gpus_fresh=lambda: not stale.is_set()) as watched:
        watched.measures()
        worker = worker_of(os.getpid())
        stale.set()
        page = watched.page()
        stale.clear()
        assert "gpu" not in page
        watched.measures_again()
        watched.measures_again()
        assert worker_of(os.getpid()) == worker
        assert watched.page()["cpu"] > page["cpu"]
        assert "gpu" in watched.page()


def test_joules_without_one_of_the_gpus_are_withheld(
    loaded: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """Without one GPU, the GPU joules are not published. When it returns, the counters are reset."""
    lost = Event()
    with Watched(0, 1, gpus_fresh=lambda: not lost.is_set()) as watched:
        watched.measures()
        for _ in range(3):
            watched.measures_again()
        last = watched.page()["gpu"]
        loaded.gpus[1].lost = True
        lost.set()
        assert "gpu" not in watched.page()
        assert watched.page()[SUCCESS] == 0
        assert "a GPU cannot be read" in watched.fails()
        watched.measures_again()
        watched.measures_again()
        assert watched.page().keys() & {"cpu", "gpu", "ram"} == {"cpu", "ram"}
        assert caplog.text.count("CodeCarbon: a GPU cannot be read") == 1
        loaded.gpus[1].lost = False
        lost.clear()
        assert "gpu" not in watched.page()
        watched.measures()
        wait_until(lambda: watched.page().get("gpu"), "joules again")
        assert watched.page()["gpu"] < last
        assert watched.page()[SUCCESS] == 1
