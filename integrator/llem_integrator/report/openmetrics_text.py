"""OpenMetrics: gauges to push, or for node_exporter's textfile collector.

The format wants all samples of a metric together. They are put aside metric by metric, on disk where
they are many, and go out at the end. No sample has a timestamp: neither a Pushgateway nor the textfile
collector takes one. When a window was, two gauges say.
"""

import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Final

from llem_integrator.energy.result import GpuEnergy, WindowResult
from llem_integrator.report import About
from llem_integrator.windows.window import rfc3339

_IN_MEMORY_BYTES: Final = 1 << 20
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Gauge:
    """A metric: its name, unit ("" for none), help, and its value of a GPU (None: no sample)."""

    name: str
    unit: str
    help: str
    of: Callable[[GpuEnergy], float | None]


GPU_GAUGES: Final = (
    Gauge("llem_window_energy_joules", "joules", "Energy of a GPU in the window.", lambda gpu: gpu.joules),
    Gauge(
        "llem_window_energy_low_joules", "joules", "Lower bound of the energy.", lambda gpu: gpu.joules_low
    ),
    Gauge(
        "llem_window_energy_high_joules",
        "joules",
        "Upper bound of the energy; absent where nothing bounds it.",
        lambda gpu: gpu.joules_high,
    ),
    Gauge("llem_window_power_mean_watts", "watts", "Mean power while covered.", lambda gpu: gpu.mean_watts),
    Gauge("llem_window_power_peak_watts", "watts", "Highest sample seen.", lambda gpu: gpu.peak_watts),
    Gauge(
        "llem_window_coverage_ratio",
        "ratio",
        "Covered share of the window, 0 to 1.",
        lambda gpu: gpu.coverage,
    ),
    Gauge("llem_window_gap_seconds", "seconds", "Time without coverage.", lambda gpu: gpu.gap_s),
    Gauge(
        "llem_window_emissions_grams",
        "grams",
        "Emissions of the energy, in gCO2e.",
        lambda gpu: gpu.emissions_g,
    ),
    Gauge("llem_window_price", "", "Price of the energy.", lambda gpu: gpu.price),
    Gauge("llem_window_idle_joules", "joules", "Energy of an idle GPU.", lambda gpu: gpu.idle_j),
    Gauge("llem_window_active_joules", "joules", "Energy above idle.", lambda gpu: gpu.active_j),
    Gauge(
        "llem_window_calibrated",
        "",
        "Whether a calibration was applied (1) or not (0).",
        lambda gpu: None if gpu.calibrated is None else float(gpu.calibrated),
    ),
    Gauge("llem_window_exact_joules", "joules", "Exact energy of the demo's trace.", lambda gpu: gpu.exact_j),
)
_NOTES: Final = {
    "emissions_g": "llem_window_emissions_grams",
    "price": "llem_window_price",
    "idle_j": "llem_window_idle_joules",
    "calibrated": "llem_window_calibrated",
}
_WINDOW_GAUGES: Final = {
    "llem_window_start_timestamp_seconds": ("seconds", "Start of the window, in unix seconds."),
    "llem_window_end_timestamp_seconds": ("seconds", "End of the window, in unix seconds."),
    "llem_window_all_energy_joules": ("joules", "Energy of all GPUs in the window, where all is known."),
    "llem_window_valid": ("", "Whether every GPU asked for has joules at --min-coverage (1) or not (0)."),
    "llem_window_invalid_info": ("", "Why the window is not valid."),
}


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """The whole page, when the last window has come."""
    heads = {gauge.name: (gauge.unit, gauge.help) for gauge in GPU_GAUGES} | _WINDOW_GAUGES
    notes = {_NOTES[field]: note for field, note in about.notes.items() if field in _NOTES}
    taken: dict[str, int] = {}
    with ExitStack() as stack:
        aside = {name: stack.enter_context(_aside()) for name in heads}
        for result in results:
            _put(result, _label(result, taken), aside)
        for name, (unit, text) in heads.items():
            if aside[name].tell():
                note = f" ({notes[name]})" if name in notes else ""
                out.write(f"# TYPE {name} gauge\n{f'# UNIT {name} {unit}' + chr(10) if unit else ''}")
                out.write(f"# HELP {name} {_escaped(text + note)}\n")
                aside[name].seek(0)
                out.writelines(aside[name])
    out.write("# EOF\n")
    out.flush()


def _aside() -> "tempfile.SpooledTemporaryFile[str]":
    return tempfile.SpooledTemporaryFile(
        _IN_MEMORY_BYTES, "w+", encoding="utf-8", errors="replace", newline="\n"
    )


def _put(result: WindowResult, window: str, aside: "dict[str, tempfile.SpooledTemporaryFile[str]]") -> None:
    """The samples of a window, each to its metric."""
    window = f'window="{_escaped(window)}"'
    for gpu in result.gpus:
        labels = {"gpu": gpu.gpu, "uuid": gpu.uuid, "node": ",".join(gpu.instances), "backend": gpu.backend}
        body = ",".join([window, *(f'{name}="{_escaped(text)}"' for name, text in labels.items())])
        for gauge in GPU_GAUGES:
            value = gauge.of(gpu)
            if value is not None:
                aside[gauge.name].write(f"{gauge.name}{{{body}}} {float(value)!r}\n")
    for name, edge in (("start", result.start), ("end", result.end)):
        metric = f"llem_window_{name}_timestamp_seconds"
        aside[metric].write(f"{metric}{{{window}}} {edge!r}\n")
    if result.total_j is not None:
        labelled = f'{window},backend="{_escaped(result.backend)}",scope="{_escaped(result.scope)}"'
        aside["llem_window_all_energy_joules"].write(
            f"llem_window_all_energy_joules{{{labelled}}} {result.total_j!r}\n"
        )
    aside["llem_window_valid"].write(f"llem_window_valid{{{window}}} {int(result.valid)}\n")
    for reason in result.reasons:
        aside["llem_window_invalid_info"].write(
            f'llem_window_invalid_info{{{window},reason="{_escaped(reason)}"}} 1\n'
        )


def _label(result: WindowResult, taken: dict[str, int]) -> str:
    """The window's name, else its times; numbered where that was taken, for no series may come twice."""
    start, end = (rfc3339(round(edge * 1e6)) for edge in (result.start, result.end))
    name = label = result.name or f"{start}/{end}"
    while label in taken:
        taken[name] += 1
        label = f"{name} ({taken[name]})"
    taken[label] = 1
    return label


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
