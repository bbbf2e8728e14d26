"""The same samples by every way in give the same joules."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from llem_core.backend import Backend
from llem_integrator.http.client import Http
from llem_integrator.integration import integrate
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from llem_integrator.stores import Source, open_source
from llem_integrator.stores.exporter import ExporterSource
from llem_integrator.stores.prometheus import PrometheusSource
from llem_integrator.stores.victoriametrics import VictoriaMetricsSource
from llem_integrator.windows.window import Window
from tests.llem_integrator.pages import T0
from tests.llem_integrator.remote_read.test_client import by_remote_read
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn
from tests.llem_integrator.stores.recorded import WINDOWS_MS, recorded
from tests.llem_integrator.stores.test_victoriametrics import put_text
from tests.llem_integrator.text.dumps import dumped, packed
from tests.servers import Prometheus, PrometheusRelease, VictoriaMetrics

DIGITS = 1e-12
"""What VictoriaMetrics keeps of a value."""


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[dict[str, Source]]:
    """Every way in, by name."""
    folder, text = tmp_path_factory.mktemp("stores"), recorded()
    (folder / "page.om").write_text(text)

    def exporter(asked: Asked) -> Reply:
        return Reply(body=text.encode() if asked.path.startswith("/history") else b"llem-exporter")

    with ExitStack() as stack:
        prometheus = stack.enter_context(
            Prometheus.on_blocks(folder / "prometheus", text, release=prometheus_release)
        )
        yield {
            "remote read": by_remote_read(prometheus.url),
            "json": PrometheusSource(Http(prometheus.url), remote_read=False),
            "exporter": open_source(stack.enter_context(StandIn(exporter)).url),
            "file": open_source(str(folder / "page.om")),
            **files(folder, text, prometheus_release),
        }


def files(folder: Path, text: str, release: PrometheusRelease) -> dict[str, Source]:
    """The page compressed, and what promtool dumps of the blocks."""
    found = packed(text.encode())
    data = folder / "prometheus" / "data"
    found["dump"] = dumped(release, data)
    found["dump in zstd"] = packed(found["dump"])["zstd"]
    if release.major > 2:
        found["dump-openmetrics"] = dumped(release, data, "dump-openmetrics")
    for name, content in found.items():
        (folder / name).write_bytes(content)
    return {name: open_source(str(folder / name)) for name in found}


def in_ms(text: str) -> str:
    """The page with its times in whole ms, as VictoriaMetrics wants them."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return "".join(f"{sample} {round(float(unix_s) * 1000)}\n" for sample, _, unix_s in lines)


WINDOWS = [Window((T0 + start_ms) * 1000, (T0 + end_ms) * 1000) for start_ms, end_ms in WINDOWS_MS]
BACKENDS = [None, Backend.NVML, Backend.ZEUS]


def results(source: Source, backend: Backend | None) -> list[WindowResult]:
    return list(integrate(source, WINDOWS, Request(backend=backend, min_coverage=0.5)))


def test_every_store_gives_the_same_joules(sources: dict[str, Source], subtests: pytest.Subtests) -> None:
    """Joules, bounds, gaps, resets and reasons are the same to the bit."""
    assert isinstance(sources["exporter"], ExporterSource)
    for backend in BACKENDS:
        expected = results(sources["json"], backend)
        assert [len(one.gpus) for one in expected] == [3] * len(WINDOWS)
        assert backend is not None or all(any(gpu.joules for gpu in one.gpus) for one in expected)
        for name, source in sources.items():
            with subtests.test(store=name, backend=backend):
                found = results(source, backend)
                if name == "exporter":  # the results have its address as the instance
                    joules = [{gpu.uuid: gpu.joules for gpu in one.gpus} for one in found]
                    assert joules == [one.per_gpu_j for one in expected]
                else:
                    assert [asdict(one) for one in found] == [asdict(one) for one in expected]


@pytest.mark.full
def test_victoriametrics_gives_the_same_joules(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """All numbers equal those of a file to 12 digits."""
    (tmp_path / "page.om").write_text(recorded())
    file = open_source(str(tmp_path / "page.om"))
    with VictoriaMetrics(tmp_path) as server:
        put_text(server, in_ms(recorded()))
        victoria = open_source(server.url)
        assert isinstance(victoria, VictoriaMetricsSource)
        for backend in BACKENDS:
            with subtests.test(backend=backend):
                expected = approximately([asdict(one) for one in results(file, backend)])
                assert [asdict(one) for one in results(victoria, backend)] == expected


def approximately(value: object) -> object:
    """The same with every number inside to 12 digits."""
    match value:
        case dict():
            return {key: approximately(inner) for key, inner in value.items()}
        case list():
            return [approximately(inner) for inner in value]
        case tuple():
            return tuple(approximately(inner) for inner in value)
        case float():
            return pytest.approx(value, rel=DIGITS, abs=DIGITS)
    return value
