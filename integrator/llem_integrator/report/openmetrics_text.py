"""OpenMetrics: gauges for a Pushgateway, or for the textfile collector of node_exporter.

The format requires all samples of a metric together. They are collected per metric, on disk if there are
many, and written at the end. Samples have no timestamps, because neither a Pushgateway nor the textfile
collector accepts them. Two gauges contain the times of the window.
"""

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import IO, Final

from llem_integrator.report import About
from llem_integrator.results.fields import WindowResult
from llem_integrator.windows.window import rfc3339

_IN_MEMORY_BYTES: Final = 1 << 20
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

_GPU_GAUGES: Final = {
    "joules": ("energy_joules", "Energy of a GPU in the window."),
    "joules_low": ("energy_low_joules", "Lower bound of the energy."),
    "joules_high": ("energy_high_joules", "Upper bound of the energy; absent if there is none."),
    "mean_watts": ("power_mean_watts", "Mean power while covered."),
    "peak_watts": ("power_peak_watts", "Highest power sample."),
    "coverage": ("coverage_ratio", "Covered fraction of the window, from 0 to 1."),
    "gap_s": ("gap_seconds", "Time that is not covered."),
    "emissions_g": ("emissions_grams", "Emissions of the energy, in grams of CO2 equivalent."),
    "price": ("price", "Price of the energy."),
    "idle_j": ("idle_joules", "Energy that an idle GPU would have used."),
    "active_j": ("active_joules", "Energy above idle."),
    "calibrated": ("calibrated", "Whether a calibration was applied (1) or not (0)."),
}
"""The gauges of a GPU, by the field of the result: the name after llem_window_, and the help."""

_WINDOW_GAUGES: Final = {
    "start_timestamp_seconds": "Start of the window, in unix seconds.",
    "end_timestamp_seconds": "End of the window, in unix seconds.",
    "all_energy_joules": "Energy of all GPUs in the window, if all of it is known.",
    "valid": "Whether every requested GPU has joules at --min-coverage (1) or not (0).",
    "invalid_info": "Why the window is not valid.",
}
_UNITS: Final = ("joules", "watts", "ratio", "seconds", "grams")

_Files = Mapping[str, IO[str]]


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """Write the whole page after the last result."""
    helps = dict(_GPU_GAUGES.values()) | _WINDOW_GAUGES
    notes = {_GPU_GAUGES[field][0]: f" ({note})" for field, note in about.notes.items()}
    taken: dict[str, int] = {}
    with ExitStack() as stack:
        files: _Files = {name: stack.enter_context(_temporary_file()) for name in helps}
        for result in results:
            _add(result, _label(result, taken), files)
        for name, text in helps.items():
            if files[name].tell():
                unit = name.rpartition("_")[2]
                out.write(f"# TYPE llem_window_{name} gauge\n")
                out.write(f"# UNIT llem_window_{name} {unit}\n" if unit in _UNITS else "")
                out.write(f"# HELP llem_window_{name} {_escaped(text + notes.get(name, ''))}\n")
                files[name].seek(0)
                out.writelines(files[name])
    out.write("# EOF\n")
    out.flush()


def _temporary_file() -> "tempfile.SpooledTemporaryFile[str]":
    return tempfile.SpooledTemporaryFile(
        _IN_MEMORY_BYTES, "w+", encoding="utf-8", errors="replace", newline="\n"
    )


def _add(result: WindowResult, window: str, files: _Files) -> None:
    """Add the samples of a window, each to the file of its metric."""

    def add(name: str, labels: str, value: float) -> None:
        files[name].write(f"llem_window_{name}{{{labels}}} {value!r}\n")

    of_window = _labels(window=window)
    for gpu in result.gpus:
        labels = _labels(
            window=window, gpu=gpu.gpu, uuid=gpu.uuid, node=",".join(gpu.instances), backend=gpu.backend
        )
        for field, (name, _) in _GPU_GAUGES.items():
            if (value := getattr(gpu, field)) is not None:
                add(name, labels, float(value))
    add("start_timestamp_seconds", of_window, result.start)
    add("end_timestamp_seconds", of_window, result.end)
    if result.total_j is not None:
        labels = _labels(window=window, backend=result.backend, scope=result.scope)
        add("all_energy_joules", labels, result.total_j)
    add("valid", of_window, int(result.valid))
    for reason in result.reasons:
        add("invalid_info", _labels(window=window, reason=reason), 1)


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())


def _label(result: WindowResult, taken: dict[str, int]) -> str:
    """Return the name of the window, or its times. A number makes repeated labels unique."""
    start, end = (rfc3339(round(edge * 1e6)) for edge in (result.start, result.end))
    name = label = result.name or f"{start}/{end}"
    while label in taken:
        taken[name] += 1
        label = f"{name} ({taken[name]})"
    taken[label] = 1
    return label


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
