"""Results of real integrations, for what shows them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llem_integrator import Request, Window, WindowResult, open_source, run
from tests.llem_integrator.pages import T0, page, scraped, trace

BEGIN = T0 // 1000


def file_of(folder: Path, *parts: list[str]) -> str:
    """The path of an OpenMetrics file of these parts."""
    path = folder / "page.om"
    path.write_text(page(*parts))
    return str(path)


def two_gpus(folder: Path) -> str:
    """Two GPUs of 100 and 250 W for two minutes, scraped each 5 s, the first with a trace that has a gap."""
    samples = [(ms, 100.0) for ms in range(0, 120_000, 100) if not 50_000 < ms < 58_000]
    return file_of(folder, scraped(0), trace(0, samples), scraped(1, watts=250.0))


def results_of(path: str, *spans: tuple[float, float], request: Request | None = None) -> list[WindowResult]:
    """The results of windows, in seconds after the page's begin."""
    windows = [Window.between(BEGIN + start, BEGIN + end) for start, end in spans]
    return list(run(open_source(path), windows, request))


def many(result: WindowResult, windows: int, gpus: int) -> Iterator[WindowResult]:
    """A result again and again, its first GPU many times, each time with other numbers."""
    first = result.gpus[0]
    for number in range(windows):
        changed = tuple(
            first._replace(uuid=f"GPU-{gpu}", gpu=str(gpu), joules=number + gpu / 7) for gpu in range(gpus)
        )
        yield replace(result, name=f"job {number}", gpus=changed, per_gpu_j={})
