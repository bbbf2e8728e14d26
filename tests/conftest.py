"""Options, profiles and fixtures for all tests. The servers are in tests/servers."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import hypothesis
import pytest

from tests.servers import prometheus_releases


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked `full`, too")


def pytest_configure(config: pytest.Config) -> None:
    """Load the Hypothesis profile, and restore SIGINT, which a shell ignores in background jobs.

    Examples have no deadline, because the tests share a few cores with real servers. In CI every run has the
    same examples, so a new failure is due to the change.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    in_ci = bool(os.environ.get("CI"))
    hypothesis.settings.register_profile(
        "llem",
        max_examples=100 if config.getoption("--full") else 20,
        deadline=None,
        derandomize=in_ci,
        print_blob=in_ci,
    )
    hypothesis.settings.load_profile("llem")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put slow tests first. Without --full, deselect the tests marked `full`. pytest counts them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if config.getoption("--full"):
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("full")])
    items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `prometheus_release` on Prometheus 2. With --full, also run it on Prometheus 3."""
    if "prometheus_release" in metafunc.fixturenames:
        releases = prometheus_releases(full=metafunc.config.getoption("--full"))
        ids = [f"prometheus-{release.version}" for release in releases]
        # Session scope would make pytest sort all tests by version and set up module fixtures twice.
        metafunc.parametrize("prometheus_release", releases, ids=ids, scope="module")


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """An ExitStack. At the end of the test it stops the servers that were entered into it."""
    with ExitStack() as stack:
        yield stack
