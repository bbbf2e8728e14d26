"""Fake drivers for these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[FakeDriver]:
    """Two GPUs that draw 100 W and 300 W."""
    with FakeDriver(tmp_path, gpus=2, low_watts=100.0, high_watts=100.0, sine_watts=0.0) as driver:
        driver.gpus[1].set_load(low_watts=300.0, high_watts=300.0)
        yield driver
