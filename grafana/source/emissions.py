"""*Emissions and cost*: grams of CO2 equivalent and money, at CodeCarbon's rates or at typed-in ones."""

from typing import Final

from grafana.source.dashboard import Dashboard, number
from grafana.source.panel import GREEN, Column, Panel, Query, figure, line, table
from grafana.source.power import EXTRAPOLATES, IDENTITY, IDENTITY_COLUMNS
from grafana.source.promql import (
    JOULES_PER_KWH,
    RANGE,
    RECENT,
    WHOLE,
    Span,
    by_uuid,
    joules,
    mean_watts,
    rise,
    total,
)
from llem_core import metrics

INTENSITY: Final = (
    "Grams per kWh are CodeCarbon's own of that node and range where it gives any, else the variable "
    "*intensity*."
)
SHARE: Final = "Operational, location-based, the GPUs' share only, times the variable *PUE*."
STEP: Final = Span("$__interval")
"""Of bars that stand side by side."""


def rate_by_codecarbon(span: Span) -> str:
    """Grams per kWh of each instance; nothing where CodeCarbon counted no energy."""
    grams = rise("increase", metrics.CODECARBON_EMISSIONS, span, "instance")
    energy = rise("increase", metrics.CODECARBON_ENERGY, span, "instance, component")
    return f"({grams} / sum by (instance) ({energy}) * {JOULES_PER_KWH}) > 0"


def intensity(span: Span, of: str) -> str:
    """Grams per kWh of each instance of `of`."""
    typed = f"0 * max by (instance) ({of}) + $intensity"
    return f"(({rate_by_codecarbon(span)}) or ({typed}))"


def grams(span: Span) -> str:
    """Grams of each GPU at its instance."""
    kwh = f"(({joules(span)}) / {JOULES_PER_KWH})"
    return f"{kwh} * on (instance) group_left () {intensity(span, joules(span))} * $pue"


def grams_per_hour(span: Span) -> str:
    """Grams an hour of each GPU, by its mean power and the range's grams per kWh."""
    kilowatts = f"(({mean_watts(span)}) / 1000)"
    return f"{kilowatts} * on (instance) group_left () {intensity(WHOLE, mean_watts(span))} * $pue"


def cost(span: Span) -> str:
    return f"({joules(span)}) / {JOULES_PER_KWH} * $price * $pue"


def _figures() -> list[Panel]:
    energy = total(joules(RANGE))
    mean_rate = f"{total(grams(RANGE))} / ({energy} / {JOULES_PER_KWH} > 0) / $pue"
    return [
        figure(
            "Emissions of the range",
            f"Grams of CO2 equivalent. {INTENSITY} {SHARE} {EXTRAPOLATES}",
            "massg",
            total(grams(RANGE)),
            width=6,
        ),
        figure(
            "Cost of the range",
            f"In the currency of the variable *price* (per kWh), times the PUE; GPUs only. {EXTRAPOLATES}",
            "none",
            total(cost(RANGE)),
            width=6,
        ),
        figure(
            "Energy of the range",
            f"kWh of the GPUs, without PUE. {EXTRAPOLATES}",
            "kwatth",
            f"{energy} / {JOULES_PER_KWH}",
            width=6,
        ),
        figure(
            "Intensity in use, g/kWh",
            f"Grams per kWh, the mean over the energy of all nodes. {INTENSITY}",
            "none",
            mean_rate,
            width=6,
        ),
    ]


def _emissions() -> list[Panel]:
    by_instance = f"sum by (instance) ({grams_per_hour(RECENT)})"
    ranked = f"sum by (instance) ({mean_watts(WHOLE)})"
    kwh = f"({joules(STEP)}) / {JOULES_PER_KWH}"
    grams_of_step = f"{kwh} * on (instance) group_left () {intensity(WHOLE, joules(STEP))} * $pue"
    return [
        line(
            "Emission rate, by the hour",
            f"Grams an hour by node. {INTENSITY} {SHARE}",
            "massg",
            Query(f"({by_instance}) and on (instance) topk($top, {ranked})", "{{instance}}"),
        ),
        line(
            "Emissions by hour",
            f"Grams in the hour before each bar's time. {INTENSITY} {SHARE} {EXTRAPOLATES}",
            "massg",
            Query(total(grams_of_step), "emissions"),
            interval="1h",
            bars=True,
            colours={"emissions": GREEN},
        ),
    ]


def _cost_and_nodes() -> list[Panel]:
    of_nodes = rise("rate", metrics.CODECARBON_ENERGY, RECENT, "instance, component")
    return [
        line(
            "Cost by hour",
            f"In the currency of *price*, for the hour before each bar's time. {EXTRAPOLATES}",
            "none",
            Query(total(cost(STEP)), "cost"),
            interval="1h",
            bars=True,
        ),
        line(
            "CodeCarbon: power of whole nodes",
            "Of CPU, memory and GPUs, PUE 1, where CodeCarbon runs (else empty). It measures every 15 s.",
            "watt",
            Query(f"sum by (component) ({of_nodes})", "{{component}}"),
            interval="1m",
        ),
    ]


def _table() -> Panel:
    return table(
        "GPUs",
        f"The GPUs with most joules in the range. {INTENSITY} {SHARE} {EXTRAPOLATES}",
        IDENTITY,
        [
            Column("Emissions", "massg", by_uuid(grams(RANGE)), 2),
            Column("Energy", "kwatth", f"{by_uuid(joules(RANGE))} / {JOULES_PER_KWH}", 4),
            Column("Cost", "none", by_uuid(cost(RANGE)), 4),
        ],
        labels=IDENTITY_COLUMNS,
        only=f"topk($top, {by_uuid(joules(RANGE))})",
    )


def dashboard() -> Dashboard:
    return Dashboard(
        "llem-emissions",
        "Emissions and cost",
        "Grams of CO2 equivalent and money for the GPUs' energy of the range.",
        [_figures(), _emissions(), _cost_and_nodes(), [_table()]],
        variables=[
            number(
                "intensity",
                "intensity (g/kWh)",
                "400",
                "Grams of CO2 equivalent per kWh, where CodeCarbon gives none.",
            ),
            number("price", "price (per kWh)", "0.30", "In any currency: the cost is in the same."),
            number(
                "pue",
                "PUE",
                "1",
                "Energy of the facility over that of its machines; times emissions and cost.",
            ),
        ],
        start="now-24h",
    )
