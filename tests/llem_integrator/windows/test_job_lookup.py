"""--job: the stretches in which scrapes saw a job, and on which GPUs."""

from collections.abc import Iterable, Sequence

import pytest

from llem_core.errors import SourceError
from llem_integrator.stores import Selector
from llem_integrator.text.openmetrics import parse
from llem_integrator.windows.job_lookup import find
from llem_integrator.windows.window import Window
from tests.llem_integrator.pages import T0, page, series

NOW_US = (T0 + 86_400_000) * 1000


def ran(
    gpu: int, *stretches: tuple[int, int], scrapes: Sequence[int] = range(0, 3600, 15), **labels: str
) -> list[str]:
    """One GPU's scrapes [s], and the job in those of some stretches."""
    own = {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "instance": f"n{gpu}:9955", "job": "llem"}
    shown = [s for s in scrapes if any(start <= s < end for start, end in stretches)]
    lines = series("llem_gpu_job_info", {**own, "job_id": "7", **labels}, [(s * 1000, 1) for s in shown])
    return lines + series("llem_gpu_integrated_seconds_total", own, [(s * 1000, float(s)) for s in scrapes])


def found(*parts: list[str], job: str = "7", selectors: Sequence[Selector] = ((),)) -> list[Window]:
    return find(parse(page(*parts), "page"), job, selectors, NOW_US, lambda _: None)


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
