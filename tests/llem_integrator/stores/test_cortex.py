"""A real Cortex, from which Mimir came: tenants, and limits that divide a question."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.llem_integrator.conftest import Done
from tests.llem_integrator.pages import page, scraped, trace
from tests.llem_integrator.stand_ins import Asked, Reply, between
from tests.llem_integrator.stores.recorded import integrated, recorded, windows
from tests.servers import Cortex, Prometheus

pytestmark = pytest.mark.full

Integrate = Callable[..., Done]
TENANTS: dict[str, dict[str, Any]] = {
    "free": {},
    "length": {"max_query_length": "5m"},
    "chunks": {"max_fetched_chunks_per_query": 40},
    "bytes": {"max_fetched_chunk_bytes_per_query": 5000},
    "samples": {},
    "other": {},
}
"""Each tenant with its limits."""
MAX_SAMPLES = 4000
"""Of one query of any tenant; all series but the traces have fewer in all."""
LIMITS = {
    "length": "the query time range exceeds the limit",
    "chunks": "the query hit the max number of chunks limit",
    "bytes": "the query hit the aggregated chunks size limit",
    "samples": "query processing would load too many samples",
}
"""What Cortex answers where a tenant's question exceeds its limit."""


def dense() -> str:
    """Ten minutes of a trace at 10 Hz: 50 chunks of 120 samples, and one or two of each other series."""
    samples = [(ms, 300 + ms // 100 % 97 / 8) for ms in range(0, 600_001, 100)]
    return page(trace(0, samples), scraped(0, watts=306, seconds=range(0, 601, 5)))


@pytest.fixture(scope="module")
def cortex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cortex]:
    folder = tmp_path_factory.mktemp("cortex")
    with Cortex(folder, tenants=TENANTS, querier={"max_samples": MAX_SAMPLES}) as server:
        server.write(recorded(), "free")
        server.write(page(scraped(7)), "other")
        for tenant in LIMITS:
            server.write(dense(), tenant)
        yield server


def header(tenant: str) -> str:
    return f"--http.header=X-Scope-OrgID: {tenant}"


def test_the_joules_are_those_of_prometheus(
    tmp_path: Path, llem_integrate: Integrate, cortex: Cortex
) -> None:
    """Joules, bounds, gaps and warnings are the same to the bit."""
    with Prometheus.on_blocks(tmp_path, recorded()) as prometheus:
        expected = integrated(llem_integrate, prometheus.url)
    assert integrated(llem_integrate, cortex.prometheus_url, header("free")) == expected


@pytest.mark.parametrize("tenant", LIMITS)
def test_a_limit_divides_the_question(
    tmp_path: Path, llem_integrate: Integrate, cortex: Cortex, tenant: str
) -> None:
    """What exceeds a limit of the tenant is read in shorter parts, and the joules are the same."""
    refusals: list[Reply] = []

    def noted(_: Asked, reply: Reply) -> Reply:
        if LIMITS[tenant].encode() in reply.body:
            refusals.append(reply)
        return reply

    whole = [(0, 600_000)]
    with Prometheus.on_blocks(tmp_path, dense()) as prometheus:
        expected = integrated(llem_integrate, prometheus.url, windows_ms=whole)
    with between(cortex.url, noted) as proxy:
        found = integrated(llem_integrate, f"{proxy.url}/prometheus", header(tenant), windows_ms=whole)
    assert found == expected
    assert refusals


def test_each_tenant_has_its_own_gpus(llem_integrate: Integrate, cortex: Cortex) -> None:
    """The header selects the tenant."""
    (window, *_) = integrated(llem_integrate, cortex.prometheus_url, header("other"))
    assert [gpu["uuid"] for gpu in window["gpus"]] == ["GPU-7"]


def test_without_a_tenant_the_message_names_the_header(llem_integrate: Integrate, cortex: Cortex) -> None:
    """The error has what Cortex answered, and the option that helps."""
    done = llem_integrate(f"--source={cortex.prometheus_url}", *windows())
    assert (done.code, done.stdout) == (1, "")
    assert "no org id" in done.stderr
    assert "--http.header 'X-Scope-OrgID:" in done.stderr
