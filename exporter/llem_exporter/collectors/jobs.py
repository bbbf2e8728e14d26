"""llem_gpu_job_info for /metrics: a thread reads the job files, the page shows what it last read."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from llem_core import metrics
from llem_core.errors import LLEMError
from llem_exporter.collectors.builder import MetricBuilder
from llem_exporter.collectors.job_files import Job, JobFiles, Listing
from llem_measure.sampling.devices import DeviceInfo

PERIOD_SECONDS: Final = 1.0
STALE_SECONDS: Final = 3.0
"""Jobs that were read longer ago are not shown: the directory hangs, and they may be over."""

COLLECTOR: Final = "jobs"

Read = Callable[[Collection[str]], Listing]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a reading found, when it ended and how long it took; `problem` is "" where all was well."""

    monotonic_s: float
    duration_s: float
    jobs: tuple[Job, ...]
    problem: str


class Jobs:
    """The jobs of a directory, read once a second by a thread: a file system that hangs stops nobody else.

    `gpus` is asked at each reading; `read` gives the jobs of some UUIDs (lower case), or raises LLEMError.
    """

    def __init__(
        self,
        read: Read,
        gpus: Callable[[], Iterable[DeviceInfo]],
        *,
        period_s: float = PERIOD_SECONDS,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._gpus = read, gpus
        self._period_s, self._monotonic_s = period_s, monotonic_s
        self._stopped = threading.Event()
        self._begun_s: float | None = None
        self._reading: _Reading | None = None
        self._said = ""

    @classmethod
    def of(cls, directory: str, gpus: Callable[[], Iterable[DeviceInfo]]) -> "Jobs":
        """The jobs of a directory, which need not be there yet."""
        return cls(JobFiles(directory).read, gpus)

    def start(self) -> None:
        """Start the thread that reads."""
        threading.Thread(target=self._keep_reading, name="jobs", daemon=True).start()

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()

    def read(self) -> None:
        """Read the directory once, and log how that changed."""
        self._begun_s = begun_s = self._monotonic_s()
        jobs: tuple[Job, ...] = ()
        try:
            listing = self._read({info.uuid.lower() for info in self._gpus()})
            jobs, problem = listing.jobs, _summary(listing.refused)
        except LLEMError as exc:
            problem = str(exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the next reading may do better
            problem = f"{type(exc).__name__}: {exc}"
        now_s = self._monotonic_s()
        self._reading, self._begun_s = _Reading(now_s, now_s - begun_s, jobs, problem), None
        if problem != self._said:
            self._said = problem
            if problem:
                _log.warning("jobs: %s", problem)
            else:
                _log.info("jobs: all job files are read again")

    def add_to(self, families: MetricBuilder) -> None:
        """Add the jobs that were read last, unless that is too long ago."""
        now_s, begun_s, reading = self._monotonic_s(), self._begun_s, self._reading
        fresh = reading is not None and now_s - reading.monotonic_s <= STALE_SECONDS
        ok = fresh and reading is not None and not reading.problem
        waited_s = now_s - begun_s if begun_s is not None else 0.0
        took_s = reading.duration_s if reading is not None else 0.0
        families.add(metrics.COLLECTOR_SUCCESS, (COLLECTOR,), ok)
        families.add(metrics.COLLECTOR_DURATION, (COLLECTOR,), max(took_s, waited_s))
        if reading is None or not fresh:
            return
        indices = {info.uuid.lower(): (str(info.index), info.uuid) for info in self._gpus()}
        for job in reading.jobs:
            if gpu := indices.get(job.uuid):
                families.add(metrics.GPU_JOB_INFO, (*gpu, job.job, job.user), 1)

    def _keep_reading(self) -> None:
        while not self._stopped.is_set():
            self.read()
            self._stopped.wait(self._period_s)


def _summary(refused: tuple[str, ...]) -> str:
    """One line on all that was refused."""
    others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return f"{refused[0]}{others}" if refused else ""
