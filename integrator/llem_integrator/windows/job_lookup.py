"""The windows and GPUs of a job, by the llem_gpu_job_info that was scraped while it ran."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_core import metrics
from llem_core.errors import ConfigError, SourceError
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.series.matchers import any_of
from llem_integrator.series.samples import Key, Series, Times, auto_max_gap_ms
from llem_integrator.stores import Matcher, Progress, Selector, Source, whole
from llem_integrator.stores.fetch import quiet, shown
from llem_integrator.windows.job_runs import SLACK_MS, Stretch, runs, stretches
from llem_integrator.windows.window import Window

LOOK_BACK_DAYS: Final = 400
"""Jobs are searched for this far back. Most stores keep less."""

_INFO: Final = metrics.GPU_JOB_INFO.name
_OWNER: Final = ("user", "account", "partition")
_OF_ONE_GPU: Final = frozenset(
    {"gpu", "uuid", "job_id", "instance", "node", "nodename", "host", "hostname", "host_ip", "pod", "pod_ip"}
)
"""Labels that say nothing about whether two GPUs belong to one job, because each node has its own value."""

_SHOWN_JOBS: Final = 10


def find_job(
    source: Source,
    job_id: str,
    selectors: Sequence[Selector] = ((),),
    *,
    node_label: str = "instance",
    now_us: int | None = None,
    progress: Progress = lambda _: None,
) -> list[Window]:
    """Return the windows of a job with its GPUs, one for each time it ran.

    A window goes from the first scrape that saw the job to the last, so up to one scrape interval is missing
    at either end. Jobs with the same ID are distinguished by user, account, partition and the labels of the
    target, except those that name the node (instance, `node_label`, pod, ...), and have different names. A
    window has a warning if other jobs were on its GPUs, or if these were divided into MIG slices.
    `now_us` is the time now in unix microseconds. `progress` is called with the fraction of the search that
    is done. Raises ConfigError without an ID and for an exporter, and SourceError if no scrape shows the job.
    """
    if not job_id:
        raise ConfigError("--job needs the ID of a job")
    _refuse_exporter(source, job_id)
    now_ms = (time.time_ns() // 1000 if now_us is None else now_us) // 1000
    series = _job_series(source, job_id, selectors, now_ms, progress)
    if not series:
        raise SourceError(_not_found(source, job_id, selectors, now_ms))
    jobs = _told_apart(series, node_label)
    names = _names(job_id, jobs)
    windows = [
        window
        for job, name in zip(jobs, names, strict=True)
        for window in _windows(source, job, name, selectors)
    ]
    if not windows:
        raise SourceError(
            f"{source.address} shows job {job_id!r} in only one scrape, so its duration is unknown: "
            "use --window"
        )
    return windows


def _refuse_exporter(source: Source, job_id: str) -> None:
    from llem_integrator.stores.exporter import ExporterSource

    if isinstance(source, ExporterSource):
        raise ConfigError(
            f"--job {job_id} needs a Prometheus that scrapes /metrics of {source.address}, because the "
            f"exporter's /history does not contain {_INFO}; or give --window and --gpus"
        )


def _job_series(
    source: Source, job_id: str, selectors: Sequence[Selector], now_ms: int, progress: Progress
) -> list[Series]:
    """Return the series of the job in everything that the store has."""
    wanted = [(*selector, Matcher("job_id", "=", job_id)) for selector in selectors]
    return _samples(source, _INFO, wanted, _first_ms(now_ms), now_ms, progress)


def _first_ms(now_ms: int) -> int:
    return max(0, now_ms - LOOK_BACK_DAYS * 86_400_000)


def _not_found(source: Source, job_id: str, selectors: Sequence[Selector], now_ms: int) -> str:
    if any(selectors) and _job_series(source, job_id, ((),), now_ms, quiet):
        return f"no series of job {job_id!r} match --match; without --match, the job is there"
    pieces = source.pieces(_INFO, (), _first_ms(now_ms), now_ms)
    if any(len(series) for piece in pieces for series in piece.series):
        return (
            f"{source.address} has no job {job_id!r} in {_INFO} in the last {LOOK_BACK_DAYS} days; "
            "check the ID (it is the label job_id)"
        )
    return (
        f"{source.address} has no {_INFO} in the last {LOOK_BACK_DAYS} days: "
        "start the exporters with --jobs.dir, or give --window"
    )


@dataclass(slots=True)
class _Job:
    """The series of one job, and what tells it from others with its ID."""

    keys: set[Key]
    series: list[Series]

    @property
    def uuids(self) -> set[str]:
        return {series.labels["uuid"] for series in self.series}


def _told_apart(every: Iterable[Series], node_label: str) -> list[_Job]:
    """Return the jobs that have the same ID, in the order of their starts.

    Series of one owner on one GPU are of one job, whatever their other labels: replicas have their own.
    """
    by_key: defaultdict[Key, list[Series]] = defaultdict(list)
    for series in every:
        apart = {*series.labels} - _OF_ONE_GPU - {node_label}
        by_key[tuple(sorted((name, series.labels[name]) for name in apart))].append(series)
    jobs: list[_Job] = []
    for key, group in by_key.items():
        job = _Job({key}, group)
        for other in [other for other in jobs if _is_same(job, other)]:
            jobs.remove(other)
            job = _Job(job.keys | other.keys, other.series + job.series)
        jobs.append(job)
    return sorted(jobs, key=lambda job: (min(int(one.unix_ms[0]) for one in job.series), sorted(job.keys)))


def _is_same(job: _Job, other: _Job) -> bool:
    return _owner(job.series[0]) == _owner(other.series[0]) and not job.uuids.isdisjoint(other.uuids)


def _owner(series: Series) -> tuple[str, ...]:
    return tuple(series.labels.get(name, "") for name in _OWNER)


def _names(job_id: str, jobs: Sequence[_Job]) -> Iterator[str]:
    """Yield a name for each job: its ID, and the labels that tell it from the others."""
    labels = sorted({label for job in jobs for key in job.keys for label, _ in key})
    values = [[sorted({dict(key).get(label, "") for key in job.keys}) for label in labels] for job in jobs]
    for own in values:
        differing = [
            f"{label}={own_values[0]}"
            for label, own_values, *others in zip(labels, own, *values, strict=True)
            if own_values[0] and any(other_values != own_values for other_values in others)
        ]
        yield f"{job_id} ({', '.join(differing)})" if differing else job_id


def _windows(source: Source, job: _Job, name: str, selectors: Sequence[Selector]) -> Iterator[Window]:
    by_gpu: defaultdict[str, list[Times]] = defaultdict(list)
    for series in job.series:
        by_gpu[series.labels["uuid"]].append(series.unix_ms)
    seen_ms = {uuid: np.unique(np.concatenate(parts)) for uuid, parts in by_gpu.items()}
    free_ms = _without_it(source, job, seen_ms, selectors) if _may_have_stopped(seen_ms) else {}
    never = np.zeros(0, np.int64)
    for stretch in stretches(
        run for uuid in seen_ms for run in runs(uuid, seen_ms[uuid], free_ms.get(uuid, never))
    ):
        if stretch.end_ms > stretch.start_ms:
            yield Window(
                stretch.start_ms * 1000,
                stretch.end_ms * 1000,
                name,
                gpus=tuple(stretch.runs),
                warnings=(*_shared(source, stretch, job), *_divided(source, stretch)),
            )


def _may_have_stopped(seen_ms: Mapping[str, Times]) -> bool:
    """Return whether a GPU was without the job for a while, or some GPUs had it for longer than others."""
    for times in seen_ms.values():
        gap_ms = auto_max_gap_ms(times)
        if gap_ms is not None and np.any(np.diff(times) > gap_ms / 2):
            return True
    edges = np.array([(times[0], times[-1]) for times in seen_ms.values()])
    return bool(np.any(np.ptp(edges, axis=0) > SLACK_MS))


def _without_it(
    source: Source, job: _Job, seen_ms: Mapping[str, Times], selectors: Sequence[Selector]
) -> dict[str, Times]:
    """Return, by GPU, the scrapes of the exporters that showed the job in which it was not on that GPU."""
    start_ms = min(int(times[0]) for times in seen_ms.values())
    end_ms = max(int(times[-1]) for times in seen_ms.values())
    wanted = [(*selector, gpus) for selector in selectors for gpus in any_of("uuid", seen_ms)]
    showing = {(series.labels["uuid"], series.labels.get("instance")) for series in job.series}
    scraped: defaultdict[str, list[Times]] = defaultdict(list)
    # This metric is on /metrics as long as the exporter knows the GPU.
    for series in _samples(source, metrics.GPU_INTEGRATED.name, wanted, start_ms, end_ms):
        uuid = series.labels["uuid"]
        if (uuid, series.labels.get("instance")) in showing:
            scraped[uuid].append(series.unix_ms)
    return {uuid: np.setdiff1d(np.concatenate(times), seen_ms[uuid]) for uuid, times in scraped.items()}


def _shared(source: Source, stretch: Stretch, job: _Job) -> Iterator[MeasurementWarning]:
    """Yield a warning for each GPU on which another job was seen between two scrapes that saw this one."""
    own = job.series[0].labels["job_id"], _owner(job.series[0])
    others: defaultdict[str, set[str]] = defaultdict(set)
    wanted = [(gpus,) for gpus in any_of("uuid", stretch.runs)]
    for series in _samples(source, _INFO, wanted, stretch.start_ms, stretch.end_ms):
        run, job_id = stretch.runs[series.labels["uuid"]], series.labels.get("job_id", "")
        between = (series.unix_ms > run.start_ms) & (series.unix_ms < run.end_ms)
        if (job_id, _owner(series)) != own and np.any(between):
            others[run.uuid].add(job_id)
    for uuid, job_ids in others.items():
        shown = sorted(job_ids)[:_SHOWN_JOBS]
        more = f" and {len(job_ids) - _SHOWN_JOBS} more" if len(job_ids) > _SHOWN_JOBS else ""
        text = f"other jobs were on this GPU at the same time: {', '.join(shown)}{more}"
        yield MeasurementWarning(
            WarningCode.GPU_SHARED, f"{text}; the joules are those of the whole GPU", uuid
        )


def _divided(source: Source, stretch: Stretch) -> Iterator[MeasurementWarning]:
    """Yield a warning for each GPU that had MIG slices."""
    wanted = [(gpus,) for gpus in any_of("uuid", stretch.runs)]
    slices = _samples(source, metrics.GPU_MIG_INFO.name, wanted, stretch.start_ms, stretch.end_ms)
    uuids = {series.labels["uuid"] for series in slices}
    for uuid in stretch.runs:
        if uuid in uuids:
            text = "this GPU was divided into MIG slices; the joules are those of the whole GPU"
            yield MeasurementWarning(WarningCode.MIG_SLICE, text, uuid)


def _samples(
    source: Source,
    metric: str,
    selectors: Sequence[Selector],
    start_ms: int,
    end_ms: int,
    progress: Progress = quiet,
) -> list[Series]:
    """Return the series of any of the selectors, each label set once."""
    by_labels: dict[Key, Series] = {}
    for selector in selectors:
        pieces = source.pieces(metric, selector, start_ms, end_ms)
        for series in whole(shown(pieces, start_ms, end_ms, progress)):
            if len(series) and series.labels.get("uuid"):
                by_labels.setdefault(series.key, series)
    return list(by_labels.values())
