"""*Job window*: a window chosen by the time range, with the figures that llem-integrate gives for it."""

from typing import Final

from grafana.source.dashboard import Dashboard
from grafana.source.panel import Column, Panel, Query, figure, line, table, words
from grafana.source.power import EXTRAPOLATES, GPU_NAME, IDENTITY, IDENTITY_COLUMNS, MEAN
from grafana.source.promql import (
    JOULES_PER_KWH,
    RANGE,
    by_uuid,
    covered_seconds,
    each,
    integrated_seconds,
    joules,
    mean_watts,
    nvml_joules,
    over,
    select,
    top,
    uncovered_share,
    zeus_joules,
)
from llem_core import metrics

WINDOW_SECONDS: Final = "$__range_s"

JOULES: Final = by_uuid(joules(RANGE))
COVERED: Final = f"clamp_max({by_uuid(covered_seconds(RANGE))}, {WINDOW_SECONDS})"
COVERAGE: Final = f"{COVERED} / {WINDOW_SECONDS}"
GAPS: Final = f"{WINDOW_SECONDS} - {COVERED}"
MEAN_WATTS: Final = f"{JOULES} / ({by_uuid(covered_seconds(RANGE))} > 0)"
INTEGRATED: Final = f"clamp_max({by_uuid(integrated_seconds(RANGE))}, {WINDOW_SECONDS})"
RATIO: Final = f"({by_uuid(zeus_joules(RANGE))} / {by_uuid(nvml_joules(RANGE))}) * ({INTEGRATED} / {COVERED})"
"""Of mean powers: what nvml did not cover, it cannot disagree on."""


def peak_watts() -> str:
    """The highest sample: of the trace, else of the gauge that looks back 60 s, else of the scraped one."""
    peak = select(metrics.GPU_POWER_PEAK)
    # The gauge's own time must lie a minute inside the window, or its value may be from before the window.
    inside = f"({peak} and timestamp({peak}) >= ${{__from:date:seconds}} + 60)"
    return " or ".join(
        each(choice, "uuid")
        for choice in (
            over("max_over_time", metrics.GPU_POWER_TRACE, RANGE),
            f"max_over_time({inside}[$__range:30s])",
            over("max_over_time", metrics.GPU_POWER, RANGE),
        )
    )


def _figures() -> list[Panel]:
    return [
        figure("Energy", f"Joules of all GPUs in the window. {EXTRAPOLATES}", "joule", f"sum ({JOULES})"),
        figure(
            "Energy, kWh", f"The same in kWh. {EXTRAPOLATES}", "kwatth", f"sum ({JOULES}) / {JOULES_PER_KWH}"
        ),
        figure("Mean power", "Of all GPUs together: each one's mean, summed.", "watt", f"sum ({MEAN_WATTS})"),
        figure(
            "Highest sample", "The highest sample of any GPU in the window.", "watt", f"max ({peak_watts()})"
        ),
        figure(
            "Lowest coverage",
            "Of the GPU with the least covered time; below 0.99, llem-integrate calls the window not valid.",
            "percentunit",
            f"min ({COVERAGE})",
            low=0.99,
        ),
        figure("Longest gaps", "Seconds without joules of the GPU that has most.", "s", f"max ({GAPS})"),
    ]


def _table() -> Panel:
    return table(
        "GPUs in this window",
        "zeus's joules where the hardware counts, else nvml's, over the time that they cover; gap seconds "
        f"are the rest of the window, both ends included. The ratio is of mean powers. {EXTRAPOLATES}",
        IDENTITY,
        [
            Column("Joules", "joule", JOULES, 3),
            Column("kWh", "kwatth", f"{JOULES} / {JOULES_PER_KWH}", 4),
            Column("Mean", "watt", MEAN_WATTS, 1),
            Column("Peak", "watt", peak_watts(), 1),
            Column("Coverage", "percentunit", COVERAGE, 2),
            Column("Gaps", "s", GAPS, 1),
            Column("zeus", "joule", by_uuid(zeus_joules(RANGE)), 3),
            Column("nvml", "joule", by_uuid(nvml_joules(RANGE)), 3),
            Column("nvml's coverage", "percentunit", f"{INTEGRATED} / {WINDOW_SECONDS}", 2),
            Column("zeus / nvml", "none", RATIO, 3),
        ],
        labels=IDENTITY_COLUMNS,
        height=12,
    )


def _lines() -> list[Panel]:
    return [
        line("Power", MEAN, "watt", Query(top(mean_watts), GPU_NAME)),
        line(
            "Gaps",
            "The share of the time in which a running exporter had no sample of a GPU. While the exporter "
            "itself is not scraped, the line has a hole.",
            "percentunit",
            Query(top(uncovered_share), GPU_NAME),
            at_most=1,
        ),
    ]


MATCH: Final = 'instance=~"${instance:pipe}",gpu=~"${gpu:pipe}"'
COMMAND: Final = f"""The same window, exactly, with bounds and a verdict:

```
llem-integrate --window ${{__from:date:iso}},${{__to:date:iso}} --match '{MATCH}' --source http://prometheus:9090
```
"""


def dashboard() -> Dashboard:
    return Dashboard(
        "llem-job-window",
        "Job window",
        "Set the time range to a job's: joules per GPU, how well they are covered, mean, peak and gaps.",
        [
            _figures(),
            [_table()],
            _lines(),
            [
                words(
                    "With llem-integrate",
                    "The command that gives these figures without extrapolation.",
                    COMMAND,
                )
            ],
        ],
    )
