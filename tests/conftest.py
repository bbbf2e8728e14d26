"""Fixtures and settings for all tests; the servers are in tests/servers.py."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import hypothesis
import pytest

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
