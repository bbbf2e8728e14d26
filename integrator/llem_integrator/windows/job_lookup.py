"""A job's own GPUs and times, by the llem_gpu_job_info that was scraped while it ran."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.errors import ConfigError, SourceError
from llem_integrator.fetch import Key, combined, fetch, key_of, quiet
from llem_integrator.series.samples import Series, Times, auto_max_gap_ms
from llem_integrator.stores import Matcher, Progress, Selector, Source, Summary, whole
from llem_integrator.windows.job_runs import SLACK_MS, runs, stretches
from llem_integrator.windows.window import Window

_NAME: Final = metrics.GPU_JOB_INFO.name
_DAY_MS: Final = 86_400_000
LOOK_BACK_DAYS: Final = 400
"""How far back a job is looked for; stores keep less as a rule."""


def find(
    source: Source, job: str, selectors: Sequence[Selector], now_us: int, progress: Progress
) -> list[Window]:
    """From the first scrape that saw the job to the last, with its GPUs; a window each time it ran.

    It may have begun and ended up to a scrape interval outside. Raises ConfigError for no name and
    SourceError where the source shows no such job.
    """
    if not job:
        raise ConfigError("--job names no job")
    found = _shown(source, job, selectors, now_us // 1000, progress)
    if not found:
        raise SourceError(f"{source.address} shows no job {job!r} in {_NAME}")
    times: dict[str, list[Times]] = {}
    for one in found:
        times.setdefault(one.labels["uuid"], []).append(one.unix_ms)
    seen = {uuid: np.unique(np.concatenate(parts)) for uuid, parts in times.items()}
    free = _without_it(source, found, seen, selectors) if _may_have_stopped(seen) else {}
    none = np.zeros(0, np.int64)
    every = stretches(one for uuid in seen for one in runs(uuid, seen[uuid], free.get(uuid, none)))
    windows = [
        Window(one.start_ms * 1000, one.end_ms * 1000, job, gpus=tuple(one.uuids))
        for one in every
        if one.end_ms > one.start_ms
    ]
    if not windows:
        raise SourceError(f"{source.address} saw job {job!r} in one scrape only: it has no length")
    return windows


def _shown(
    source: Source, job: str, selectors: Sequence[Selector], now_ms: int, progress: Progress
) -> list[Series]:
    """The job's series in all that the store has."""
    wanted = [(*selector, Matcher("job_id", "=", job)) for selector in selectors]
    first_ms = now_ms - LOOK_BACK_DAYS * _DAY_MS
    found: dict[Key, Series] = {}
    for done, selector in enumerate(wanted):
        if _seen(source, selector, now_ms):
            pieces = source.pieces(_NAME, selector, first_ms, now_ms, _share(progress, done, len(wanted)))
            found |= {key_of(one): one for one in whole(pieces) if len(one) and one.labels.get("uuid")}
    return list(found.values())


def _may_have_stopped(seen: Mapping[str, Times]) -> bool:
    """Whether the job was not seen for a while on a GPU, or on some GPUs longer than on others."""
    for times in seen.values():
        gap_ms = auto_max_gap_ms(times)
        if gap_ms is not None and np.any(np.diff(times) > gap_ms / 2):
            return True
    edges = np.array([(times[0], times[-1]) for times in seen.values()])
    return bool(np.any(np.ptp(edges, axis=0) > SLACK_MS))


def _without_it(
    source: Source, found: Sequence[Series], seen: Mapping[str, Times], selectors: Sequence[Selector]
) -> dict[str, Times]:
    """By GPU the scrapes, of the exporters that show the job, in which it was not on that GPU."""
    start_ms, end_ms = (int(pick(times[at] for times in seen.values())) for pick, at in ((min, 0), (max, -1)))
    of_gpus = combined([(Matcher("uuid", "=", uuid),) for uuid in seen])
    wanted = [(*selector, *one) for selector in selectors for one in of_gpus]
    showing = {(one.labels["uuid"], one.labels.get("instance")) for one in found}
    scraped: dict[str, list[Times]] = {}
    # Any metric of /metrics that is there as long as the exporter knows the GPU; /history shows no jobs.
    for piece in fetch(source, metrics.GPU_INTEGRATED, wanted, start_ms, end_ms, quiet):
        for one in piece.series:
            uuid = one.labels.get("uuid", "")
            if (uuid, one.labels.get("instance")) in showing:
                scraped.setdefault(uuid, []).append(one.unix_ms)
    return {uuid: np.setdiff1d(np.concatenate(times), seen[uuid]) for uuid, times in scraped.items()}


def _seen(source: Source, selector: Selector, now_ms: int) -> bool:
    """Whether any scrape in reach shows it: one small question before the samples are read."""
    first_ms = now_ms - LOOK_BACK_DAYS * _DAY_MS
    return any(True for _ in source.summary(_NAME, selector, first_ms, now_ms, Summary.LAST))


def _share(progress: Progress, done: int, parts: int) -> Progress:
    return lambda share: progress((done + share) / parts)
