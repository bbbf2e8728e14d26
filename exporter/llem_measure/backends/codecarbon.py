"""CodeCarbon's estimate of the node. Only this module imports codecarbon, when it is used."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import GpuBackend, Tracker
from llem_measure.backends.open_gpu import GpuState, OpenGpu, for_each, list_indices
from llem_measure.nvml.calls import DRIVER_SECONDS, NoAnswerError, call_all
from llem_measure.nvml.discovery import Gpu, find_gpus
from llem_measure.nvml.handles import handle_of
from llem_measure.sampling.energy_scope import GPU_SCOPE, MODULE_SCOPE
from llem_measure.sampling.ticks import WallClock

INSTALL: Final = "pip install 'codecarbon>=3.3'"
_JOULES_PER_KWH: Final = 3.6e6
_GRAMS_PER_KG: Final = 1000.0


def open_tracker(gpu_indices: Sequence[int], country_iso_code: str | None = None, **options: Any) -> Any:
    """Return an OfflineEmissionsTracker of these GPUs (NVML's indices), not started. Raises ConfigError.

    It makes no network request, writes no file, handles no signal and logs nothing below critical. PUE is 1.
    It ignores the user's .codecarbon.config and CODECARBON_* variables. `options` are CodeCarbon's own.
    Without a country, CodeCarbon uses the world's average for the grams. The GPUs, CPU and memory are opened
    here, because start() only logs errors: any exception of CodeCarbon or of the driver is raised.
    """
    library = _import()
    if country_iso_code is not None:
        country_iso_code = country_iso_code.upper()
        if country_iso_code not in library.DataSource().get_global_energy_mix_data():
            raise ConfigError(
                f"CodeCarbon does not know the country {country_iso_code!r}; "
                "use ISO 3166 alpha-3, for example DEU"
            )
    settings: dict[str, Any] = {
        "allow_multiple_runs": True,  # else its lock takes over SIGINT and SIGTERM
        "country_iso_code": country_iso_code,
        "country_2letter_iso_code": None,
        "region": None,
        "cloud_provider": None,
        "cloud_region": None,
        "electricitymaps_api_token": "",  # with None, CodeCarbon uses the user's token and goes online
        "emissions_endpoint": None,
        "force_carbon_intensity_g_co2e_kwh": None,
        "gpu_ids": list(gpu_indices),
        "log_level": "critical",
        "measure_power_secs": 15.0,
        "output_handlers": [],
        "output_methods": [],
        "pue": 1.0,
        "tracking_mode": "machine",
        **options,
    }
    with _quiet():
        tracker = library.OfflineEmissionsTracker(**settings)
        tracker.get_detected_hardware()
    return tracker


def _import() -> Any:
    """Return CodeCarbon's module of trackers. Raises ConfigError."""
    try:
        with _quiet(), _stdout_as_stderr():
            import codecarbon.emissions_tracker as library
    except Exception as exc:
        raise ConfigError(f"codecarbon cannot be imported ({type(exc).__name__}: {exc}); {INSTALL}") from exc
    return library


@contextlib.contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Print to standard error. When CodeCarbon is imported, it looks for AMD's library and prints the error.

    Threads that do so at once need no lock: the one that replaced standard output restores it.
    """
    stdout, stderr = sys.stdout, sys.stderr
    if stdout is stderr:
        yield
        return
    sys.stdout = stderr
    try:
        yield
    finally:
        sys.stdout = stdout


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what CodeCarbon logs before it applies its own log_level."""
    log = logging.getLogger("codecarbon")
    log.addFilter(_is_critical)
    try:
        yield
    finally:
        log.removeFilter(_is_critical)


def _is_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


class CodeCarbonTracker(Tracker):
    """A measurement in progress: CodeCarbon's running tracker, and its GPUs."""

    def __init__(self, gpus: Sequence[Gpu], driver_timeout_s: float, country_iso_code: str | None) -> None:
        super().__init__()
        self._tracker = _open(gpus, country_iso_code)
        self._with_grams = country_iso_code is not None
        self._gpus = for_each(gpus, OpenGpu, driver_timeout_s)
        self._unix_offset_s = WallClock(100).mapping.offset_s
        self._end_when_forgotten(partial(_stop_in_thread, self._tracker, self._pid))
        begun_s = time.monotonic()
        self._tracker.start()
        self._start_s = (begun_s + time.monotonic()) / 2

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
        data = None if lost else getattr(self._tracker, "final_emissions_data", None)
        total_j = _joules(data, bool(self._gpus))
        if total_j is None:
            reasons = [f"GPU {gpu.index} is lost" for gpu in lost] or [_why_nothing(bool(self._gpus))]
            warnings.append(measurement_warnings.unavailable(reasons))
        return self._measured(data, total_j, end_s, warnings)

    def _measured(
        self, data: Any, total_j: float | None, end_s: float, warnings: list[MeasurementWarning]
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
            all_j = data.energy_consumed * _JOULES_PER_KWH
            grams = data.emissions * _GRAMS_PER_KG * total_j / all_j
        per_gpu_j = None if total_j is None else {gpu.gpu.index: total_j for gpu in self._gpus}
        return EnergyMeasurement(
            total_j=total_j,
            duration_sec=end_s - self._start_s,
            samples=0 if total_j is None else 2,
            per_gpu_j=per_gpu_j if len(self._gpus) == 1 else None,
            start_unix_s=self._start_s + self._unix_offset_s,
            end_unix_s=end_s + self._unix_offset_s,
            coverage=float(total_j is not None),
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
        tracker = _open(gpus, self._country_iso_code)
        tracker.start()
        tracker.stop()
        if getattr(tracker, "final_emissions_data", None) is None:  # it logs its errors and raises none
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


def _open(gpus: Sequence[Gpu], country_iso_code: str | None) -> Any:
    """Return CodeCarbon's tracker of these GPUs. Raises ConfigError for all of its errors."""
    try:
        return open_tracker([gpu.index for gpu in gpus], country_iso_code)
    except ConfigError:
        raise
    except Exception as exc:
        raise ConfigError(f"CodeCarbon does not start: {type(exc).__name__}: {exc}") from exc


def _stop_in_thread(tracker: Any, pid: int) -> None:
    """Stop CodeCarbon's tracker without waiting, in the process in which its threads run."""
    if os.getpid() == pid:
        threading.Thread(target=tracker.stop, name="codecarbon-stop", daemon=True).start()


def _read_end(gpu: OpenGpu) -> GpuState:
    """Return the GPU's state at the end. Raises DeviceError if it is lost."""
    handle_of(gpu.gpu.uuid)
    return gpu.read_state()


def _joules(data: Any, gpus_asked_for: bool) -> float | None:
    """Return the joules, or None for 0: CodeCarbon counts 0 for a GPU that it cannot read."""
    if data is None:
        return None
    kwh = data.gpu_energy if gpus_asked_for else data.cpu_energy + data.ram_energy
    return kwh * _JOULES_PER_KWH if kwh > 0 else None


def _why_nothing(gpus_asked_for: bool) -> str:
    if not gpus_asked_for:
        return "CodeCarbon did not start, or found neither CPU nor memory"
    from codecarbon.core.gpu import is_nvidia_system

    if not is_nvidia_system():
        return (
            "CodeCarbon needs nvidia-smi to find GPUs, but 'nvidia-smi --help' fails; "
            "check that nvidia-smi is in PATH"
        )
    return "CodeCarbon did not start, or can read neither the counters nor the power of the GPUs"


def handler(on_measured: Callable[[dict[str, Any]], None]) -> Any:
    """Return an output handler for CodeCarbon that passes on what flush() measures.

    These are totals since the tracker's start: `joules` by component, `grams`, `version` and `region`.
    Source: codecarbon.output_methods.base_output.BaseOutput.
    """
    from codecarbon.output_methods.base_output import BaseOutput

    class Handler(BaseOutput):  # type: ignore[misc,unused-ignore]
        def out(self, total: Any, delta: Any) -> None:  # noqa: ARG002 - the totals are enough
            parts = {"cpu": total.cpu_energy, "gpu": total.gpu_energy, "ram": total.ram_energy}
            on_measured(
                {
                    "joules": {part: kwh * _JOULES_PER_KWH for part, kwh in parts.items()},
                    "grams": total.emissions * _GRAMS_PER_KG,
                    "version": total.codecarbon_version,
                    "region": total.region or "",
                }
            )

    return Handler()
