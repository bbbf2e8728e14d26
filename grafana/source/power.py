"""*GPU power and energy*: what the GPUs draw, against what they may, and what that came to."""

from typing import Final

from grafana.source.dashboard import Dashboard
from grafana.source.panel import BLUE, GREEN, RED, Column, Panel, Query, figure, line, table
from grafana.source.promql import (
    JOULES_PER_KWH,
    RANGE,
    RECENT,
    Span,
    by_uuid,
    each,
    gauge,
    joules,
    mean_watts,
    nvml_watts,
    over,
    select,
    top,
    total,
    zeus_watts,
)
from llem_core import metrics

GPU_NAME: Final = "{{instance}} GPU {{gpu}}"
JOB: Final = "job_id, user"
EXTRAPOLATES: Final = (
    "increase() extrapolates to both edges of the range: right to one scrape interval of peak power at "
    "each. For exact joules with bounds, use llem-integrate."
)
MEAN: Final = (
    "Mean power between scrapes, from the energy counters, so that nothing between them is missed: zeus "
    "where the hardware counts, else nvml. A GPU that cannot be read has no value."
)


def limit(labels: str) -> str:
    return each(select(metrics.GPU_POWER_LIMIT), labels)


def share_of_limit(span: Span) -> str:
    return f"({mean_watts(span)}) / {gauge(metrics.GPU_POWER_LIMIT)(span)}"


def ratio(span: Span) -> str:
    return f"({zeus_watts(span)}) / ({nvml_watts(span)})"


def off_one(span: Span) -> str:
    return f"abs(({ratio(span)}) - 1)"


def trace(_: Span) -> str:
    """The samples of each step, every sample in one."""
    return each(over("max_over_time", metrics.GPU_POWER_TRACE, Span("$__interval")))


def job_watts(span: Span) -> str:
    """Power of the GPUs of each job."""
    jobs = gauge(metrics.GPU_JOB_INFO, f"instance, uuid, {JOB}")(span)
    watts = gauge(metrics.GPU_POWER, "instance, uuid")(span)
    return f"sum by ({JOB}) ({jobs} * on (instance, uuid) group_left () {watts})"


def _figures() -> list[Panel]:
    watts = total(each(select(metrics.GPU_POWER), "uuid"))
    range_joules = total(joules(RANGE))
    return [
        figure("Power now", "The newest samples of all GPUs that can be read, together.", "watt", watts),
        figure(
            "Share of the limits",
            "The power of all GPUs now, over their enforced limits together. Only GPUs that can be read "
            "count.",
            "percentunit",
            f"{watts} / sum ({limit('uuid')} and on (uuid) {each(select(metrics.GPU_POWER), 'uuid')})",
        ),
        figure(
            "Energy of the range",
            f"Joules of all GPUs: zeus where the hardware counts, else nvml. {EXTRAPOLATES}",
            "joule",
            range_joules,
        ),
        figure(
            "Energy of the range, kWh",
            f"The same joules, divided by 3.6 million. {EXTRAPOLATES}",
            "kwatth",
            f"{range_joules} / {JOULES_PER_KWH}",
        ),
        figure(
            "Highest sample",
            "The highest 100 ms sample of any GPU; the first scrape of the range looks back up to 60 s "
            "before it.",
            "watt",
            f"max ({over('max_over_time', metrics.GPU_POWER_PEAK, RANGE)})",
        ),
        figure(
            "GPUs",
            "GPUs that were read, each card once. MIG slices are not GPUs here: power and joules are the "
            "whole card's.",
            "none",
            f"count ({each(over('max_over_time', metrics.GPU_POWER, RANGE), 'uuid')})",
        ),
    ]


def _power() -> list[list[Panel]]:
    return [
        [
            line(
                "Power against limit",
                f"{MEAN} The highest and the lowest enforced limit beside it.",
                "watt",
                Query(top(mean_watts), GPU_NAME),
                Query(f"max ({limit('uuid')})", "highest limit"),
                Query(f"min ({limit('uuid')})", "lowest limit"),
                colours={"highest limit": RED, "lowest limit": RED},
            ),
            line(
                "Power as a share of the limit",
                "Each GPU's mean power over its own enforced limit: near 1 it is held down by sw_power_cap.",
                "percentunit",
                Query(top(share_of_limit), GPU_NAME),
            ),
        ],
        [
            line(
                "All GPUs together",
                f"{MEAN} The sum over GPUs of one instant, never over time.",
                "watt",
                Query(total(each(mean_watts(RECENT), "uuid")), "power"),
                Query(f"sum ({limit('uuid')})", "limits"),
                colours={"limits": RED},
            ),
            line(
                "Highest sample of 60 s",
                "The highest 100 ms sample of the minute before each scrape: what the mean does not show.",
                "watt",
                Query(top(gauge(metrics.GPU_POWER_PEAK)), GPU_NAME),
            ),
        ],
    ]


def _energy() -> list[Panel]:
    hourly = Span("$__interval")
    return [
        line(
            "Energy by hour",
            "Joules of all GPUs in the hour before each bar's time (longer steps over longer ranges). "
            f"{EXTRAPOLATES}",
            "joule",
            Query(total(joules(hourly)), "energy"),
            interval="1h",
            bars=True,
        ),
        line(
            "Power by job",
            "The newest sample of each GPU, by the jobs of --jobs.dir (else empty). Jobs that share a GPU "
            "each show all of its power.",
            "watt",
            Query(top(job_watts, JOB), "{{job_id}} {{user}}"),
        ),
    ]


def _consumers() -> list[Panel]:
    return [
        table(
            "Top consumers",
            f"The GPUs with most joules in the range, each card once wherever it was. {EXTRAPOLATES}",
            IDENTITY,
            [
                Column("Energy", "joule", by_uuid(joules(RANGE))),
                Column("Energy, kWh", "kwatth", f"{by_uuid(joules(RANGE))} / {JOULES_PER_KWH}", 3),
            ],
            labels=IDENTITY_COLUMNS,
            only=f"topk($top, {by_uuid(joules(RANGE))})",
        )
    ]


IDENTITY: Final = (
    f"topk by (uuid) (1, {each(over('max_over_time', metrics.GPU_INFO, RANGE), 'uuid, instance, gpu, name')})"
)
"""One row a card: the place and the name that it had in the range (one of them, if it moved)."""
IDENTITY_COLUMNS: Final = {"instance": "Instance", "gpu": "GPU", "name": "Name", "uuid": "UUID"}


def _backends() -> list[Panel]:
    both = f"({zeus_watts(RECENT)}) and ({nvml_watts(RECENT)} >= 0)"
    return [
        line(
            "zeus against nvml",
            "Mean power of all GPUs that have both, by the hardware's energy counter (zeus) and by the "
            "exporter's trapezoid (nvml) over the time that it covers.",
            "watt",
            Query(total(both), "zeus"),
            Query(total(f"({nvml_watts(RECENT)} >= 0) and ({zeus_watts(RECENT)})"), "nvml"),
            colours={"zeus": GREEN, "nvml": BLUE},
        ),
        line(
            "Ratio zeus / nvml",
            "1 where both agree; beyond 5 % one of them is wrong, or power changes faster than it is "
            "sampled. The GPUs that are furthest from 1 over the range.",
            "none",
            Query(top(ratio, ranked=off_one), GPU_NAME),
        ),
    ]


def _conditions() -> list[Panel]:
    return [
        line(
            "GPUs that are throttled",
            "How many GPUs have their clocks held down, by reason. hw_power_brake and hw_thermal want a "
            "look.",
            "none",
            Query(f"sum by (reason) ({each(select(metrics.GPU_THROTTLE), 'uuid, reason')})", "{{reason}}"),
        ),
        line(
            "Temperature",
            "Of the GPU dies, the hottest of the range.",
            "celsius",
            Query(top(gauge(metrics.GPU_TEMPERATURE)), GPU_NAME),
        ),
    ]


def _trace() -> list[Panel]:
    """At the bottom: Grafana asks for what is in sight, and this is ten samples a second."""
    return [
        line(
            "Every 100 ms",
            "The samples themselves, where /history is scraped (else empty). Zoom in to 15 min or less to "
            "see each; over longer ranges it is the highest of each step.",
            "watt",
            Query(top(trace, ranked=gauge(metrics.GPU_POWER_PEAK)), GPU_NAME),
            width=24,
            interval="100ms",
        )
    ]


def dashboard() -> Dashboard:
    return Dashboard(
        "llem-power",
        "GPU power and energy",
        "What GPUs draw, against their limits, and the joules of the range: counted, never watts summed "
        "over time.",
        [_figures(), *_power(), _energy(), _consumers(), _backends(), _conditions(), _trace()],
    )
