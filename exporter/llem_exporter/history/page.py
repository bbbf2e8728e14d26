"""The traces of /history as text: every sample with its own timestamp, in chunks."""

from collections.abc import Iterator, Sequence
from typing import Final

from llem_core.metrics import GPU_POWER_TRACE, GPU_ZEUS_TRACE, Kind, MetricSpec
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.ring import Samples

CHUNK_LINES: Final = 300
"""The maximum number of lines in a chunk. Making a chunk takes 0.2 ms, which can delay the sampler."""

GpuSamples = tuple[DeviceInfo, Samples]


def trace_chunks(gpus: Sequence[GpuSamples], *, openmetrics: bool) -> Iterator[str]:
    """Return the power traces and then the energy traces, in OpenMetrics or in text format 0.0.4."""
    power = [(info, samples.times_ms, samples.watts) for info, samples in gpus]
    energy = [(info, samples.times_ms, samples.joules) for info, samples in gpus]
    for spec, traces in ((GPU_POWER_TRACE, power), (GPU_ZEUS_TRACE, energy)):
        header = _header(spec, openmetrics)
        for info, times_ms, values in traces:
            series = f'{spec.name}{{gpu="{info.index}",uuid="{_escaped(info.uuid)}"}}'
            for start in range(0, len(values), CHUNK_LINES):
                end = start + CHUNK_LINES
                if lines := _lines(series, times_ms[start:end], values[start:end], openmetrics):
                    yield header + lines
                    header = ""


def _lines(series: str, times_ms: Sequence[float], values: Sequence[float], openmetrics: bool) -> str:
    """Return a line for each value but NaN. Timestamps are seconds in OpenMetrics, else milliseconds."""
    pairs = zip(values, times_ms, strict=True)
    if openmetrics:
        return "".join([f"{series} {value} {ms / 1000:.3f}\n" for value, ms in pairs if value == value])
    return "".join([f"{series} {value} {ms}\n" for value, ms in pairs if value == value])


def _header(spec: MetricSpec, openmetrics: bool) -> str:
    """Return the metadata of a family. In OpenMetrics, the name of a counter family has no _total.

    Source: OpenMetrics 1.0; Prometheus text format 0.0.4.
    """
    if not openmetrics:
        return f"# HELP {spec.name} {spec.help}\n# TYPE {spec.name} {spec.kind}\n"
    name = spec.name.removesuffix("_total") if spec.kind is Kind.COUNTER else spec.name
    return f"# HELP {name} {spec.help}\n# TYPE {name} {spec.kind}\n# UNIT {name} {spec.unit}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
