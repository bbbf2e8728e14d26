"""The cases of all modules, and their trials."""

from collections.abc import Callable

from tests.grafana.promtool import Case, Trial
from tests.grafana.rule_cases import budgets, exporters, gpus, power, recording
from tests.grafana.rule_files import Rule
from tests.grafana.scraped import INTERVAL_S

HOURS = [make() for module in (power, budgets, exporters, gpus, recording) for make in module.FAST]
DAYS = [make() for module in (budgets, recording) for make in module.SLOW]
DAY_EVALUATION_S = 60


def trials(
    cases: list[Case], change: Callable[[Rule], Rule] = lambda rule: rule, *, all_rules: bool = False
) -> list[Trial]:
    """The cases under changed rules, those of a day evaluated less often."""
    return [
        Trial(case, change, DAY_EVALUATION_S if case in DAYS else INTERVAL_S, all_rules) for case in cases
    ]


def cases_of(alert: str) -> list[Case]:
    """The cases that check an alert."""
    return [case for case in HOURS + DAYS if alert in case.alerts(fires=True) | case.alerts(fires=False)]
