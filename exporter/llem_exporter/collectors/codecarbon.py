"""llem_codecarbon_*: a worker process measures, and collect() publishes the newest measurement."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.registry import Collector

from llem_core import metrics
from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError
from llem_exporter.codecarbon.process import Measurement, Worker
from llem_exporter.collectors.builder import CollectorState, Family, MetricBuilder
from llem_measure.backends.measurement_warnings import describe

PERIOD_SECONDS: Final = 5.0
STALE_PERIODS: Final = 3
RESTART_SECONDS: Final = 60.0
START_SECONDS: Final = 60.0
"""Time limit for a worker's first measurement. Importing CodeCarbon alone takes seconds."""

_NO_GPU: Final = (
    "found no GPU, so no gpu joules are published. Check that the exporter's user can run nvidia-smi."
)

_log = logging.getLogger(__name__)


class CodeCarbonCollector(Collector):
    """The newest measurement of a worker process.

    A worker that dies, or sends nothing for three periods, is replaced after a minute. A new worker counts
    from 0, which is a counter reset. A worker that hangs in the driver cannot be killed; the next one is
    started when it has ended.

    `gpu_indices` returns the GPUs to count. `gpus_fresh` returns whether each of them can be read now. If one
    cannot, CodeCarbon counts the others only, so the gpu joules are not published; when it returns, a new
    worker is started.
    """

    def __init__(
        self,
        gpu_indices: Callable[[], Sequence[int]],
        country_iso_code: str | None,
        *,
        gpus_fresh: Callable[[], bool] = lambda: True,
        period_s: float = PERIOD_SECONDS,
        restart_s: float = RESTART_SECONDS,
        start_s: float = START_SECONDS,
    ) -> None:
        self._gpu_indices, self._gpus_fresh = gpu_indices, gpus_fresh
        self._country_iso_code = country_iso_code
        self._period_s, self._restart_s, self._start_s = period_s, restart_s, start_s
        self._stopped = threading.Event()
        self._worker: Worker | None = None
        self._newest: Measurement | None = None
        self._candidate = Candidate(Backend.CODECARBON, 0.0, "no measurement yet")

    @property
    def candidate(self) -> Candidate:
        """CodeCarbon as an energy backend: whether it measures, and why not."""
        return self._candidate

    def state(self) -> CollectorState:
        """Return whether CodeCarbon measures every GPU now, and how long its newest measurement took."""
        success = self._candidate.usable and self._gpus_fresh()
        return CollectorState(Backend.CODECARBON, success, self._newest.duration_s if self._newest else None)

    def start(self) -> None:
        """Start the thread that keeps a worker running."""
        if self._country_iso_code is None:
            _log.warning("CodeCarbon: no emissions are published without --codecarbon.country-iso-code")
        threading.Thread(target=self._keep_running, name="codecarbon", daemon=True).start()

    def stop(self) -> None:
        """Stop the thread and kill the worker."""
        self._stopped.set()
        if self._worker is not None:
            self._worker.kill()

    def collect(self) -> Iterator[Family]:
        """Return the newest measurement."""
        newest, gpus_fresh = self._newest, self._gpus_fresh()
        families = MetricBuilder()
        if newest is not None:
            for component, joules in newest.joules.items():
                if gpus_fresh or component != "gpu":
                    families.add(metrics.CODECARBON_ENERGY, (component,), joules)
            if self._country_iso_code is not None:
                families.add(metrics.CODECARBON_EMISSIONS, (), newest.grams)
            families.add(metrics.CODECARBON_TIMESTAMP, (), newest.unix_s)
            labels = (newest.version, self._country_iso_code or "", newest.region, "1")
            families.add(metrics.CODECARBON_INFO, labels, 1)
        return families.metrics()

    def _keep_running(self) -> None:
        while not self._stopped.is_set():
            try:
                self._run_worker()
            except ConfigError as exc:
                self._update(0.0, str(exc))
                return
            except Exception as exc:  # noqa: BLE001 - another worker may succeed
                self._pause(describe(exc))

    def _pause(self, reason: str) -> None:
        """Wait until another worker may start: after `restart_s`, and after this one has ended."""
        self._update(0.0, reason)
        while not self._stopped.wait(self._restart_s) and self._worker and not self._worker.ended:
            pass

    def _run_worker(self) -> None:
        """Receive the measurements of one worker. Return when it must be replaced."""
        gpu_indices = list(self._gpu_indices())
        country = self._country_iso_code
        settings = {"gpu_indices": gpu_indices, "country_iso_code": country, "period_s": self._period_s}
        timeout_s, lacks_gpu = self._start_s, False
        with Worker(settings) as self._worker:
            while not self._stopped.is_set():
                measurement = self._worker.next_measurement(timeout_s)
                timeout_s = STALE_PERIODS * self._period_s
                fresh = self._gpus_fresh()
                if fresh and (lacks_gpu or gpu_indices != list(self._gpu_indices())):
                    return
                lacks_gpu = lacks_gpu or not fresh
                self._take(measurement, lacks_gpu=lacks_gpu)

    def _take(self, measurement: Measurement, *, lacks_gpu: bool) -> None:
        """Keep a measurement, without gpu joules if they lack a GPU."""
        sees_gpus = measurement.joules["gpu"] > 0  # CodeCarbon counts 0 J for GPUs that it cannot see
        if lacks_gpu or not sees_gpus:
            del measurement.joules["gpu"]
        self._newest = measurement
        if lacks_gpu:
            self._update(0.0, "a GPU cannot be read; gpu joules are not published until it can be read")
        elif self._gpu_indices() and not sees_gpus:
            self._update(1.0, _NO_GPU)
        else:
            self._update(1.0, "measures", logging.INFO)

    def _update(self, coverage: float, reason: str, level: int = logging.WARNING) -> None:
        """Update the candidate, and log the reason if it has changed."""
        if reason != self._candidate.reason and not self._stopped.is_set():
            _log.log(level, "CodeCarbon: %s", reason)
            self._candidate = Candidate(Backend.CODECARBON, coverage, reason)
