"""Power traces read by the workers of a real Dask cluster: the local answer, or one clear line."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from llem_core.errors import SourceError
from llem_integrator.api import Results
from llem_integrator.dask.cluster import DaskCluster
from llem_integrator.dask.tasks import Store
from llem_integrator.integration import integrate
from llem_integrator.report.figures import about
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from llem_integrator.stores import open_source
from llem_integrator.windows.window import Window
from tests.llem_integrator.dask.processes import Cluster, cluster
from tests.llem_integrator.pages import T0, page, scraped, series, trace
from tests.servers import Prometheus, installed_prometheus

SECONDS = 600


def recorded(*, grid: float = 8.0) -> str:
    """Ten minutes of traces of multiples of 1 / `grid` W: with gaps, in two label sets, begun late."""
    noise = random.Random(7)

    def watts(begin_ms: int, end_ms: int) -> list[tuple[int, float]]:
        return [(ms, round(noise.gauss(400, 90) * grid) / grid) for ms in range(begin_ms, end_ms, 100)]

    holes = ((59_950, 60_050), (119_000, 121_500), (300_000, 395_000), (512_100, 512_400))
    first = [one for one in watts(0, 600_000) if not any(a <= one[0] < b for a, b in holes)]
    interval = series("llem_sampler_interval_seconds", {"instance": "n1:9955"}, [(600_000, 0.1)])
    scrapes = range(0, 601, 5)
    return page(
        interval,
        trace(0, first),
        trace(1, watts(0, 250_000), pod="a"),
        trace(1, watts(249_000, 600_000), pod="b"),
        trace(2, watts(181_300, 600_000)),
        trace(3, watts(0, 600_000), instance="n2:9955"),
        *(scraped(gpu, zeus=gpu != 1, seconds=scrapes) for gpu in range(3)),
    )


def windows() -> list[Window]:
    """Many, of all lengths, with edges on samples, between them, in gaps, and where the parts meet."""
    chance = random.Random(8)
    pairs = [(0, SECONDS), (60, 120), (59.97, 60.03), (119.5, 121.1), (310, 320), (299.99, 395.01)]
    for _ in range(60):
        start = chance.uniform(-5, SECONDS - 1)
        pairs.append((start, start + chance.choice([0.05, 1, 30, 200])))
    pairs += [(minute * 60, minute * 60 + 60) for minute in range(10)]
    whole = [(round(start * 1e6), round(end * 1e6)) for start, end in pairs]
    return [Window(T0 * 1000 + start_us, T0 * 1000 + end_us) for start_us, end_us in whole]


def quiet(_: float) -> None:
    pass


def answered(
    where: str, by: DaskCluster | None = None, progress: Callable[[float], None] = quiet
) -> list[WindowResult]:
    return list(integrate(open_source(where), windows(), Request(min_coverage=0.5), progress, by))


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus.on_blocks(folder, recorded(), release=installed_prometheus()) as server:
        yield server.url


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "page.om"
    path.write_text(recorded())
    return str(path)


def shown(where: str, results: list[WindowResult]) -> Any:
    """All that JSON shows of results."""
    return json.loads(Results(tuple(results), about(open_source(where).address, Request())).to_json())


def approximately(found: Any) -> Any:
    """The same, but for the last digits of floats."""
    if isinstance(found, float):
        return pytest.approx(found, rel=1e-12, abs=1e-9, nan_ok=True)
    if isinstance(found, dict):
        return {key: approximately(value) for key, value in found.items()}
    if isinstance(found, list):
        return [approximately(value) for value in found]
    return found


@pytest.mark.full
def test_two_workers_give_the_local_answer_to_the_bit(workers: Cluster, prometheus: str) -> None:
    """With a running Prometheus, all values and messages of every window are the same."""
    local = answered(prometheus)
    with DaskCluster(workers.address, Store(prometheus)) as dask:
        assert answered(prometheus, dask) == local
    joules = [gpu.joules for gpu in chain.from_iterable(one.gpus for one in local)]
    assert len(set(joules)) > 100


def test_a_file_is_read_by_each_worker(workers: Cluster, file: str) -> None:
    """A file with the same path on each worker gives the local result."""
    with DaskCluster(workers.address, Store(file)) as dask:
        assert answered(file, dask) == answered(file)


@pytest.mark.full
def test_samples_off_the_grid_are_the_same_to_12_digits(workers: Cluster, tmp_path: Path) -> None:
    """Watts that are not multiples of 1/8 have rounding errors that depend on the order of the sum."""
    path = tmp_path / "page.om"
    path.write_text(recorded(grid=997.0))
    local = answered(str(path))
    with DaskCluster(workers.address, Store(str(path))) as dask:
        found = answered(str(path), dask)
    assert shown(str(path), found) == approximately(shown(str(path), local))


@pytest.mark.full
def test_gaps_that_nobody_publishes_are_those_of_one_process(workers: Cluster, tmp_path: Path) -> None:
    """If the sample interval is not published, the steps around determine what is a gap, also in parts.

    Only the max_gap that is shown may differ, next to where parts meet.
    """
    steps = [100] * 1500 + [250] * 600 + [1000] * 300
    times = [0]
    for step in steps:
        times.append(times[-1] + step)
    late = [ms for ms in times if ms > 170_000]
    path = tmp_path / "page.om"
    path.write_text(
        "\n".join(
            [*trace(0, [(ms, 300.0) for ms in times]), *trace(1, [(ms, 200.0) for ms in late]), "# EOF", ""]
        )
    )
    local = answered(str(path))
    with DaskCluster(workers.address, Store(str(path))) as dask:
        assert without_max_gap(answered(str(path), dask)) == without_max_gap(local)
    assert {gpu.max_gap_s for one in local for gpu in one.gpus if gpu.covered_s} == {0.3, 0.75, 3.0}


def without_max_gap(results: list[WindowResult]) -> list[WindowResult]:
    return [
        replace(result, gpus=tuple(gpu._replace(max_gap_s=None) for gpu in result.gpus)) for result in results
    ]


class Killing:
    """Kills processes as soon as something was read; `at` is how much."""

    def __init__(self, *victims: Any) -> None:
        self._victims = victims
        self.at: float | None = None

    def __call__(self, done: float) -> None:
        if self.at is None and done > 0:
            self.at = done
            for victim in self._victims:
                victim.kill()


@pytest.mark.full
def test_a_worker_killed_in_the_middle_changes_nothing(prometheus: str) -> None:
    """After SIGKILL of one of two workers, the other repeats the lost work."""
    with cluster() as running, DaskCluster(running.address, Store(prometheus)) as dask:
        killing = Killing(running.workers[0])
        assert answered(prometheus, dask, killing) == answered(prometheus)
        assert running.workers[0].process.poll() == -9
    assert killing.at is not None
    assert killing.at < len(windows()) / 2


@pytest.mark.full
def test_without_any_worker_it_ends(prometheus: str) -> None:
    """If the last worker dies, the run waits for a while and then fails."""
    with cluster() as running, DaskCluster(running.address, Store(prometheus), patience_s=3) as dask:
        killing = Killing(*running.workers)
        with pytest.raises(SourceError, match=r"^no Dask worker at tcp://\S+ for 3 s \(start some"):
            answered(prometheus, dask, killing)


@pytest.mark.full
def test_without_its_scheduler_it_ends(prometheus: str) -> None:
    """If the scheduler dies, the run fails."""
    with cluster() as running, DaskCluster(running.address, Store(prometheus)) as dask:
        killing = Killing(running.scheduler)
        with pytest.raises(SourceError, match=r"^the Dask scheduler at tcp://\S+ went away$"):
            answered(prometheus, dask, killing)
