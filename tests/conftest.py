"""Fixtures and settings for all tests; the servers are in tests/servers.py."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import hypothesis
import pytest

from tests.servers import prometheus_releases

# The suite runs beside real servers on few cores: a slow example is no failure. In CI every run tries
# the same examples, so that a red run is about the change.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Servers that live as long as the test: `prometheus = servers.enter_context(Prometheus(...))`."""
    with ExitStack() as stack:
        yield stack


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with `prometheus_release` (itself, or through a fixture) runs on each version there is."""
    if "prometheus_release" in metafunc.fixturenames:
        releases = prometheus_releases()
        ids = [f"prometheus-{release.version}" for release in releases]
        # Not "session": pytest would order the whole session by version, and run module fixtures twice.
        metafunc.parametrize("prometheus_release", releases, ids=ids, scope="module")
