"""CodeCarbon's counters for /metrics: a worker process measures, a thread keeps what it last said."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llem_core import metrics
from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError, LLEMError
from llem_exporter.codecarbon.process import Worker
from llem_exporter.collectors.builder import MetricBuilder

PERIOD_SECONDS: Final = 5.0
STALE_PERIODS: Final = 3
RESTART_SECONDS: Final = 60.0
START_SECONDS: Final = 60.0
"""How long a worker may take until it has measured for the first time: its imports alone take seconds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Totals:
    """Joules by component and grams of CO2 equivalent since the worker's start, measured at `unix_s`.

    CodeCarbon took `duration_s` for that.
    """

    unix_s: float
    duration_s: float
    joules: dict[str, float]
    grams: float | None
    version: str
    region: str


class Carbon:
    """The worker and its newest totals.

    A worker that dies, or measures nothing for three periods, is started again after a minute. Its totals
    start again from 0: that is a reset, and what nobody measured meanwhile stays visible. One that the
    driver does not let end has no successor before it has ended: else they would pile up.

    `gpu_indices` is asked whenever a worker starts, `gpus_fresh` is whether each of these GPUs is read.
    CodeCarbon counts on without one that is lost: then the gpu joules are withheld, and when it is back a
    new worker starts. `on_state` is told whether CodeCarbon works.
    """

    def __init__(
        self,
        gpu_indices: Callable[[], Sequence[int]],
        country_iso_code: str | None,
        on_state: Callable[[Candidate], None],
        *,
        gpus_fresh: Callable[[], bool] = lambda: True,
        period_s: float = PERIOD_SECONDS,
        restart_s: float = RESTART_SECONDS,
        start_s: float = START_SECONDS,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._gpu_indices = gpu_indices
        self._country_iso_code = country_iso_code
        self._on_state, self._gpus_fresh = on_state, gpus_fresh
        self._period_s, self._restart_s, self._start_s = period_s, restart_s, start_s
        self._unix_s = unix_s
        self._stopped = threading.Event()
        self._worker: Worker | None = None
        self._totals: Totals | None = None
        self._incomplete = False
        self._failure = ""
        self._said: set[str] = set()

    def start(self) -> None:
        """Start the thread that keeps a worker running."""
        threading.Thread(target=self._keep_running, name="codecarbon", daemon=True).start()

    def stop(self) -> None:
        """End the worker; it ends by itself when this process does."""
        self._stopped.set()
        if self._worker is not None:
            self._worker.kill()

    def add_to(self, families: MetricBuilder) -> None:
        """Add what CodeCarbon last measured."""
        totals = self._totals
        complete = not self._incomplete and self._gpus_fresh()
        fresh = totals is not None and self._unix_s() - totals.unix_s <= STALE_PERIODS * self._period_s
        works = fresh and complete and not self._failure
        families.add(metrics.COLLECTOR_SUCCESS, (Backend.CODECARBON,), works)
        if totals is None:
            return
        families.add(metrics.COLLECTOR_DURATION, (Backend.CODECARBON,), totals.duration_s)
        for component, joules in totals.joules.items():
            if complete or component != "gpu":
                families.add(metrics.CODECARBON_ENERGY, (component,), joules)
        families.add(metrics.CODECARBON_EMISSIONS, (), totals.grams)
        families.add(metrics.CODECARBON_TIMESTAMP, (), totals.unix_s)
        place = (self._country_iso_code or "", totals.region)
        families.add(metrics.CODECARBON_INFO, (totals.version, *place, "1"), 1)

    def _keep_running(self) -> None:
        while not self._stopped.is_set():
            try:
                self._run_worker()
            except ConfigError as exc:
                self._failed(str(exc))
                return
            except LLEMError as exc:
                self._rest(str(exc))
            except Exception as exc:  # noqa: BLE001 - whatever it is, another worker may do better
                self._rest(f"{type(exc).__name__}: {exc}")

    def _rest(self, reason: str) -> None:
        """Wait until there may be another worker: this one has to end, and a minute to go by."""
        self._failed(reason)
        while not self._stopped.wait(self._restart_s) and self._worker and not self._worker.ended:
            pass

    def _run_worker(self) -> None:
        """Take in what one worker says until there must be another one."""
        gpu_indices = list(self._gpu_indices())
        settings = {
            "gpu_indices": gpu_indices,
            "country_iso_code": self._country_iso_code,
            "period_s": self._period_s,
        }
        patience_s = self._start_s
        if self._incomplete:
            self._totals, self._incomplete = None, False
        with Worker(settings) as self._worker:
            while not self._stopped.is_set():
                said = self._worker.hear(patience_s)
                patience_s = STALE_PERIODS * self._period_s
                fresh = self._gpus_fresh()
                if fresh and (self._incomplete or gpu_indices != list(self._gpu_indices())):
                    return
                self._incomplete = self._incomplete or not fresh
                self._take(said)

    def _take(self, said: dict[str, Any]) -> None:
        joules, grams = said["joules"], said["grams"]
        if not joules["gpu"] > 0:  # no GPU draws nothing: 0 is what it says of one that it does not see
            del joules["gpu"]
            if self._gpu_indices():
                self._warn("it sees no GPU (does nvidia-smi run?); its gpu joules are left out")
        if self._country_iso_code is None:
            grams = None
            self._warn("no --codecarbon.country-iso-code: joules, but no grams")
        self._totals = Totals(
            said["unix_s"], said["duration_s"], joules, grams, said["version"], said["region"]
        )
        if self._incomplete:
            self._failed("a GPU is not read; the gpu joules without it are left out until it is back")
        else:
            if self._failure:
                _log.info("CodeCarbon: it measures again")
            self._failure = ""
            self._on_state(Candidate(Backend.CODECARBON, 1.0, "measures"))

    def _failed(self, reason: str) -> None:
        """Log and tell a failure, once for as long as it lasts."""
        if reason != self._failure and not self._stopped.is_set():
            self._failure = reason
            _log.warning("CodeCarbon: %s", reason)
            self._on_state(Candidate(Backend.CODECARBON, 0.0, reason))

    def _warn(self, reason: str) -> None:
        """Log each reason once."""
        if reason not in self._said:
            self._said.add(reason)
            _log.warning("CodeCarbon: %s", reason)
