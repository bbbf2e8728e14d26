"""Nodes whose power is known at any instant."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.faults.pages import SteadyDriver
from tests.servers import Exporter


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[FakeDriver]:
    """Three GPUs that draw 100, 200 and 300 W."""
    with SteadyDriver(tmp_path, gpus=3) as driver:
        yield driver


@pytest.fixture
def begin(start: StartExporter, steady: FakeDriver) -> Callable[..., Exporter]:
    """Start an exporter on the steady driver, without CodeCarbon, with these arguments."""

    def begin_exporter(*args: str, **env: str) -> Exporter:
        return start("--no-collector.codecarbon", *args, driver=steady, **env)

    return begin_exporter


@pytest.fixture(scope="module")
def shared_steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDriver]:
    """The same three GPUs for all tests of a module; each test restores what it changes."""
    with SteadyDriver(tmp_path_factory.mktemp("driver"), gpus=3) as driver:
        yield driver


@pytest.fixture(scope="module")
def shared_exporter(shared_steady: FakeDriver) -> Iterator[Exporter]:
    """An exporter on them, with Zeus and without CodeCarbon."""
    with Exporter(env=shared_steady.env, args=["--no-collector.codecarbon"]) as exporter:
        yield exporter
