"""The traces of /history as text: every sample with its own timestamp, in slices that are soon made."""

from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from llem_core.metrics import GPU_POWER_TRACE, GPU_ZEUS_TRACE, Kind, MetricSpec
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.ring import Trace

SLICE_LINES: Final = 300
"""Lines made in one go: the samplers' threads wait for it at the worst (0.2 ms)."""


def slices(traces: Sequence[tuple[DeviceInfo, Trace]], openmetrics: bool) -> Iterator[str]:
    """The page, family by family and GPU by GPU, in OpenMetrics or in text format 0.0.4."""
    yield from _family(GPU_POWER_TRACE, [(info, trace, trace.watts) for info, trace in traces], openmetrics)
    yield from _family(GPU_ZEUS_TRACE, [(info, trace, trace.joules) for info, trace in traces], openmetrics)


def _family(
    spec: MetricSpec, columns: Sequence[tuple[DeviceInfo, Trace, "array[float]"]], openmetrics: bool
) -> Iterator[str]:
    header = _header(spec, openmetrics)
    for info, trace, values in columns:
        series = f'{spec.name}{{gpu="{info.index}",uuid="{_escaped(info.uuid)}"}}'
        for start in range(0, len(values), SLICE_LINES):
            end = start + SLICE_LINES
            lines = _lines(series, trace.times_ms[start:end], values[start:end], openmetrics)
            if lines:
                yield header + lines
                header = ""


def _lines(series: str, times_ms: "array[int]", values: "array[float]", openmetrics: bool) -> str:
    """A line per value that is one (not NaN); timestamps are seconds in OpenMetrics, else milliseconds."""
    pairs = zip(values, times_ms, strict=True)
    if openmetrics:
        return "".join([f"{series} {x} {ms / 1000:.3f}\n" for x, ms in pairs if x == x])
    return "".join([f"{series} {x} {ms}\n" for x, ms in pairs if x == x])


def _header(spec: MetricSpec, openmetrics: bool) -> str:
    """Source: OpenMetrics 1.0, where a counter's family is named without _total; Prometheus text 0.0.4."""
    if not openmetrics:
        return f"# HELP {spec.name} {spec.help}\n# TYPE {spec.name} {spec.kind}\n"
    name = spec.name.removesuffix("_total") if spec.kind is Kind.COUNTER else spec.name
    return f"# HELP {name} {spec.help}\n# TYPE {name} {spec.kind}\n# UNIT {name} {spec.unit}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
