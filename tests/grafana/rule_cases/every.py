"""The cases of all modules, and their trials."""

from collections.abc import Callable
from functools import cache

from tests.grafana.promtool import Case, Trial
from tests.grafana.rule_cases import budgets, exporters, gpus, power, recording
from tests.grafana.rule_files import Rule
from tests.grafana.scraped import INTERVAL_S

DAY_EVALUATION_S = 60


@cache
def hours() -> list[Case]:
    """The cases of a few hours."""
    return [make() for module in (power, budgets, exporters, gpus, recording) for make in module.FAST]


@cache
def days() -> list[Case]:
    """The cases of more than a day."""
    return [make() for module in (budgets, recording) for make in module.SLOW]


def every() -> list[Case]:
    """All cases. They are made when a test needs them: it takes seconds."""
    return hours() + days()


def trials(
    cases: list[Case], change: Callable[[Rule], Rule] = lambda rule: rule, *, all_rules: bool = False
) -> list[Trial]:
    """The cases under changed rules, those of a day evaluated less often."""
    return [
        Trial(case, change, DAY_EVALUATION_S if case in days() else INTERVAL_S, all_rules) for case in cases
    ]


def cases_of(alert: str) -> list[Case]:
    """The cases that check an alert."""
    return [case for case in every() if alert in case.alerts(fires=True) | case.alerts(fires=False)]
