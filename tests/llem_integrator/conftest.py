"""The Prometheus that most tests of a store read from."""

from collections.abc import Iterator

import pytest

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
