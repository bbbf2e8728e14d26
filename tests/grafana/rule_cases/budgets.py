"""Unit tests of the alerts on budgets: 1 % above and below."""

from tests.grafana.promtool import Case, Firing, Message
from tests.grafana.scraped import Gpu, Target


def _fleet(watts: float) -> list[Gpu]:
    """101 kW or so, in large GPUs on two nodes; the sum falls to 0.96 of it, then to 0.94."""
    loads = [(watts, 20), (0.96 * watts / 1.01, 30), (0.94 * watts / 1.01, 60)]
    gpus = [Gpu(f"GPU-{n}", f"n{n % 2}:9955", gpu=str(n), limit_watts=1e6) for n in range(4)]
    for gpu in gpus:
        for power, minutes in loads:
            gpu.draws(power / len(gpus), minutes)
    return gpus


def fleet_over() -> Case:
    alert = "LlemFleetPowerOverBudget"
    return Case(
        "all GPUs together over the budget",
        _fleet(101_000),
        [
            Firing(10, alert),
            Firing(12, alert, [{}]),
            Firing(49, alert, [{}]),
            Firing(61, alert, [{}]),
            Firing(70, alert),
            Message(
                12,
                alert,
                {},
                "All GPUs together draw 101kW",
                "All GPUs together draw 101kW, on average over 5 min, for more than 10 min. "
                "That is more than llem:threshold:fleet_power_watts allows.",
            ),
        ],
    )


def fleet_below() -> Case:
    alert = "LlemFleetPowerOverBudget"
    return Case(
        "all GPUs together just below the budget",
        _fleet(99_000),
        [Firing(12, alert), Firing(19, alert), Firing(60, alert)],
    )


def emissions() -> Case:
    alert = "LlemEmissionsOverBudget"
    # 42.1 kg/h are 1 t after 1425 min; the counter of one of two nodes restarts on the way.
    first = Target("n1:9955").up(600, grams_per_hour=21_050).carbon_restarts().up(900, grams_per_hour=21_050)
    second = Target("n2:9955").up(1500, grams_per_hour=21_050)
    for node in (first, second):
        # Then nothing: what leaves the 24 hours brings them below 1 t in 14 min.
        node.up(100, grams_per_hour=0)
    return Case(
        "emissions of 24 hours over the budget",
        [first, second],
        [
            Firing(1438, alert),
            Firing(1450, alert, [{}]),
            Firing(1565, alert, [{}]),
            Firing(1595, alert),
            Message(
                1490,
                alert,
                {},
                "1010312 g of CO2 equivalent in 24 hours",
                "By CodeCarbon, all nodes together emitted 1010312 g of CO2 equivalent in the last 24 hours. "
                "That is more than llem:threshold:fleet_emissions_grams_per_day allows.",
            ),
        ],
    )


def emissions_below() -> Case:
    alert = "LlemEmissionsOverBudget"
    return Case(
        "emissions of 24 hours just below the budget, of an exporter that two jobs scrape",
        [Target("n1:9955", job=job).up(1500, grams_per_hour=41_300) for job in ("llem", "llem-too")],
        [Firing(1490, alert)],
    )


FAST = (
    fleet_over,
    fleet_below,
)
SLOW = (emissions, emissions_below)
