"""CodeCarbon's estimate of the node. Only this module imports codecarbon, when it is used."""

import contextlib
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.backends import measurement_warnings
from llem_measure.backends.base import Tracker, works
from llem_measure.backends.fork_lock import ForkLock
from llem_measure.nvml.calls import DRIVER_SECONDS, NoAnswerError, call, hanging
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.discovery import Gpu, find_gpus
from llem_measure.nvml.handles import handle_of
from llem_measure.sampling.devices import Status
from llem_measure.sampling.energy_scope import MODULE
from llem_measure.sampling.ticks import WallClock

_INSTALL: Final = "pip install 'llem-energy[codecarbon]'"
_JOULES_PER_KWH: Final = 3.6e6
_GRAMS_PER_KG: Final = 1000.0

# Held while standard output is replaced for a moment.
_importing = ForkLock()


def open_tracker(gpu_indices: Sequence[int], country_iso_code: str | None = None, **options: Any) -> Any:
    """Return an OfflineEmissionsTracker of these GPUs (NVML's indices), not started. Raises ConfigError.

    It makes no network request, writes no file, handles no signal and logs nothing below critical. PUE is 1.
    It ignores the user's .codecarbon.config and CODECARBON_* variables. `options` are CodeCarbon's own.
    Without a country, CodeCarbon uses the world's average for the grams.
    """
    library = _import()
    if country_iso_code is not None:
        country_iso_code = country_iso_code.upper()
        if country_iso_code not in library.DataSource().get_global_energy_mix_data():
            raise ConfigError(
                f"CodeCarbon does not know the country {country_iso_code!r}; use ISO 3166 alpha-3, as DEU"
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
        "gpu_ids": ",".join(map(str, gpu_indices)),  # a list is ignored before 3.3
        "log_level": "critical",
        "measure_power_secs": 15.0,
        "output_handlers": [],
        "pue": 1.0,
        "tracking_mode": "machine",
        **_saving_nothing(library),
        **options,
    }
    kinds = (library.OfflineEmissionsTracker, library.BaseEmissionsTracker)
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    with _quiet():
        return library.OfflineEmissionsTracker(**{name: settings[name] for name in settings if name in known})


def open_hardware(tracker: Any) -> None:
    """Have CodeCarbon open what it measures. This raises the errors that start() would only log."""
    detect = getattr(tracker, "get_detected_hardware", None)  # before 3.3 it is done when the tracker is made
    if detect is not None:
        detect()


def _import() -> Any:
    """Return CodeCarbon's module of trackers. Raises ConfigError."""
    try:
        # When it is imported, it looks for AMD's library and prints that there is none.
        with _importing, _quiet(), contextlib.redirect_stdout(sys.stderr):
            import codecarbon.emissions_tracker as library
    except Exception as exc:
        raise ConfigError(f"codecarbon cannot be imported ({type(exc).__name__}: {exc}); {_INSTALL}") from exc
    return library


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


def _saving_nothing(library: Any) -> dict[str, Any]:
    if "output_methods" in inspect.signature(library.BaseEmissionsTracker.__init__).parameters:
        return {"output_methods": []}
    return {f"save_to_{where}": False for where in ("file", "api", "logger", "prometheus", "logfire")}


class CodeCarbonTracker(Tracker):
    """A running tracker of CodeCarbon, its GPUs, and the time at which it was started [monotonic s]."""

    def __init__(self, tracker: Any, gpus: Sequence[Gpu], driver_timeout_s: float) -> None:
        super().__init__()
        self.gpus = gpus
        self.devices = [NvmlDevice(gpu.index) for gpu in gpus]
        for gpu, device in zip(gpus, self.devices, strict=True):
            try:
                call(gpu.index, device.open, driver_timeout_s)
            except DeviceError as exc:
                raise ConfigError(f"GPU {gpu.index} cannot be opened: {exc}") from exc
        self.statuses = [self._read_statuses()]
        self.persistence_modes = [device.persistence_mode() for device in self.devices]
        self.lost: list[tuple[Gpu, str]] = []
        self.clock = WallClock(100)
        self._tracker = tracker
        self.end_when_forgotten(tracker.stop)
        begun_s = time.monotonic()
        tracker.start()
        self.start_s = (begun_s + time.monotonic()) / 2

    def stop(self) -> tuple[float, Any]:
        """Return the time of the end [monotonic s] and CodeCarbon's EmissionsData, None if it has none."""
        self.ended()
        begun_s = time.monotonic()
        silent = hanging([(device.info.index, device.persistence_mode) for device in self.devices])
        if silent:  # the stop would not return
            threading.Thread(target=self._tracker.stop, name="codecarbon-stop", daemon=True).start()
            hung = (gpu for gpu in self.gpus if gpu.index in silent)
            self.lost += [(gpu, measurement_warnings.does_not_return(gpu)) for gpu in hung]
            return begun_s, None
        self._tracker.stop()
        end_s = (begun_s + time.monotonic()) / 2
        self.statuses.append(self._read_statuses())
        for gpu in self.gpus:
            try:
                handle_of(gpu.uuid)
            except DeviceError as exc:
                self.lost.append((gpu, str(exc)))
        return end_s, getattr(self._tracker, "final_emissions_data", None)

    def _read_statuses(self) -> list[Status]:
        return [device.read_status() for device in self.devices]


class CodeCarbonBackend:
    """Joules as CodeCarbon counts them: of all GPUs together, or of CPU and memory if there is no GPU.

    `country_iso_code` (ISO 3166 alpha-3, such as DEU) is needed for grams of CO2 only. `gpu_indices` are
    NVML's; None means the visible GPUs, if any. A GPU's first call may take `driver_timeout_s`.
    """

    def __init__(
        self,
        country_iso_code: str | None = None,
        gpu_indices: Sequence[int] | None = None,
        *,
        driver_timeout_s: float = DRIVER_SECONDS,
    ) -> None:
        self._country_iso_code = country_iso_code
        self._gpu_indices = None if gpu_indices is None else tuple(gpu_indices)
        self._driver_timeout_s = driver_timeout_s
        self._checked = False

    @property
    def name(self) -> str:
        """The name by which get_backend() returns it."""
        return Backend.CODECARBON.value

    def is_available(self) -> bool:
        """Return whether it works here, by trying."""
        return works(self)

    def check(self) -> str:
        """Return what it measures here. Raises ConfigError with the reason if that is nothing."""
        if find_spec("codecarbon") is None:
            raise ConfigError(f"codecarbon is not installed; {_INSTALL}")
        gpus = self._find_gpus()
        tracker = self._open(gpus)
        tracker.start()
        tracker.stop()
        if getattr(tracker, "final_emissions_data", None) is None:  # it logs its errors and raises none
            raise ConfigError("CodeCarbon does not start here; run `codecarbon detect` for the reason")
        self._checked = True
        if not gpus:
            return "estimates CPU and memory; no GPU"
        return f"counts GPU {', '.join(str(gpu.index) for gpu in gpus)} together"

    def start_tracking(self) -> CodeCarbonTracker:
        """Start to measure. Raises ConfigError if CodeCarbon does not start."""
        if not self._checked:  # CodeCarbon's first start takes seconds, which must not be in the window
            self.check()
        gpus = self._find_gpus()
        return CodeCarbonTracker(self._open(gpus), gpus, self._driver_timeout_s)

    def stop_tracking(self, tracker: CodeCarbonTracker) -> EnergyMeasurement:
        """Return the energy since `tracker` began. A second call returns the same."""
        tracker.refuse_another_process()
        if tracker.measurement is None:
            tracker.measurement = self._measurement(tracker)
        return tracker.measurement

    def _find_gpus(self) -> Sequence[Gpu]:
        try:
            return find_gpus(self._gpu_indices, self._driver_timeout_s)
        except NoAnswerError:  # CodeCarbon would wait for the driver without a timeout
            raise
        except ConfigError:
            if self._gpu_indices:
                raise
            return ()

    def _open(self, gpus: Sequence[Gpu]) -> Any:
        tracker = open_tracker([gpu.index for gpu in gpus], self._country_iso_code)
        try:
            open_hardware(tracker)
        except Exception as exc:
            raise ConfigError(f"CodeCarbon does not start: {type(exc).__name__}: {exc}") from exc
        return tracker

    def _measurement(self, tracker: CodeCarbonTracker) -> EnergyMeasurement:
        end_s, data = tracker.stop()
        gpus, offset_s = tracker.gpus, tracker.clock.mapping.offset_s
        # CodeCarbon counts 0 W for a lost GPU, from an instant that it does not report.
        total_j = None if tracker.lost else _joules(data, bool(gpus))
        known = total_j is not None
        # CodeCarbon's grams are of CPU, memory and GPUs together; the joules are of a part of them.
        with_grams = total_j is not None and self._country_iso_code is not None
        grams = data.emissions * _GRAMS_PER_KG * total_j / _all_joules(data) if with_grams else None
        return EnergyMeasurement(
            total_j=total_j,
            duration_sec=end_s - tracker.start_s,
            samples=2 if known else 0,
            per_gpu_j={gpus[0].index: total_j} if total_j is not None and len(gpus) == 1 else None,
            start_unix_s=tracker.start_s + offset_s,
            end_unix_s=end_s + offset_s,
            coverage=float(known),
            backend=Backend.CODECARBON,
            scope=_scope_of(tracker.devices),
            warnings=tuple(self._warnings_of(tracker, end_s, known=known)),
            emissions_g=grams,
        )

    def _warnings_of(
        self, tracker: CodeCarbonTracker, end_s: float, *, known: bool
    ) -> Iterator[MeasurementWarning]:
        yield from measurement_warnings.of_window(end_s - tracker.start_s)
        modes = tracker.persistence_modes
        for gpu, mode, *statuses in zip(tracker.gpus, modes, *tracker.statuses, strict=True):
            yield from measurement_warnings.of_mode(gpu, mode)
            yield from measurement_warnings.of_temperature(gpu, (s.temperature_celsius for s in statuses))
        for gpu, reason in tracker.lost:
            yield measurement_warnings.lost(gpu, reason)
        if not known:
            lost = [f"GPU {gpu.index} is lost" for gpu, _ in tracker.lost]
            yield measurement_warnings.unavailable(lost or [_why_nothing(bool(tracker.gpus))])
        if _scope_of(tracker.devices) == MODULE:
            text = "CodeCarbon may count a superchip's whole module for each of its GPUs; use zeus or nvml"
            yield MeasurementWarning(WarningCode.SOURCE_WARNING, text)
        if self._country_iso_code is None:
            text = "no grams of CO2 without a country: CodeCarbonBackend(country_iso_code='DEU')"
            yield MeasurementWarning(WarningCode.EMISSIONS_UNAVAILABLE, text)


def _scope_of(devices: Sequence[NvmlDevice]) -> str:
    if any(device.info.module for device in devices):
        return MODULE
    return "gpu" if devices else "node"


def _joules(data: Any, gpus_asked_for: bool) -> float | None:
    """Return the joules, or None for 0: CodeCarbon counts 0 for a GPU that it cannot read."""
    if data is None:
        return None
    kwh = data.gpu_energy if gpus_asked_for else data.cpu_energy + data.ram_energy
    return kwh * _JOULES_PER_KWH if kwh > 0 else None


def _all_joules(data: Any) -> float:
    return float(data.energy_consumed) * _JOULES_PER_KWH


def _why_nothing(gpus_asked_for: bool) -> str:
    if not gpus_asked_for:
        return "CodeCarbon did not start, or found neither CPU nor memory"
    from codecarbon.core.gpu import is_nvidia_system

    if not is_nvidia_system():
        return "CodeCarbon finds GPUs only if `nvidia-smi --help` runs, which it does not here"
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
