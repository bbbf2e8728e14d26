"""--job: the stretches in which scrapes saw a job, and on which GPUs."""

from collections.abc import Iterable, Sequence

import pytest

from llem_core.errors import ConfigError, SourceError
from llem_core.measurement import WarningCode
from llem_integrator.http.client import Http
from llem_integrator.series.matchers import Matcher
from llem_integrator.stores.exporter import ExporterSource
from llem_integrator.windows.job_lookup import find_job
from llem_integrator.windows.window import Window
from tests.llem_integrator.pages import T0, page, parse, series

NOW_US = (T0 + 86_400_000) * 1000


def ran(
    gpu: int, *stretches: tuple[int, int], scrapes: Sequence[int] = range(0, 3600, 15), **labels: str
) -> list[str]:
    """One GPU's scrapes [s], and the job in those of some stretches."""
    own = {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "instance": f"n{gpu}:9955", "job": "llem"}
    shown = [s for s in scrapes if any(start <= s < end for start, end in stretches)]
    lines = series("llem_gpu_job_info", {**own, "job_id": "7", **labels}, [(s * 1000, 1) for s in shown])
    return lines + series("llem_gpu_integrated_seconds_total", own, [(s * 1000, float(s)) for s in scrapes])


def found(*parts: list[str], job: str = "7", node_label: str = "instance") -> list[Window]:
    return find_job(parse(page(*parts), "page"), job, node_label=node_label, now_us=NOW_US)


def shown(windows: Iterable[Window]) -> list[tuple[float, float, tuple[str, ...] | None]]:
    """Start, end [s] and GPUs."""
    edges = [((one.start_us / 1000 - T0) / 1000, (one.end_us / 1000 - T0) / 1000) for one in windows]
    return [(*edge, one.gpus) for edge, one in zip(edges, windows, strict=True)]


def test_a_job_that_came_back_is_two_windows() -> None:
    """A requeued job has two windows. Another job may use the GPU between them."""
    windows = found(ran(0, (300, 600), (2400, 3000)))
    assert shown(windows) == [(300, 585, ("GPU-0",)), (2400, 2985, ("GPU-0",))]
    assert [one.name for one in windows] == ["7", "7"]


def test_a_job_that_moved_has_each_gpu_while_it_had_it() -> None:
    """The job moves from one node to two others. Each window has its own GPUs."""
    windows = found(ran(0, (300, 600)), ran(1, (1200, 2000)), ran(2, (1215, 2000)))
    assert shown(windows) == [(300, 585, ("GPU-0",)), (1200, 1995, ("GPU-1", "GPU-2"))]


def test_a_job_that_gave_a_node_back() -> None:
    """A GPU that the job released early has its own window."""
    windows = found(ran(0, (300, 3000)), ran(1, (300, 900)))
    assert shown(windows) == [(300, 2985, ("GPU-0",)), (300, 885, ("GPU-1",))]


def test_scrapes_that_are_missing_end_no_job() -> None:
    """Missing scrapes, or a dead node, are a gap in the window of the job."""
    outage = [s for s in range(0, 3600, 15) if not 900 <= s < 1500]
    died = range(0, 1000, 15)
    windows = found(ran(0, (300, 3000), scrapes=outage), ran(1, (300, 3000), scrapes=died))
    assert shown(windows) == [(300, 2985, ("GPU-0", "GPU-1"))]


def test_nodes_that_begin_a_little_apart_begin_together() -> None:
    """Prologs and scrapes of a job's nodes have slightly different times."""
    windows = found(ran(0, (300, 3000)), ran(1, (360, 3060)))
    assert shown(windows) == [(300, 3045, ("GPU-0", "GPU-1"))]


def test_the_scrape_jobs_name_is_no_job() -> None:
    """A job is found by its job_id, not by the scrape job's name."""
    with pytest.raises(SourceError, match="no job 'llem'"):
        found(ran(0, (300, 600)), job="llem")


def test_jobs_with_one_id_are_told_apart() -> None:
    """Jobs of two clusters, or of two users, have windows of their own, named after what differs."""
    clusters = found(ran(0, (300, 600), cluster="a", user="ada"), ran(1, (300, 900), cluster="b", user="bob"))
    assert shown(clusters) == [(300, 585, ("GPU-0",)), (300, 885, ("GPU-1",))]
    assert [window.name for window in clusters] == ["7 (cluster=a, user=ada)", "7 (cluster=b, user=bob)"]
    users = found(ran(0, (300, 600), user="ada"), ran(1, (300, 600)))
    assert sorted(window.name or "" for window in users) == ["7", "7 (user=ada)"]


def test_a_job_on_several_nodes_is_one_window() -> None:
    """Labels that name the node, as in Kubernetes, do not tell jobs apart. Nor do those of replicas."""
    nodes = [ran(gpu, (300, 600), user="ada", node=f"n{gpu}", pod=f"p-{gpu}") for gpu in range(3)]
    (window,) = found(*nodes)
    assert (window.gpus, window.name) == (("GPU-0", "GPU-1", "GPU-2"), "7")
    replicas = [ran(gpu, (300, 600), replica=replica) for gpu in range(2) for replica in "ab"]
    (window,) = found(*replicas)
    assert (window.gpus, window.name) == (("GPU-0", "GPU-1"), "7")
    racks = [ran(gpu, (300, 600), rack=f"r{gpu}") for gpu in range(2)]
    (window,) = found(*racks, node_label="rack")
    assert window.gpus == ("GPU-0", "GPU-1")


def other(gpu: int, job_id: str, *scrapes: int, **labels: str) -> list[str]:
    """Another job on a GPU, in some scrapes [s]."""
    own = {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "instance": f"n{gpu}:9955", "job": "llem"}
    return series("llem_gpu_job_info", {**own, "job_id": job_id, **labels}, [(s * 1000, 1) for s in scrapes])


def test_a_shared_gpu_has_a_warning() -> None:
    """Other jobs that were seen on a GPU between the first and last scrape with the job are named."""
    (window,) = found(
        ran(0, (300, 600)),
        ran(1, (300, 600)),
        other(0, "9", 315, 330),
        other(0, "8", 450),
        other(2, "6", 450),
    )
    (warning,) = window.warnings
    assert (warning.code, warning.uuid) == (WarningCode.GPU_SHARED, "GPU-0")
    assert "8, 9;" in warning.message
    (ada, eve) = found(ran(0, (300, 600), user="ada"), other(0, "7", 435, 450, 465, user="eve"))
    assert [warning.message[:61] for warning in (*ada.warnings, *eve.warnings)] == [
        "other jobs were on this GPU at the same time: 7; the joules a"
    ] * 2


def test_jobs_before_and_after_share_nothing() -> None:
    """A job that was seen last when this one was seen first, or that followed it, is not on a shared GPU."""
    (window,) = found(ran(0, (300, 600)), other(0, "6", 270, 285, 300), other(0, "8", 585, 600, 615))
    assert window.warnings == ()


def test_many_others_are_counted() -> None:
    """The warning names ten jobs and says how many more there are."""
    (window,) = found(ran(0, (300, 600)), *(other(0, f"{900 + job}", 450) for job in range(12)))
    (warning,) = window.warnings
    assert "908, 909 and 2 more" in warning.message


def test_a_divided_gpu_has_a_warning() -> None:
    """A job may have had a slice only of a GPU with MIG slices."""
    mig = {"gpu": "0", "uuid": "GPU-0", "instance": "n0:9955", "mig_uuid": "MIG-1", "profile": "3g.40gb"}
    slices = series("llem_gpu_mig_info", mig, [(450_000, 1)])
    (window,) = found(ran(0, (300, 600)), ran(1, (300, 600)), slices)
    (warning,) = window.warnings
    assert (warning.code, warning.uuid) == (WarningCode.MIG_SLICE, "GPU-0")


def test_a_job_that_is_not_shown() -> None:
    """The error says whether there are jobs at all."""
    with pytest.raises(
        SourceError, match=r"page has no job '8' in llem_gpu_job_info in the last 400 days; check"
    ):
        found(ran(0, (300, 600)), job="8")
    with pytest.raises(SourceError, match=r"page has no llem_gpu_job_info.*--jobs\.dir"):
        found(ran(0), job="8")
    with pytest.raises(SourceError, match=r"in only one scrape.*--window"):
        found(ran(0, (300, 310)))
    with pytest.raises(ConfigError, match="needs the ID"):
        found(ran(0, (300, 600)), job="")
    with pytest.raises(SourceError, match="no series of job '7' match --match; without --match, the job is"):
        find_job(parse(page(ran(0, (300, 600))), "page"), "7", [(Matcher("gpu", "=", "5"),)], now_us=NOW_US)


def test_an_exporter_shows_no_jobs() -> None:
    """The history of an exporter has no jobs. The error says what to use instead."""
    source = ExporterSource(Http("http://127.0.0.1:9", None))
    with pytest.raises(ConfigError, match=r"--job 7 needs a Prometheus that scrapes /metrics of http://127"):
        find_job(source, "7")


def test_a_job_in_a_step_of_the_search_that_ended_long_ago() -> None:
    """Jobs are searched for in steps, of which no query covers more than 30 days."""
    early = list(range(0, 3600, 15))
    late = [s + 86_400 * 40 for s in early]
    (window,) = find_job(
        parse(page(ran(0, (300, 600), scrapes=early), ran(1, scrapes=late)), "page"),
        "7",
        now_us=NOW_US + 86_400_000_000 * 45,
    )
    assert shown([window]) == [(300, 585, ("GPU-0",))]
