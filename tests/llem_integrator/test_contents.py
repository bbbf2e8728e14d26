"""What a source contains, and why a window has no data."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llem_integrator import Request, Window, open_source, run
from llem_integrator.contents import Contents, Explainer, ListedGpu, list_contents
from llem_integrator.http.client import Http
from llem_integrator.series.matchers import parse_selector
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_integrator.conftest import Done
from tests.llem_integrator.measured import BEGIN, two_gpus
from tests.llem_integrator.pages import T0, page, scraped, series, trace
from tests.llem_integrator.stand_ins import between
from tests.llem_integrator.stores.test_limits import refusing
from tests.llem_integrator.stores.test_stores_agree import in_ms
from tests.llem_integrator.stores.test_victoriametrics import put_text
from tests.servers import Exporter, Prometheus, PrometheusRelease, VictoriaMetrics, wait_until

TWO_NODES = page(
    scraped(0), scraped(1, watts=250.0), scraped(0, uuid="GPU-2", seconds=range(0, 61, 5), instance="n2:9955")
)
DCGM = series(
    "DCGM_FI_DEV_POWER_USAGE", {"gpu": "0", "UUID": "GPU-0"}, [(ms, 90.0) for ms in range(0, 120_000, 5000)]
)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Prometheus]:
    """A Prometheus with two nodes, of which one ended early."""
    folder = tmp_path_factory.mktemp("server")
    with Prometheus.on_blocks(folder, TWO_NODES, release=prometheus_release) as prometheus:
        yield prometheus


def written(folder: Path, text: str) -> str:
    path = folder / "page.om"
    path.write_text(text)
    return str(path)


def explained(
    where: str, start_s: float, end_s: float, match: str = "", gpus: str | tuple[str, ...] = ()
) -> str:
    """The last warning of a window without data, in seconds after the begin of the page."""
    window = Window.between(BEGIN + start_s, BEGIN + end_s)
    (result,) = run(open_source(where), [window], Request(selectors=match or (), gpus=gpus))
    assert result.reasons == ("no_data",)
    return result.warnings[-1].message


def test_a_file_and_a_server_contain_the_same(tmp_path: Path, server: Prometheus) -> None:
    """The times are those of the first and last sample. The GPUs are those of the last 5 minutes."""
    found = [list_contents(open_source(where)) for where in (written(tmp_path, TWO_NODES), server.url)]
    assert found[0] == found[1]
    assert found[0] is not None
    assert (found[0].first_ms, found[0].last_ms) == (T0, T0 + 120_000)
    assert found[0].gpus == (
        ListedGpu("0", "GPU-0", "n1:9955"),
        ListedGpu("1", "GPU-1", "n1:9955"),
        ListedGpu("0", "GPU-2", "n2:9955"),
    )
    assert "llem_gpu_zeus_energy_joules_total" in found[0].metrics
    assert found[0].missing == ()
    assert str(found[0]) == (
        "3 GPUs on n1:9955, n2:9955, with samples from 2026-11-24T08:05:00Z to 2026-11-24T08:07:00Z"
    )


def test_json_gives_the_same(server: Prometheus) -> None:
    """A Prometheus without remote read contains the same."""
    json_only = PrometheusSource(Http(server.url), remote_read=False)
    assert list_contents(json_only) == list_contents(open_source(server.url))


@pytest.mark.full
def test_a_victoriametrics_contains_the_same(tmp_path: Path) -> None:
    """The contents of a VictoriaMetrics are those of a file."""
    expected = list_contents(open_source(written(tmp_path, TWO_NODES)))
    with VictoriaMetrics(tmp_path) as victoria:
        put_text(victoria, in_ms(TWO_NODES))
        assert list_contents(open_source(victoria.url)) == expected


def test_matchers_and_times_restrict_the_contents(server: Prometheus) -> None:
    """Only what matches any selector between two times is listed."""
    source = open_source(server.url)
    selectors = [parse_selector('instance="n2:9955"'), parse_selector('uuid="GPU-9"')]
    found = list_contents(source, selectors)
    assert isinstance(found, Contents)
    assert (found.last_ms, found.gpus) == (T0 + 60_000, (ListedGpu("0", "GPU-2", "n2:9955"),))
    assert list_contents(source, selectors, T0 + 61_000, T0 + 90_000) is None
    part = list_contents(source, [()], T0 + 61_000, T0 + 90_000)
    assert isinstance(part, Contents)
    assert (part.first_ms, part.last_ms, part.instances) == (T0 + 65_000, T0 + 90_000, ("n1:9955",))


def test_old_samples_are_found(tmp_path: Path) -> None:
    """The last sample is found however long ago it was, with gaps of any length before it."""
    parts = [trace(0, [(hours * 3_600_000, 100.0)]) for hours in (0, 3, 5000, 90_000)]
    found = list_contents(open_source(written(tmp_path, page(*parts))))
    assert isinstance(found, Contents)
    assert (found.first_ms, found.last_ms) == (T0, T0 + 90_000 * 3_600_000)


def test_a_window_at_another_time(tmp_path: Path, server: Prometheus) -> None:
    """The sentence says whether the window is before or after the samples, and what the source contains."""
    for where in (written(tmp_path, TWO_NODES), server.url):
        what = f"{where} contains 3 GPUs on n1:9955, n2:9955, with samples from 2026-11-24T08:05:00Z to "
        assert explained(where, -900, -800).startswith(f"the window ends before the first sample: {what}")
        assert explained(where, 900, 1000).startswith(f"the window begins after the last sample: {what}")


@pytest.mark.parametrize("remote_read", [True, False])
def test_the_search_is_limited(server: Prometheus, remote_read: bool) -> None:
    """If the server only answers short queries, the search stops, once for all windows, and says so."""
    message = (
        "the search was limited to 500 queries, because the server only answers short ones: raise its limits "
        "on the length and the samples of a query, or list a shorter time with --list and --window"
    )
    (result,) = run(open_source(server.url), [Window.between(BEGIN + 900, BEGIN + 910)], Request())
    with between(server.url, before=refusing(20_000)) as proxy:
        source = PrometheusSource(Http(proxy.url), remote_read=remote_read)
        explainer = Explainer(source)
        for _ in range(2):
            text = explainer.explain(result, ((),))
            assert text == f"the contents of the source cannot be listed: {message}"
        assert 500 <= len(proxy.asked) < 510
        assert isinstance(list_contents(source, [()], T0, T0 + 120_000), Contents)


def test_a_window_in_a_gap(tmp_path: Path) -> None:
    """In a gap, the window has no samples although the source has earlier and later ones."""
    text = page(scraped(0, seconds=[*range(0, 61, 5), *range(3600, 3661, 5)]))
    assert explained(written(tmp_path, text), 1800, 1900).startswith("the window contains no samples: ")


def test_a_wrong_matcher(tmp_path: Path, server: Prometheus) -> None:
    """The sentence names the matchers, and what the source contains without them."""
    for where in (written(tmp_path, TWO_NODES), server.url):
        text = explained(where, 40, 80, 'instance="n9:9955"')
        assert text.startswith(
            f'no series match {{instance="n9:9955"}}; without matchers, {where} contains 3 GPUs'
        )


def test_a_wrong_gpu(tmp_path: Path) -> None:
    """If a GPU is not there, the sentence says which GPUs are."""
    text = explained(two_gpus(tmp_path), 40, 80, gpus=("0", "7"))
    assert re.match(r"\S+ contains 2 GPUs \(indices 0, 1\) on n1:9955, with samples from", text)


def test_an_exporter_explains_itself() -> None:
    """The history of an exporter is listed, and a window before its start says so."""
    with Exporter(args=["--replay", "demo"]) as exporter:
        wait_until(lambda: list_contents(open_source(exporter.url)) is not None, "samples in the history")
        text = explained(exporter.url, 40, 80)
    assert text.startswith(
        f"the window ends before the first sample: {exporter.url} contains 2 GPUs "
        "(indices 0, 1) on 127.0.0.1:"
    )


def test_a_backend_without_data(tmp_path: Path) -> None:
    """A window that has samples, but none of the backend, is not called empty."""
    window = Window.between(BEGIN + 40, BEGIN + 80)
    (result,) = run(open_source(two_gpus(tmp_path)), [window], Request("codecarbon"))
    assert " contains 2 GPUs (indices 0, 1) on n1:9955" in result.warnings[-1].message
    assert "no samples" not in result.warnings[-1].message


def test_a_file_of_other_programs(tmp_path: Path) -> None:
    """A file with metrics of other programs names one. It is told from an empty file."""
    where = written(tmp_path, "\n".join([*DCGM, "# EOF", ""]))
    message = f"{where} contains no metrics of llem-exporter"
    assert explained(where, 40, 80) == (
        f"{message}, only metrics of other programs, for example DCGM_FI_DEV_POWER_USAGE"
    )
    assert explained(written(tmp_path, "# EOF\n"), 40, 80) == message


def test_a_server_of_other_programs(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """A server with metrics of other programs names one. It is told from an empty server."""
    text = "\n".join([*DCGM, "# EOF", ""])
    with Prometheus.on_blocks(tmp_path, text, release=prometheus_release) as prometheus:
        assert explained(prometheus.url, 40, 80) == (
            f"{prometheus.url} contains no metrics of llem-exporter, "
            "only metrics of other programs, for example DCGM_FI_DEV_POWER_USAGE"
        )


def test_a_metric_that_a_keep_list_drops(tmp_path: Path) -> None:
    """A GPU without any metric of power or energy names the missing metrics."""
    kept = [line for line in scraped(0) if line.startswith(("llem_gpu_info", "llem_gpu_power_limit"))]
    text = explained(written(tmp_path, page(kept)), 40, 80)
    assert text.endswith(
        ". These metrics are missing: llem_gpu_power_watts, llem_gpu_nvml_energy_joules_total, "
        "llem_gpu_integrated_seconds_total. Check metric_relabel_configs."
    )


def test_list(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """--list prints the contents. The exit code is 3 if there are none."""
    where = two_gpus(tmp_path)
    done = llem_integrate("--source", where, "--list")
    assert (done.code, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first == "samples from 2026-11-24T08:05:00Z to 2026-11-24T08:07:00Z"
    assert lines[:2] == ["GPU 0  GPU-0  n1:9955", "GPU 1  GPU-1  n1:9955"]
    assert "llem_gpu_power_trace_watts" in lines
    done = llem_integrate("--source", where, "--list", "--format", "json")
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "source", "first", "last", "gpus", "metrics", "missing"]
    assert (document["first"], document["last"]) == (BEGIN, BEGIN + 120)
    assert document["gpus"][1] == {"gpu": "1", "uuid": "GPU-1", "instance": "n1:9955"}
    done = llem_integrate("--source", where, "--list", "--window", f"{BEGIN + 900},+10s")
    assert (done.code, done.stderr) == (3, "")
    assert done.stdout == f"{where} contains no metrics of llem-exporter, or none that match\n"
    nothing = ["--list", "--match", 'gpu="9"', "--output", str(tmp_path / "list.json")]
    assert llem_integrate("--source", where, *nothing).code == 3
    document = json.loads((tmp_path / "list.json").read_text())
    assert (document["first"], document["gpus"]) == (None, [])
    done = llem_integrate("--source", where, "--list", "--format", "csv")
    assert (done.code, "table and json" in done.stderr) == (2, True)
