"""A job's own GPUs and times, by the llem_gpu_job_info that was scraped while it ran."""

from collections.abc import Sequence
from typing import Final

from llem_core import metrics
from llem_core.errors import ConfigError, SourceError
from llem_integrator.series import Series
from llem_integrator.sources import Matcher, Progress, Selector, Source, Summary, whole
from llem_integrator.window import Window

_NAME: Final = metrics.GPU_JOB_INFO.name
_DAY_MS: Final = 86_400_000
LOOK_BACK_DAYS: Final = 400
"""How far back a job is looked for; stores keep less as a rule."""


def find(source: Source, job: str, selectors: Sequence[Selector], now_us: int, progress: Progress) -> Window:
    """The window from the first scrape that saw the job to the last, with its GPUs.

    It may have begun and ended up to a scrape interval outside. Raises ConfigError for no name and
    SourceError where the source shows no such job.
    """
    if not job:
        raise ConfigError("--job names no job")
    now_ms = now_us // 1000
    wanted = [(*selector, Matcher("job", "=", job)) for selector in selectors]
    # A scrape's own label "job" pushes that of the exporter aside, unless honor_labels is set.
    wanted += [(*selector, Matcher("exported_job", "=", job)) for selector in selectors]
    found: list[Series] = []
    for done, selector in enumerate(wanted):
        if _seen(source, selector, now_ms):
            first_ms = now_ms - LOOK_BACK_DAYS * _DAY_MS
            pieces = source.pieces(_NAME, selector, first_ms, now_ms, _share(progress, done, len(wanted)))
            found += [one for one in whole(pieces) if len(one) and one.labels.get("uuid")]
    if not found:
        raise SourceError(f"{source.address} shows no job {job!r} in {_NAME}")
    start_ms = min(int(one.unix_ms[0]) for one in found)
    end_ms = max(int(one.unix_ms[-1]) for one in found)
    if end_ms == start_ms:
        raise SourceError(f"{source.address} saw job {job!r} in one scrape only: it has no length")
    gpus = tuple(dict.fromkeys(one.labels["uuid"] for one in found))
    return Window(start_ms * 1000, end_ms * 1000, job, gpus=gpus)


def _seen(source: Source, selector: Selector, now_ms: int) -> bool:
    """Whether any scrape in reach shows it: one small question before the samples are read."""
    first_ms = now_ms - LOOK_BACK_DAYS * _DAY_MS
    return any(True for _ in source.summary(_NAME, selector, first_ms, now_ms, Summary.LAST))


def _share(progress: Progress, done: int, parts: int) -> Progress:
    return lambda share: progress((done + share) / parts)
