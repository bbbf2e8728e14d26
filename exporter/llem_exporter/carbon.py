"""CodeCarbon's counters for /metrics: a worker process measures, a thread keeps what it last said."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from llem_core import metrics
from llem_core.backend import Backend, Candidate
from llem_exporter.collector import Families

PERIOD_SECONDS: Final = 5.0
STALE_PERIODS: Final = 3
RESTART_SECONDS: Final = 60.0
STOP_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Totals:
    """Joules by component and grams of CO2 equivalent since the worker's start, measured at `unix_s`."""

    unix_s: float
    joules: dict[str, float]
    grams: float | None
    version: str
    region: str


class Carbon:
    """The worker and its newest totals.

    A worker that dies is started again after a minute. Its totals start again from 0: that is a reset,
    and what nobody measured meanwhile stays visible. `on_state` is told whether CodeCarbon works.
    """

    def __init__(
        self,
        gpu_indices: Sequence[int],
        country_iso_code: str | None,
        on_state: Callable[[Candidate], None],
        *,
        period_s: float = PERIOD_SECONDS,
        restart_s: float = RESTART_SECONDS,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._gpu_indices = list(gpu_indices)
        self._country_iso_code = country_iso_code
        self._on_state = on_state
        self._period_s, self._restart_s, self._unix_s = period_s, restart_s, unix_s
        self._stopped = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._totals: Totals | None = None
        self._said: set[str] = set()

    def start(self) -> None:
        """Start the thread that keeps a worker running."""
        threading.Thread(target=self._keep_running, name="codecarbon", daemon=True).start()

    def stop(self) -> None:
        """End the worker; it ends by itself when this process does."""
        self._stopped.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def add_to(self, families: Families) -> None:
        """Add what CodeCarbon last measured."""
        totals = self._totals
        fresh = totals is not None and self._unix_s() - totals.unix_s <= STALE_PERIODS * self._period_s
        families.add(metrics.COLLECTOR_SUCCESS, (Backend.CODECARBON,), fresh)
        if totals is None:
            return
        for component, joules in totals.joules.items():
            families.add(metrics.CODECARBON_ENERGY, (component,), joules)
        families.add(metrics.CODECARBON_EMISSIONS, (), totals.grams)
        families.add(metrics.CODECARBON_TIMESTAMP, (), totals.unix_s)
        place = (self._country_iso_code or "", totals.region)
        families.add(metrics.CODECARBON_INFO, (totals.version, *place, "1"), 1)

    def _keep_running(self) -> None:
        while self._run_worker() and not self._stopped.wait(self._restart_s):
            pass

    def _run_worker(self) -> bool:
        """Take in what one worker says until it ends; whether another one may fare better."""
        settings = {
            "gpu_indices": self._gpu_indices,
            "country_iso_code": self._country_iso_code,
            "period_s": self._period_s,
        }
        command = [sys.executable, "-m", "llem_exporter.carbon_worker"]
        pipe = subprocess.PIPE
        try:
            with subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            ) as self._process:
                _say(self._process.stdin, settings)
                for line in self._process.stdout or ():
                    said = json.loads(line)
                    if "error" in said:
                        self._failed(said["error"])
                        return False
                    self._take(said)
        except OSError as exc:
            self._failed(f"its worker cannot run: {exc}")
        else:
            if not self._stopped.is_set():
                self._failed(f"its worker ended with status {self._process.returncode}")
        return True

    def _take(self, said: dict[str, Any]) -> None:
        joules, grams = said["joules"], said["grams"]
        if not joules["gpu"] > 0:  # no GPU draws nothing: 0 is what it says of one that it does not see
            del joules["gpu"]
            if self._gpu_indices:
                self._warn("it sees no GPU (does nvidia-smi run?); its gpu joules are left out")
        if self._country_iso_code is None:
            grams = None
            self._warn("no --codecarbon.country-iso-code: joules, but no grams")
        self._totals = Totals(said["unix_s"], joules, grams, said["version"], said["region"])
        self._on_state(Candidate(Backend.CODECARBON, 1.0, "measures"))

    def _failed(self, reason: str) -> None:
        self._warn(reason)
        self._on_state(Candidate(Backend.CODECARBON, 0.0, reason))

    def _warn(self, reason: str) -> None:
        """Log each reason once."""
        if reason not in self._said:
            self._said.add(reason)
            _log.warning("CodeCarbon: %s", reason)


def _say(pipe: IO[str] | None, settings: dict[str, Any]) -> None:
    """Give the worker its settings; the pipe stays open, for the worker ends with it."""
    if pipe is not None:
        pipe.write(json.dumps(settings) + "\n")
        pipe.flush()
