"""*Exporter health*: whether the figures of the other dashboards can be trusted."""

from typing import Final

from grafana.source.dashboard import Dashboard
from grafana.source.panel import Panel, Query, figure, line
from grafana.source.power import GPU_NAME
from grafana.source.promql import (
    RANGE,
    RECENT,
    WHOLE,
    Expression,
    Span,
    each,
    gauge,
    over,
    rise,
    select,
    top,
    uncovered_share,
)
from llem_core import metrics
from llem_core.metrics import MetricSpec

UP: Final = "up"
SCRAPE_SECONDS: Final = "scrape_duration_seconds"
RESIDENT_BYTES: Final = "process_resident_memory_bytes"
CPU_SECONDS: Final = "process_cpu_seconds_total"
INSTANCE: Final = "{{instance}}"


def quantile(share: float, metric: MetricSpec, *matchers: str, by: str = "instance") -> Expression:
    """Return a quantile of a histogram, by instance or by the labels `by`."""

    def expression(span: Span) -> str:
        buckets = each(over("rate", metric, span, *matchers, suffix="_bucket"), f"{by}, le")
        return f"histogram_quantile({share:g}, {buckets})"

    return expression


def errors(span: Span) -> str:
    """Errors a second by instance and name, 0 where an instance has none."""
    of_gpus = rise("rate", metrics.GPU_READ_ERRORS, span, "instance, uuid, error")
    return f"(sum by (instance, error) ({of_gpus})) or on (instance) (0 * {rose(metrics.CLOCK_STEPS)(span)})"


def rose(metric: MetricSpec, function: str = "rate") -> Expression:
    return lambda span: rise(function, metric, span, "instance")


def raw(name: str, span: Span) -> str:
    """Values of a metric that others publish, too; the highest to rank them."""
    return over("max_over_time", name, span) if span.at else select(name)


def ours(expression: str, span: Span) -> str:
    """Exporters alone: `up` and `process_*` are everybody's. One that is gone still counts."""
    exporters = over("max_over_time", metrics.SAMPLER_INTERVAL, RANGE if span == RANGE else WHOLE)
    return f"{expression} and on (job, instance) {exporters}"


def age(span: Span) -> str:
    """How old the values on the page were when it was scraped, of each GPU."""
    if span.at:
        return each(over("max_over_time", metrics.GPU_SAMPLE_TIMESTAMP, span))
    newest = select(metrics.GPU_SAMPLE_TIMESTAMP)
    seconds = each(f"timestamp({newest}) - {newest}")
    return f"clamp_min({seconds}, 0)"


def taken(span: Span) -> str:
    """Samples that scrapers confirmed for each new one, over the scrapers that an exporter knows."""
    new = f"sum by (instance) ({rise('rate', metrics.GPU_SAMPLES, span, 'instance, uuid')})"
    wanted = f"{new} * {gauge(metrics.HISTORY_SCRAPERS, 'instance')(span)}"
    return f"{rose(metrics.HISTORY_CONFIRMED)(span)} / ({wanted} > 0)"


def by_instance(
    title: str,
    description: str,
    unit: str,
    expression: Expression,
    *,
    legend: str = INSTANCE,
    by: str = "instance",
    width: int = 8,
) -> Panel:
    return line(title, description, unit, Query(top(expression, by), legend), width=width)


def driver_call(title: str, description: str, share: float) -> Panel:
    """A quantile of the time of the calls for power and for the energy counter."""
    by = "instance, call"
    calls = quantile(share, metrics.NVML_CALL, 'call=~"power|energy"', by=by)
    return by_instance(title, description, "s", calls, legend="{{instance}} {{call}}", by=by)


def _figures() -> list[Panel]:
    pages = each(ours(over("min_over_time", UP, Span("1m")), RANGE), "instance")
    failed = rise("increase", metrics.GPU_READ_ERRORS, RANGE, "instance, uuid, error")
    lost = f"sum ({rose(metrics.HISTORY_EVICTED, 'increase')(RANGE)})"
    return [
        figure(
            "Exporters up",
            "Share of the exporters that answered every scrape of the last minute.",
            "percentunit",
            f"avg ({pages})",
            low=1,
        ),
        figure(
            "Lowest coverage",
            "Of the time that exporters ran in the range: the GPU with the largest share without samples.",
            "percentunit",
            f"1 - max ({uncovered_share(RANGE)})",
            low=0.99,
        ),
        figure(
            "Read errors",
            "Readings that failed, or could not be, in the range.",
            "none",
            f"sum ({failed}) or vector(0)",
        ),
        figure("Samples lost from the history", "Evicted before a known scraper had them.", "none", lost),
        figure(
            "Scrapers of /history",
            "Known by their ID, over all exporters. 0: nobody stores the 10 Hz samples.",
            "none",
            f"sum ({each(select(metrics.HISTORY_SCRAPERS), 'instance')})",
        ),
        figure(
            "Clock steps",
            "Times that a wall clock was stepped in the range. Each is a gap in /history; counters go on.",
            "none",
            f"sum ({rose(metrics.CLOCK_STEPS, 'increase')(RANGE)})",
        ),
    ]


def _sampling() -> list[Panel]:
    return [
        by_instance(
            "Lateness, p99",
            "A GPU's read minus its 100 ms tick. Beyond 5 ms the machine is too busy.",
            "s",
            quantile(0.99, metrics.SAMPLER_LATENESS),
        ),
        driver_call(
            "NVML call, p99",
            "Time of a call for power, and of one for the energy counter. Above a tick, samples are missing.",
            0.99,
        ),
        driver_call(
            "NVML call, median",
            "Median of the same calls. An energy counter whose median is above 2 % of the sample interval "
            "is read once a second.",
            0.5,
        ),
    ]


def _samples() -> list[Panel]:
    return [
        line(
            "Time without samples",
            "The share of the time, of the GPUs that have most of it in the range. 0 is full coverage.",
            "percentunit",
            Query(top(uncovered_share), GPU_NAME),
            width=8,
            at_most=1,
        ),
        by_instance(
            "Read errors by name",
            "A second, by the driver's name of the error or one of ours.",
            "ops",
            errors,
            legend="{{instance}} {{error}}",
        ),
        line(
            "Age of the samples",
            "How old each GPU's values were when the page was scraped: a fraction of a second. A GPU "
            "that cannot be read has no value; the oldest GPUs of the range.",
            "s",
            Query(f"({age(Span(''))}) and on (instance, gpu, uuid) bottomk($top, {age(WHOLE)})", GPU_NAME),
            width=8,
        ),
    ]


def _history() -> list[Panel]:
    return [
        by_instance(
            "History held",
            "Readings that are kept for scrapers and llem-integrate, over all GPUs.",
            "none",
            gauge(metrics.HISTORY_HELD, "instance"),
            width=6,
        ),
        line(
            "History backlog",
            "Samples that scrapers confirmed for each new one: at 1 they keep pace, below it their backlog "
            "grows, above it is worked off. Empty where nobody scrapes /history; the slowest of the range.",
            "percentunit",
            Query(top(taken, "instance", ranked=lambda span: f"-({taken(span)})"), INSTANCE),
            width=6,
        ),
        line(
            "History trouble",
            "Readings evicted unread, and requests refused because another address uses the same ID, a "
            "second over all exporters. Both should be 0.",
            "ops",
            Query(f"sum ({rose(metrics.HISTORY_EVICTED)(RECENT)})", "evicted"),
            Query(f"sum ({rose(metrics.HISTORY_CONFLICTS)(RECENT)})", "refused"),
            width=6,
        ),
        line(
            "History paused",
            "Number of exporters that add no samples to /history, because their wall clock was stepped back. "
            "Their counters go on.",
            "none",
            Query(f"sum ({each(select(metrics.HISTORY_PAUSED), 'instance')})", "paused"),
            width=6,
        ),
    ]


def _collectors() -> list[Panel]:
    collectors = f"sum by (collector) (1 - {each(select(metrics.COLLECTOR_SUCCESS), 'instance, collector')})"
    slowest = f"max by (collector) ({select(metrics.COLLECTOR_DURATION)})"
    chosen = f"sum by (backend) ({each(select(metrics.BACKEND_SELECTED), 'instance, backend')})"
    return [
        line(
            "Collectors that fail",
            "How many exporters' collectors failed at their last reading.",
            "none",
            Query(collectors, "{{collector}}"),
            width=8,
        ),
        line(
            "Collector's time",
            "The longest reading of a GPU, over all exporters.",
            "s",
            Query(slowest, "{{collector}}"),
            width=8,
        ),
        line(
            "Backend chosen",
            "On how many exporters each backend answers: zeus, nvml, codecarbon.",
            "none",
            Query(chosen, "{{backend}}"),
            width=8,
        ),
    ]


def _process() -> list[Panel]:
    return [
        by_instance(
            "Scrape time",
            "How long Prometheus took for the slower of an exporter's pages.",
            "s",
            lambda span: each(ours(raw(SCRAPE_SECONDS, span), span), "instance"),
        ),
        by_instance(
            "CPU",
            "Of one core, by the exporter's own process.",
            "percentunit",
            lambda span: each(ours(over("rate", CPU_SECONDS, span), span), "instance"),
        ),
        by_instance(
            "Memory",
            "Resident, of the exporter's own process.",
            "bytes",
            lambda span: each(ours(raw(RESIDENT_BYTES, span), span), "instance"),
        ),
    ]


def dashboard() -> Dashboard:
    return Dashboard(
        "llem-health",
        "Exporter health",
        "Lateness, coverage, errors, the driver's speed and the history: whether the joules can be trusted.",
        [_figures(), _sampling(), _samples(), _history(), _collectors(), _process()],
    )
