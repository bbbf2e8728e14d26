"""A real Thanos: a querier of sidecars, each beside its Prometheus."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.llem_integrator.conftest import Done
from tests.llem_integrator.pages import T0, page, scraped
from tests.llem_integrator.stand_ins import between
from tests.llem_integrator.stores.recorded import integrated, recorded, windows
from tests.llem_integrator.stores.test_recognition import forbidding
from tests.servers import Prometheus, ThanosQuerier, ThanosSidecar, wait_until

pytestmark = pytest.mark.full

Integrate = Callable[..., Done]
Start = Callable[[str, str], tuple[Prometheus, ThanosSidecar]]


@pytest.fixture
def start(tmp_path: Path, servers: ExitStack) -> Start:
    """Start a replica: a Prometheus that holds a page, with its sidecar."""

    def start(replica: str, text: str) -> tuple[Prometheus, ThanosSidecar]:
        prometheus = Prometheus.on_blocks(tmp_path / replica, text)
        prometheus.configure(config={"global": {"external_labels": {"replica": replica, "site": "here"}}})
        servers.enter_context(prometheus)
        return prometheus, servers.enter_context(ThanosSidecar(prometheus))

    return start


def without(text: str, start_s: int, end_s: int) -> str:
    """Return the page without the samples between two times in s after T0."""
    lines = (line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    kept = (line for line in lines if not start_s < float(line.split()[-1]) - T0 / 1000 < end_s)
    return f"{''.join(kept)}# EOF\n"


def test_the_joules_are_those_of_prometheus(
    llem_integrate: Integrate, start: Start, servers: ExitStack
) -> None:
    """Joules, bounds, gaps and warnings are those of the Prometheus behind the sidecar, to the bit."""
    prometheus, sidecar = start("a", recorded())
    querier = servers.enter_context(ThanosQuerier(sidecar))
    assert integrated(llem_integrate, querier.url) == integrated(llem_integrate, prometheus.url)


def test_a_forbidden_status_page_does_not_matter(
    llem_integrate: Integrate, start: Start, servers: ExitStack
) -> None:
    """A Thanos is recognised without its build information, which proxies may forbid."""
    prometheus, sidecar = start("a", recorded())
    querier = servers.enter_context(ThanosQuerier(sidecar))
    proxy = servers.enter_context(between(querier.url, before=forbidding))
    assert integrated(llem_integrate, proxy.url) == integrated(llem_integrate, prometheus.url)


def test_replicas_are_merged(llem_integrate: Integrate, start: Start, servers: ExitStack) -> None:
    """What one replica missed comes from the other, and nothing is counted twice."""
    _, first = start("a", without(recorded(), 50, 80))
    complete, second = start("b", recorded())
    querier = servers.enter_context(ThanosQuerier(first, second))
    assert integrated(llem_integrate, querier.url) == integrated(llem_integrate, complete.url)


def test_a_store_that_is_down_is_an_error(
    llem_integrate: Integrate, start: Start, servers: ExitStack
) -> None:
    """Without the samples of one store, the others give no joules, also after the querier has left it out."""
    _, first = start("a", page(scraped(0)))
    _, second = start("b", page(scraped(1)))
    querier = servers.enter_context(ThanosQuerier(first, second))
    assert len(integrated(llem_integrate, querier.url)[0]["gpus"]) == 2
    second.kill()
    for _ in range(2):
        done = llem_integrate(f"--source={querier.url}", *windows())
        assert (done.code, done.stdout) == (1, "")
        assert second.grpc_address in done.stderr
        wait_until(lambda: querier.stores()[second.grpc_address], "a failed health check")
