"""CodeCarbon's own tracker of emissions. Only this module imports codecarbon, when it is used."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from llem_core.errors import ConfigError

INSTALL: Final = "pip install 'codecarbon>=3.3'"
_JOULES_PER_KWH: Final = 3.6e6
_GRAMS_PER_KG: Final = 1000.0

_SETTINGS: Final[dict[str, Any]] = {
    "allow_multiple_runs": True,  # else its lock takes over SIGINT and SIGTERM
    "country_2letter_iso_code": None,
    "region": None,
    "cloud_provider": None,
    "cloud_region": None,
    "electricitymaps_api_token": "",  # with None, CodeCarbon uses the user's token and goes online
    "emissions_endpoint": None,
    "force_carbon_intensity_g_co2e_kwh": None,
    "log_level": "critical",
    "measure_power_secs": 15.0,
    "output_methods": [],
    "pue": 1.0,
    "tracking_mode": "machine",
}
"""CodeCarbon's own, so that it ignores the user's .codecarbon.config and CODECARBON_* variables."""

Totals = dict[str, Any]
"""What CodeCarbon has counted since its start: `joules` by component, `grams`, `version` and `region`."""


def open_tracker(
    gpu_indices: Sequence[int], country_iso_code: str | None = None, **options: Any
) -> tuple[Any, Totals]:
    """Return an OfflineEmissionsTracker of these GPUs (NVML's indices), not started, and its totals.

    flush() and stop() update the totals, unless they fail. The tracker makes no network request, writes no
    file, handles no signal and logs nothing below critical. PUE is 1. It ignores the user's
    .codecarbon.config and CODECARBON_* variables. `options` are CodeCarbon's own. Without a country,
    CodeCarbon uses the world's average for the grams. The GPUs, CPU and memory are opened here, because
    start() only logs errors: any exception of CodeCarbon or of the driver is raised. Raises ConfigError.
    """
    library = import_codecarbon()
    totals = Totals()
    if country_iso_code is not None:
        country_iso_code = country_iso_code.upper()
        if country_iso_code not in library.DataSource().get_global_energy_mix_data():
            raise ConfigError(
                f"CodeCarbon does not know the country {country_iso_code!r}; "
                "use ISO 3166 alpha-3, for example DEU"
            )
    settings = {
        **_SETTINGS,
        "country_iso_code": country_iso_code,
        "gpu_ids": list(gpu_indices),
        "output_handlers": [_handler(totals)],
        **options,
    }
    with _quiet():
        tracker = library.OfflineEmissionsTracker(**settings)
        tracker.get_detected_hardware()
    return tracker, totals


def _handler(totals: Totals) -> Any:
    """Return an output handler for CodeCarbon that keeps what flush() and stop() measure.

    Source: codecarbon.output_methods.base_output.BaseOutput.
    """
    from codecarbon.output_methods.base_output import BaseOutput

    class Handler(BaseOutput):  # type: ignore[misc,unused-ignore]
        def out(self, total: Any, delta: Any) -> None:  # noqa: ARG002 - the totals are enough
            kwh = {"cpu": total.cpu_energy, "gpu": total.gpu_energy, "ram": total.ram_energy}
            totals["joules"] = {component: value * _JOULES_PER_KWH for component, value in kwh.items()}
            totals["grams"] = total.emissions * _GRAMS_PER_KG
            totals["version"], totals["region"] = total.codecarbon_version, total.region or ""

    return Handler()


def import_codecarbon() -> Any:
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
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        if stdout is not sys.stderr:
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


def sees_gpus() -> bool:
    """Return whether CodeCarbon can find GPUs of NVIDIA: it needs nvidia-smi for that."""
    from codecarbon.core.gpu import is_nvidia_system

    return bool(is_nvidia_system())
