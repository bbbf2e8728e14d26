"""PromQL that the dashboards share: selectors with the variables' matchers, means, joules, the highest few.

An expression is a function of a Span, so that the same text serves a panel's lines (over `$__rate_interval`),
its figures (over `$__range`), and the choice of the few that are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from llem_core import metrics
from llem_core.metrics import MetricSpec

JOULES_PER_KWH: Final = "3.6e6"
NODE: Final = 'job=~"$job",instance=~"$instance"'
GPU: Final = f'{NODE},gpu=~"$gpu"'
EACH_GPU: Final = "instance, gpu, uuid"


@dataclass(frozen=True, slots=True)
class Span:
    """A range selector's length, and at which time it ends (the evaluation's own where empty)."""

    window: str
    at: str = ""


RECENT: Final = Span("$__rate_interval")
"""Around each point of a line."""
RANGE: Final = Span("$__range")
"""All that the dashboard shows, for an instant query at its end."""
WHOLE: Final = Span("$__range", " @ end()")
"""The same inside a range query: one value for all points of a line."""

Expression = Callable[[Span], str]


def select(metric: MetricSpec | str, *matchers: str, suffix: str = "") -> str:
    """The series of a metric that the variables let through; a plain name stands for what no spec has."""
    name = metric if isinstance(metric, str) else metric.name
    by_gpu = isinstance(metric, MetricSpec) and "gpu" in metric.labels
    return f"{name}{suffix}{{{','.join([GPU if by_gpu else NODE, *matchers])}}}"


def over(function: str, metric: MetricSpec | str, span: Span, *matchers: str, suffix: str = "") -> str:
    """A function of a range: increase, rate, max_over_time, ..."""
    return f"{function}({select(metric, *matchers, suffix=suffix)}[{span.window}]{span.at})"


def each(expression: str, labels: str = EACH_GPU) -> str:
    """One series a GPU (or as labelled), however many jobs scrape the same exporter."""
    return f"max by ({labels}) ({expression})"


def rise(function: str, metric: MetricSpec, span: Span, labels: str = EACH_GPU) -> str:
    """What a counter rose by (increase, rate, delta), in each place once, however many jobs scrape it.

    Added over pods that follow each other at one instance: their series differ by the pod's name.
    """
    return each(f"sum by (job, {labels}) ({over(function, metric, span)})", labels)


def mean_watts(span: Span) -> str:
    """Mean power of each GPU over the time that its joules cover; the extrapolation of both rises cancels.

    A GPU that cannot be read has no value: 0 J in 0 s is not a number, and so not above 0.
    """
    return f"(({zeus_watts(span)}) or ({nvml_watts(span)})) >= 0"


def zeus_watts(span: Span) -> str:
    """By the hardware's counter, over the time between its readings."""
    return f"{zeus_joules(span)} / {read_seconds(span)}"


def nvml_watts(span: Span) -> str:
    """By the exporter's trapezoid, over the time that it covers."""
    return f"{nvml_joules(span)} / {integrated_seconds(span)}"


def zeus_joules(span: Span) -> str:
    return rise("increase", metrics.GPU_ZEUS_ENERGY, span)


def nvml_joules(span: Span) -> str:
    return rise("increase", metrics.GPU_NVML_ENERGY, span)


def read_seconds(span: Span) -> str:
    """From a GPU's first reading to its last: what the hardware's counter covers."""
    return rise("delta", metrics.GPU_SAMPLE_TIMESTAMP, span)


def integrated_seconds(span: Span) -> str:
    return rise("increase", metrics.GPU_INTEGRATED, span)


def joules(span: Span) -> str:
    """Joules of each GPU: zeus's where it counts, else nvml's."""
    return f"({zeus_joules(span)}) or ({nvml_joules(span)})"


def covered_seconds(span: Span) -> str:
    """The seconds that those joules cover."""
    return (
        f"(({read_seconds(span)}) and on ({EACH_GPU}) ({zeus_joules(span)})) or ({integrated_seconds(span)})"
    )


def uncovered_share(span: Span) -> str:
    """The share of the time of a running exporter that has no samples, of each GPU."""
    gaps = rise("increase", metrics.GPU_GAP, span)
    return f"{gaps} / (({gaps} + {integrated_seconds(span)}) > 0)"


def by_uuid(expression: str) -> str:
    """One series a card, summed over the places that it has been at: instances, and NVML's numbers."""
    return f"sum by (uuid) ({expression})"


def total(expression: str) -> str:
    return f"sum ({expression})"


def top(expression: Expression, by: str = EACH_GPU, ranked: Expression | None = None) -> str:
    """The $top highest lines by their value over the whole range: chosen once, not anew at each point."""
    rank = ranked or expression
    return f"({expression(RECENT)}) and on ({by}) topk($top, {rank(WHOLE)})"


def gauge(metric: MetricSpec | str, labels: str = EACH_GPU) -> Expression:
    """A gauge's own values as lines, its highest value to rank them."""

    def expression(span: Span) -> str:
        if span.at:
            return each(over("max_over_time", metric, span), labels)
        return each(select(metric), labels)

    return expression
