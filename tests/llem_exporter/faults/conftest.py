"""A node of three GPUs whose power is known at any instant."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.servers import Exporter


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[FakeDriver]:
    """Three GPUs that draw 100, 200 and 300 W, whatever the instant."""
    with FakeDriver(tmp_path, gpus=3, low_watts=100.0, high_watts=100.0, sine_watts=0.0) as driver:
        for gpu in driver.gpus[1:]:
            gpu.set_load(low_watts=100.0 * (1 + gpu.index), high_watts=100.0 * (1 + gpu.index))
        yield driver


@pytest.fixture
def begin(start: StartExporter, steady: FakeDriver) -> Callable[..., Exporter]:
    """Start an exporter on the steady driver, without CodeCarbon, with these arguments."""

    def begin_exporter(*args: str, **env: str) -> Exporter:
        return start("--no-collector.codecarbon", *args, driver=steady, **env)

    return begin_exporter
