"""CodeCarbon's estimate of the node."""

import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import GpuBackend, Tracker
from llem_measure.backends.emissions_tracker import (
    INSTALL,
    Totals,
    import_codecarbon,
    open_tracker,
    sees_gpus,
)
from llem_measure.backends.measured_gpu import GpuState, OpenGpu, for_each, list_indices
from llem_measure.nvml.calls import DRIVER_SECONDS, NoAnswerError, call_all
from llem_measure.nvml.discovery import Gpu, find_gpus
from llem_measure.nvml.handles import handle_of
from llem_measure.sampling.counter.scope import GPU_SCOPE, MODULE_SCOPE
from llem_measure.sampling.ticks import WallClock

START_SECONDS: Final = 10.0
"""CodeCarbon may take so long to start, however short the driver's timeout: it looks for all hardware."""


class CodeCarbonTracker(Tracker):
    """A measurement in progress: CodeCarbon's running tracker, and its GPUs."""

    def __init__(self, gpus: Sequence[Gpu], driver_timeout_s: float, country_iso_code: str | None) -> None:
        super().__init__()
        self._gpus = for_each(gpus, OpenGpu, driver_timeout_s)
        self._with_grams = country_iso_code is not None
        self._unix_offset_s = WallClock(100).mapping.offset_s
        self._tracker, self._totals, self._start_s = _start(gpus, country_iso_code, driver_timeout_s)
        self._end_when_forgotten(partial(_stop_in_thread, self._tracker, self._pid))

    def _end(self) -> EnergyMeasurement:
        states = call_all({gpu.gpu.index: partial(_read_end, gpu) for gpu in self._gpus})
        begun_s = time.monotonic()
        if len(states) == len(self._gpus):
            self._tracker.stop()
        else:  # a GPU hangs, and the stop would not return
            _stop_in_thread(self._tracker, self._pid)
        end_s = (begun_s + time.monotonic()) / 2
        warnings = list(measurement_warnings.of_window(end_s - self._start_s))
        for gpu in self._gpus:
            warnings += gpu.warnings(states.get(gpu.gpu.index))
        lost = [gpu.gpu for gpu in self._gpus if not isinstance(states.get(gpu.gpu.index), GpuState)]
        # CodeCarbon counts 0 W for a lost GPU, from an instant that it does not report.
        total_j = None if lost else _joules(self._totals, bool(self._gpus))
        if total_j is None:
            reasons = [f"GPU {gpu.index} is lost" for gpu in lost] or [_why_nothing(bool(self._gpus))]
            warnings.append(measurement_warnings.unavailable(reasons))
        return self._measured(total_j, end_s, warnings)

    def _measured(
        self, total_j: float | None, end_s: float, warnings: list[MeasurementWarning]
    ) -> EnergyMeasurement:
        is_module = any(gpu.device.info.module for gpu in self._gpus)
        if is_module:
            text = "CodeCarbon may count a superchip's whole module for each of its GPUs; use zeus or nvml"
            warnings.append(MeasurementWarning(WarningCode.SOURCE_WARNING, text))
        grams = None
        if not self._with_grams:
            text = "no grams of CO2 without a country: CodeCarbonBackend(country_iso_code='DEU')"
            warnings.append(MeasurementWarning(WarningCode.EMISSIONS_UNAVAILABLE, text))
        elif total_j is not None:
            # CodeCarbon's grams are of CPU, memory and GPUs together; the joules are of a part of them.
            grams = self._totals["grams"] * total_j / sum(self._totals["joules"].values())
        is_measured, is_one_gpu = total_j is not None, len(self._gpus) == 1
        return EnergyMeasurement(
            total_j=total_j,
            duration_sec=end_s - self._start_s,
            samples=2 if is_measured else 0,
            per_gpu_j={self._gpus[0].gpu.index: total_j} if total_j is not None and is_one_gpu else None,
            start_unix_s=self._start_s + self._unix_offset_s,
            end_unix_s=end_s + self._unix_offset_s,
            coverage=float(is_measured),
            backend=Backend.CODECARBON,
            scope=MODULE_SCOPE if is_module else GPU_SCOPE if self._gpus else "node",
            warnings=tuple(warnings),
            emissions_g=grams,
        )


class CodeCarbonBackend(GpuBackend):
    """CodeCarbon's energy of all GPUs together, or of CPU and memory if there is no GPU.

    `country_iso_code` (ISO 3166 alpha-3, for example DEU) is needed for grams of CO2 only. `gpu_indices` are
    NVML's; None means the visible GPUs, if any. A GPU's first call may take `driver_timeout_s`.
    """

    name = Backend.CODECARBON.value

    def __init__(
        self,
        country_iso_code: str | None = None,
        gpu_indices: Sequence[int] | None = None,
        *,
        driver_timeout_s: float = DRIVER_SECONDS,
    ) -> None:
        super().__init__(gpu_indices, driver_timeout_s)
        self._country_iso_code = country_iso_code
        self._checked = False

    def check(self) -> str:
        """Return what the backend measures here. Raises ConfigError with the reason if it cannot."""
        if find_spec("codecarbon") is None:
            raise ConfigError(f"codecarbon is not installed; {INSTALL}")
        gpus = self._find_gpus()
        tracker, totals, _ = _start(gpus, self._country_iso_code, self._driver_timeout_s)
        tracker.stop()
        if not totals:  # it logs its errors and raises none
            raise ConfigError("CodeCarbon does not start here; run 'codecarbon detect' to find the cause")
        self._checked = True
        return f"counts GPU {list_indices(gpus)} together" if gpus else "estimates CPU and memory; no GPU"

    def start_tracking(self) -> CodeCarbonTracker:
        """Start to measure. Raises ConfigError if CodeCarbon does not start."""
        if not self._checked:  # CodeCarbon's first start takes seconds, which must not be in the window
            self.check()
        return CodeCarbonTracker(self._find_gpus(), self._driver_timeout_s, self._country_iso_code)

    def _find_gpus(self) -> Sequence[Gpu]:
        """Return the GPUs to measure. Raises ConfigError if any GPU hangs: CodeCarbon opens all of them."""
        try:
            visible = find_gpus(None, self._driver_timeout_s)
        except NoAnswerError:
            raise
        except ConfigError:  # NVML cannot be opened
            visible = ()
        if self._gpu_indices is None:
            return visible
        return find_gpus(self._gpu_indices, self._driver_timeout_s) if self._gpu_indices else ()


def _start(
    gpus: Sequence[Gpu], country_iso_code: str | None, driver_timeout_s: float
) -> tuple[Any, Totals, float]:
    """Return CodeCarbon's running tracker of these GPUs, its totals, and the monotonic time of its start [s].

    Raises ConfigError for all of its errors, and if it does not start in time.
    """
    import_codecarbon()  # which takes seconds, and calls no driver
    given_up = threading.Event()

    def start() -> tuple[Any, Totals, float]:
        tracker, totals = open_tracker([gpu.index for gpu in gpus], country_iso_code)
        begun_s = time.monotonic()
        tracker.start()
        if given_up.is_set():
            tracker.stop()
        return tracker, totals, (begun_s + time.monotonic()) / 2

    timeout_s = max(driver_timeout_s, START_SECONDS)
    started = call_all({0: start}, timeout_s).get(0)
    if started is None:
        given_up.set()
        raise NoAnswerError(f"CodeCarbon has not started for {timeout_s:g} s; see dmesg")
    if isinstance(started, ConfigError):
        raise started
    if isinstance(started, Exception):
        raise ConfigError(f"CodeCarbon does not start: {measurement_warnings.describe(started)}") from started
    return started


def _stop_in_thread(tracker: Any, pid: int) -> None:
    """Stop CodeCarbon's tracker without waiting, in the process in which its threads run."""
    if os.getpid() == pid:
        threading.Thread(target=tracker.stop, name="codecarbon-stop", daemon=True).start()


def _read_end(gpu: OpenGpu) -> GpuState:
    """Return the GPU's state at the end. Raises DeviceError if it is lost."""
    handle_of(gpu.gpu.uuid)
    return gpu.read_state()


def _joules(totals: Totals, gpus_asked_for: bool) -> float | None:
    """Return the joules, or None for 0: CodeCarbon counts 0 for a GPU that it cannot read."""
    joules: dict[str, float] = totals.get("joules", {})
    components = ("gpu",) if gpus_asked_for else ("cpu", "ram")
    return sum(joules.get(component, 0.0) for component in components) or None


def _why_nothing(gpus_asked_for: bool) -> str:
    if not gpus_asked_for:
        return "CodeCarbon did not start, or found neither CPU nor memory"
    if not sees_gpus():
        return (
            "CodeCarbon needs nvidia-smi to find GPUs, but 'nvidia-smi --help' fails; "
            "check that nvidia-smi is in PATH"
        )
    return "CodeCarbon did not start, or can read neither the counters nor the power of the GPUs"
