"""Exporters as processes, on the fake driver or on a trace."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.servers import Exporter, wait_until

StartExporter = Callable[..., Exporter]


@pytest.fixture
def start(servers: ExitStack) -> StartExporter:
    """Start an exporter with these arguments, on this driver if one is given; it is ready when returned."""

    def start_exporter(*args: str, driver: FakeDriver | None = None, **env: str) -> Exporter:
        environment = {**(driver.env if driver else {}), **env}
        exporter = servers.enter_context(Exporter(env=environment, args=args))
        wait_until(lambda: exporter.fetch("/-/ready").status == 200, "ready")
        return exporter

    return start_exporter


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    """A fake driver with three GPUs."""
    with FakeDriver(tmp_path, gpus=3) as fake:
        yield fake
