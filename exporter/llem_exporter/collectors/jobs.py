"""llem_gpu_job_info: a thread reads the job files, and collect() publishes what it read last."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client.registry import Collector

from llem_core import metrics
from llem_core.errors import LLEMError
from llem_exporter.collectors.builder import CollectorState, Family, MetricBuilder
from llem_exporter.collectors.job_files import Listing
from llem_measure.sampling.devices import DeviceInfo

COLLECTOR: Final = "jobs"
PERIOD_SECONDS: Final = 1.0
STALE_SECONDS: Final = 3.0
"""Jobs that were read longer ago are not published: the directory hangs, and the jobs may have ended."""

_log = logging.getLogger(__name__)


class _Reading(NamedTuple):
    """The jobs, when they were read, and how long that took."""

    listing: Listing
    monotonic_s: float
    duration_s: float


class JobsCollector(Collector):
    """The jobs of this node's GPUs. A thread reads them, so a file system that hangs delays no scrape.

    `gpus` returns this node's GPUs. `read` returns the jobs of GPUs by their UUIDs in lower case, or raises
    LLEMError.
    """

    def __init__(
        self,
        read: Callable[[Collection[str]], Listing],
        gpus: Callable[[], Iterable[DeviceInfo]],
        *,
        period_s: float = PERIOD_SECONDS,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._gpus = read, gpus
        self._period_s, self._monotonic_s = period_s, monotonic_s
        self._stopped = threading.Event()
        self._reading = _Reading(Listing(), float("-inf"), 0.0)

    def start(self) -> None:
        """Start the thread that reads the jobs every `period_s`."""
        threading.Thread(target=self._keep_reading, name="jobs", daemon=True).start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()

    def read(self) -> None:
        """Read the jobs once. Log a problem when it appears, changes or ends."""
        start_s, before = self._monotonic_s(), self._reading.listing.problem
        try:
            listing = self._read({info.uuid.lower() for info in self._gpus()})
        except LLEMError as exc:
            listing = Listing(problems=(str(exc),))
        if listing.problem and listing.problem != before:
            _log.warning("jobs: %s", listing.problem)
        elif before and not listing.problem:
            _log.info("jobs: every job file can be read again")
        now_s = self._monotonic_s()
        self._reading = _Reading(listing, now_s, now_s - start_s)

    def collect(self) -> Iterator[Family]:
        """Return the jobs that were read last, unless they are stale."""
        reading = self._reading
        families = MetricBuilder()
        gpus = {info.uuid.lower(): (str(info.index), info.uuid) for info in self._gpus()}
        for job in reading.listing.jobs if self._is_fresh(reading) else ():
            if gpu := gpus.get(job.uuid):
                labels = (*gpu, job.job_id, job.user, job.account, job.partition)
                families.add(metrics.GPU_JOB_INFO, labels, 1)
        return families.metrics()

    def state(self) -> CollectorState:
        """Return whether every job file was read in the last seconds, and how long the last reading took."""
        reading = self._reading
        success = self._is_fresh(reading) and not reading.listing.problem
        return CollectorState(COLLECTOR, success, reading.duration_s)

    def _is_fresh(self, reading: _Reading) -> bool:
        return self._monotonic_s() - reading.monotonic_s <= STALE_SECONDS

    def _keep_reading(self) -> None:
        while not self._stopped.is_set():
            self.read()
            self._stopped.wait(self._period_s)
