"""An exporter's own URL as a source."""

from llem_integrator.sources import Summary, whole
from llem_integrator.sources.exporter import ExporterSource
from llem_integrator.sources.http import Http
from tests.llem_integrator.stand_ins import Reply, StandIn, answering
from tests.llem_integrator.traces import T0

POWER = "llem_gpu_power_watts"


def test_an_exporters_history_is_fetched_once() -> None:
    """The margins that a window is read with are in the first answer."""
    with StandIn(lambda _: Reply(body=b"llem_gpu_power_watts 1 1795507546\n# EOF\n")) as server:
        source = ExporterSource(Http(server.url))
        for margin_ms in (30_000, 300_000, 30_000, 300_000):
            assert len(list(whole(source.pieces(POWER, (), T0 - margin_ms, T0, lambda _: None)))) == 1
            assert len(list(source.summary(POWER, (), T0 - margin_ms, T0, Summary.LAST))) == 1
        assert len(server.asked) == 1
        assert list(whole(source.pieces(POWER, (), 0, 5, lambda _: None))) == []
        assert len(server.asked) == 2


def test_an_exporter_without_samples_has_no_data() -> None:
    """A page of plain facts, as of an exporter just started, is an answer and not an error."""
    with answering(200, b"llem_gpu_info 1\n# EOF\n") as url:
        source = ExporterSource(Http(url))
        assert list(whole(source.pieces(POWER, (), T0, T0 + 5, lambda _: None))) == []
        assert len(list(source.summary("llem_gpu_info", (), T0, T0 + 5, Summary.LAST))) == 1
