"""CodeCarbon's estimate of the node: the only file that imports codecarbon, and only when called."""

import contextlib
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from llem_core.backend import Backend
from llem_core.errors import ConfigError, DeviceError
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.backends import measurement_warnings as doubts
from llem_measure.backends.base import Tracker, works
from llem_measure.backends.fork_lock import ForkLock
from llem_measure.nvml import device as nvml_device
from llem_measure.nvml import discovery as gpus
from llem_measure.nvml.calls import hanging
from llem_measure.nvml.discovery import Gpu
from llem_measure.sampling.devices import Status
from llem_measure.sampling.ticks import WallClock

_INSTALL: Final = "pip install 'llem-energy[codecarbon]'"
_JOULES_PER_KWH: Final = 3.6e6
_GRAMS_PER_KG: Final = 1000.0

# Held while standard output is another one for a moment.
_importing = ForkLock()


def open_tracker(gpu_indices: Sequence[int], country_iso_code: str | None = None, **options: Any) -> Any:
    """An OfflineEmissionsTracker of these GPUs (NVML's indices), not started. Raises ConfigError.

    It goes nowhere online, writes no file, takes over no signal and logs nothing below critical; PUE is 1.
    The user's .codecarbon.config and CODECARBON_* variables have no part in it. `options` are CodeCarbon's
    own. Without a country it takes the world's average for the grams.
    """
    library = _import()
    if country_iso_code is not None:
        country_iso_code = country_iso_code.upper()
        if country_iso_code not in library.DataSource().get_global_energy_mix_data():
            raise ConfigError(
                f"CodeCarbon knows no country {country_iso_code!r}; give ISO 3166 alpha-3, as DEU"
            )
    settings: dict[str, Any] = {
        "allow_multiple_runs": True,  # else its lock takes over SIGINT and SIGTERM
        "country_iso_code": country_iso_code,
        "country_2letter_iso_code": None,
        "region": None,
        "cloud_provider": None,
        "cloud_region": None,
        "electricitymaps_api_token": "",  # None would ask the user's settings for one, to go online with
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


def look_at_hardware(tracker: Any) -> None:
    """Have CodeCarbon open what it measures; it raises here what start() would swallow."""
    look = getattr(tracker, "get_detected_hardware", None)  # before 3.3 it looks when it is made
    if look is not None:
        look()


def _import() -> Any:
    """CodeCarbon's module of trackers. Raises ConfigError."""
    try:
        # Importing it looks for AMD's library, and prints that there is none.
        with _importing, _quiet(), contextlib.redirect_stdout(sys.stderr):
            import codecarbon.emissions_tracker as library
    except Exception as exc:
        raise ConfigError(f"codecarbon cannot be imported ({type(exc).__name__}: {exc}); {_INSTALL}") from exc
    return library


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what CodeCarbon logs before it heeds its own log_level."""
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
    """A tracker of CodeCarbon's at work, its GPUs, and when it was started [monotonic s]."""

    def __init__(self, tracker: Any, found: Sequence[Gpu]) -> None:
        super().__init__()
        self.found = found
        self.devices = [nvml_device.open_gpu(gpu.index) for gpu in found]
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
        """When it was stopped [monotonic s], and its EmissionsData: None where it had not even begun."""
        self.ended()
        begun_s = time.monotonic()
        silent = hanging({gpu.index: partial(nvml_device.uuid_at, gpu.index) for gpu in self.found})
        if silent:  # it would not return, and who measures must
            threading.Thread(target=self._tracker.stop, name="codecarbon-stop", daemon=True).start()
            hung = (gpu for gpu in self.found if gpu.index in silent)
            self.lost += [(gpu, doubts.does_not_return(gpu)) for gpu in hung]
            return begun_s, None
        self._tracker.stop()
        end_s = (begun_s + time.monotonic()) / 2
        self.statuses.append(self._read_statuses())
        for gpu in self.found:
            try:
                nvml_device.uuid_at(gpu.index)
            except DeviceError as exc:
                self.lost.append((gpu, str(exc)))
        return end_s, getattr(self._tracker, "final_emissions_data", None)

    def _read_statuses(self) -> list[Status]:
        return [device.read_status() for device in self.devices]


class CodeCarbonBackend:
    """Joules as CodeCarbon counts them: of the GPUs together, or of CPU and memory where there is none.

    `country_iso_code` (ISO 3166 alpha-3, as DEU) is needed for grams of CO2 only. `gpu_indices` are
    NVML's; None means the visible GPUs, if any.
    """

    def __init__(self, country_iso_code: str | None = None, gpu_indices: Sequence[int] | None = None) -> None:
        self._country_iso_code = country_iso_code
        self._gpu_indices = None if gpu_indices is None else tuple(gpu_indices)
        self._checked = False

    @property
    def name(self) -> str:
        return Backend.CODECARBON.value

    def is_available(self) -> bool:
        return works(self)

    def check(self) -> str:
        """What it measures here. Raises ConfigError with the reason where that is nothing."""
        if find_spec("codecarbon") is None:
            raise ConfigError(f"codecarbon is not installed; {_INSTALL}")
        found = self._found()
        trial = self._open(found)
        trial.start()
        trial.stop()
        if getattr(trial, "final_emissions_data", None) is None:  # it logs its errors and raises none
            raise ConfigError("CodeCarbon does not start here; run `codecarbon detect` for the reason")
        self._checked = True
        if not found:
            return "estimates CPU and memory; no GPU"
        return f"counts GPU {', '.join(str(gpu.index) for gpu in found)} together"

    def start_tracking(self) -> CodeCarbonTracker:
        if not self._checked:  # what CodeCarbon does for the first time takes seconds: not in the window
            self.check()
        found = self._found()
        return CodeCarbonTracker(self._open(found), found)

    def stop_tracking(self, tracker: CodeCarbonTracker) -> EnergyMeasurement:
        """The energy since `tracker` began. Called again, it answers the same."""
        tracker.refuse_another_process()
        if tracker.measurement is None:
            tracker.measurement = self._measurement(tracker)
        return tracker.measurement

    def _found(self) -> Sequence[Gpu]:
        try:
            return gpus.asked_for(self._gpu_indices)
        except ConfigError:
            if self._gpu_indices:
                raise
            return ()

    def _open(self, found: Sequence[Gpu]) -> Any:
        tracker = open_tracker([gpu.index for gpu in found], self._country_iso_code)
        try:
            look_at_hardware(tracker)
        except Exception as exc:
            raise ConfigError(f"CodeCarbon does not start: {type(exc).__name__}: {exc}") from exc
        return tracker

    def _measurement(self, tracker: CodeCarbonTracker) -> EnergyMeasurement:
        end_s, data = tracker.stop()
        found, offset_s = tracker.found, tracker.clock.mapping.offset_s
        # Of a GPU that is lost it counts on with 0 W, from an instant that it does not tell.
        total_j = None if tracker.lost else _joules(data, bool(found))
        known = total_j is not None
        module = any(device.info.scope == "module" for device in tracker.devices)
        # CodeCarbon's grams are of CPU, memory and GPUs together, the joules of a part of them.
        with_grams = total_j is not None and self._country_iso_code is not None
        grams = data.emissions * _GRAMS_PER_KG * total_j / _all_joules(data) if with_grams else None
        return EnergyMeasurement(
            total_j=total_j,
            duration_sec=end_s - tracker.start_s,
            samples=2 if known else 0,
            per_gpu_j={found[0].index: total_j} if total_j is not None and len(found) == 1 else None,
            start_unix_s=tracker.start_s + offset_s,
            end_unix_s=end_s + offset_s,
            coverage=float(known),
            backend=Backend.CODECARBON,
            scope="module" if module else "gpu" if found else "node",
            warnings=tuple(self._doubts_of(tracker, end_s, known=known)),
            emissions_g=grams,
        )

    def _doubts_of(
        self, tracker: CodeCarbonTracker, end_s: float, *, known: bool
    ) -> Iterator[MeasurementWarning]:
        yield from doubts.of_window(end_s - tracker.start_s)
        modes = tracker.persistence_modes
        for gpu, mode, *statuses in zip(tracker.found, modes, *tracker.statuses, strict=True):
            yield from doubts.of_mode(gpu, mode)
            yield from doubts.of_temperature(gpu, (status.temperature_celsius for status in statuses))
        for gpu, reason in tracker.lost:
            yield doubts.lost(gpu, reason)
        if not known:
            lost = [f"GPU {gpu.index} is lost" for gpu, _ in tracker.lost]
            yield doubts.unavailable(lost or [_why_nothing(bool(tracker.found))])
        if self._country_iso_code is None:
            text = "no grams of CO2 without a country: CodeCarbonBackend(country_iso_code='DEU')"
            yield MeasurementWarning(WarningCode.EMISSIONS_UNAVAILABLE, text)


def _joules(data: Any, gpus_asked_for: bool) -> float | None:
    """What the measurement is of; 0 is none: CodeCarbon counts that of a GPU which it cannot read."""
    if data is None:
        return None
    kwh = data.gpu_energy if gpus_asked_for else data.cpu_energy + data.ram_energy
    return kwh * _JOULES_PER_KWH if kwh > 0 else None


def _all_joules(data: Any) -> float:
    return float(data.energy_consumed) * _JOULES_PER_KWH


def _why_nothing(gpus_asked_for: bool) -> str:
    if not gpus_asked_for:
        return "CodeCarbon did not start, or saw neither CPU nor memory"
    from codecarbon.core.gpu import is_nvidia_system

    if not is_nvidia_system():
        return "CodeCarbon sees GPUs only where `nvidia-smi --help` runs, and here it does not"
    return "CodeCarbon did not start, or reads neither counter nor power of the GPUs"


def handler(on_measured: Callable[[dict[str, Any]], None]) -> Any:
    """An output handler of CodeCarbon's that hands on what flush() measures.

    That is totals since the tracker's start: `joules` by component, `grams`, `version` and `region`.
    Source: codecarbon.output_methods.base_output.BaseOutput.
    """
    from codecarbon.output_methods.base_output import BaseOutput

    class Handler(BaseOutput):  # type: ignore[misc,unused-ignore]
        def out(self, total: Any, delta: Any) -> None:  # noqa: ARG002 - the totals say it all
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
