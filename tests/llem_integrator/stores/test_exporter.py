"""An exporter's own URL as a source."""

import gzip

import pytest

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from llem_integrator.stores import whole
from llem_integrator.stores.exporter import ExporterSource
from tests.llem_integrator.stand_ins import Reply, StandIn, always, answering
from tests.llem_integrator.traces import T0

POWER = "llem_gpu_power_watts"


def test_an_exporters_history_is_fetched_once() -> None:
    """The first response includes the margins around the window."""
    with StandIn(lambda _: Reply(body=b"llem_gpu_power_watts 1 1795507546\n# EOF\n")) as server:
        source = ExporterSource(Http(server.url))
        for margin_ms in (30_000, 300_000, 30_000, 300_000):
            assert len(list(whole(source.pieces(POWER, (), T0 - margin_ms, T0)))) == 1
        assert len(server.asked) == 1
        assert list(whole(source.pieces(POWER, (), 0, 5))) == []
        assert len(server.asked) == 2


def test_an_exporter_without_samples_has_no_data() -> None:
    """The page of an exporter that has just started has no samples. This is not an error."""
    with answering(200, b"llem_gpu_info 1\n# EOF\n") as url:
        source = ExporterSource(Http(url))
        assert list(whole(source.pieces(POWER, (), T0, T0 + 5))) == []
        assert [fact.metric for fact in source.timeless([()])] == ["llem_gpu_info"]


PAGE = b"".join(b"llem_gpu_power_watts %d %d.5\n" % (i, T0 // 1000 + i) for i in range(5000)) + b"# EOF\n"


def test_a_gzipped_history_is_the_same_history() -> None:
    """The history is parsed while it arrives, with any encoding."""
    replies = (
        Reply(body=PAGE),
        Reply(body=PAGE, chunked=True),
        Reply(body=gzip.compress(PAGE), headers={"Content-Encoding": "gzip"}),
    )
    answers = iter(replies)
    with StandIn(lambda _: next(answers)) as server:
        for _ in replies:
            (one,) = whole(ExporterSource(Http(server.url)).pieces(POWER, (), T0, T0 + 10**7))
            assert one.values.tolist() == list(range(5000))
            assert one.labels == {"instance": server.url.removeprefix("http://")}


HALVES = [
    (Reply(body=PAGE, cut=len(PAGE) // 2), "cannot read the answer"),
    (Reply(body=PAGE, cut=len(PAGE) // 2, chunked=True), "cannot read the answer"),
    (Reply(body=PAGE[: len(PAGE) // 2]), "EOF|not a sample"),
    (
        Reply(body=gzip.compress(PAGE)[:-200], headers={"Content-Encoding": "gzip"}),
        "EOF|cannot read the answer",
    ),
    (Reply(body=PAGE, headers={"Content-Encoding": "gzip"}), "cannot read the answer"),
    (Reply(body=b"<html>\n"), "/history: line 1: not a sample"),
    (Reply(404, b"no such page\nbut others"), "/history answered 404: no such page$"),
    (Reply(body=b'llem_gpu_power_watts{x="\xff"} 1 2\n# EOF\n'), "line 1: not UTF-8"),
]


def test_half_a_history_is_none(subtests: pytest.Subtests) -> None:
    """A truncated, damaged or invalid history is an error of one line. None of its samples are used."""
    for reply, message in HALVES:
        with subtests.test(reply=str(reply)[:80]), StandIn(always(reply)) as server:
            source = ExporterSource(Http(server.url))
            with pytest.raises(SourceError, match=message):
                list(source.pieces(POWER, (), T0, T0 + 10**7))
