"""A 10 Hz trace as a page of OpenMetrics, and what a source gives of it."""

from collections.abc import Sequence

from llem_integrator.series.samples import Series
from llem_integrator.stores import Source, parse_selector, whole

T0 = 1_795_507_546_000
POWER = "llem_gpu_power_trace_watts"


def trace_text(samples: int, step_ms: int = 100, gpus: int = 2) -> str:
    """An OpenMetrics page of a 10 Hz trace: GPU g has (i % 97 + g) W at sample i."""
    lines = [f"# TYPE {POWER} gauge"]
    for gpu in range(gpus):
        for i in range(samples):
            ms = T0 + i * step_ms
            stamp = f"{ms // 1000}.{ms % 1000:03d}"
            lines.append(f'{POWER}{{gpu="{gpu}",instance="n1",uuid="GPU-{gpu}"}} {i % 97 + gpu} {stamp}')
    return "\n".join([*lines, "# EOF", ""])


def fetch(source: Source, start_ms: int, end_ms: int, selector: str = "") -> list[Series]:
    matchers = parse_selector(selector) if selector else ()
    found = whole(source.pieces(POWER, matchers, start_ms, end_ms))
    return sorted(found, key=lambda one: one.labels["gpu"])


def same(found: Sequence[Series], expected: Sequence[Series]) -> bool:
    """Whether both have the same series, to the bit."""
    return [(one.labels, one.unix_ms.tolist(), one.values.tolist(), one.bad) for one in found] == [
        (one.labels, one.unix_ms.tolist(), one.values.tolist(), one.bad) for one in expected
    ]
