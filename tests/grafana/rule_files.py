"""grafana/prometheus as the tests read it: its files, rules and thresholds, and changed copies of them."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

GRAFANA = Path(__file__).parents[2] / "grafana"
FOLDER = GRAFANA / "prometheus"
RULE_FILES = ("thresholds.yml", "recording.yml", "alerts.yml")
THRESHOLD = "llem:threshold:"

Document = dict[str, Any]
Rule = dict[str, Any]


@cache
def document(name: str) -> Document:
    """One of the files, parsed once: read it, copy it, but do not change it."""
    loaded: Document = yaml.safe_load((FOLDER / name).read_text())
    return loaded


def rules(*names: str) -> Iterator[Rule]:
    """All rules of some files, or of all."""
    for name in names or RULE_FILES:
        for group in document(name)["groups"]:
            yield from group["rules"]


@cache
def alerts() -> dict[str, Rule]:
    """The alerts by their names."""
    return {rule["alert"]: rule for rule in rules("alerts.yml")}


@cache
def thresholds() -> dict[str, float]:
    """The thresholds by their names, without what all names begin with."""
    return {
        rule["record"].removeprefix(THRESHOLD): float(re.fullmatch(r"vector\((.*)\)", rule["expr"])[1])  # type: ignore[index]
        for rule in rules("thresholds.yml")
    }


def read_by(expressions: Iterable[str]) -> set[str]:
    """The names of the rules that the expressions read, directly or through other rules."""
    rule_of = {name_of(rule): rule for rule in rules()}
    names: set[str] = set()
    pending = list(expressions)
    while pending:
        found = set(re.findall(r"[\w:]+", pending.pop())) & rule_of.keys() - names
        names |= found
        pending += [rule_of[name]["expr"] for name in found]
    return names


def name_of(rule: Rule) -> str:
    """The alert's name, or the recorded series'."""
    return str(rule.get("alert") or rule["record"])


def write_rules(
    folder: Path, change: Callable[[Rule], Rule | None] = lambda rule: rule, seconds_per_minute: float = 60
) -> list[str]:
    """Write the rule files into `folder`, each rule changed, or left out for None; return their paths.

    With fewer seconds in a minute all durations are shortened: `for`, ranges, offsets, intervals.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in RULE_FILES:
        groups = []
        for group in document(name)["groups"]:
            changed = (change(rule) for rule in group["rules"])
            kept = [_shortened(rule, seconds_per_minute) for rule in changed if rule is not None]
            interval = {key: _shorter(group[key], seconds_per_minute) for key in group.keys() & {"interval"}}
            if kept:
                groups.append(group | {"rules": kept} | interval)
        path = folder / name
        path.write_text(json.dumps({"groups": groups}))  # JSON is YAML
        paths.append(str(path))
    return paths


def with_thresholds(values: Mapping[str, float]) -> Callable[[Rule], Rule]:
    """A change of rules: other thresholds; a name that is none is a KeyError."""
    known = thresholds()
    changed = {THRESHOLD + name: f"vector({values[name]!r})" for name in values if known[name] is not None}
    return lambda rule: rule | {"expr": changed.get(rule.get("record", ""), rule["expr"])}


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _shorter(duration: str, seconds_per_minute: float) -> str:
    number, unit = int(duration[:-1]), duration[-1]
    milliseconds = round(number * _SECONDS[unit] * seconds_per_minute / 60 * 1000)
    return f"{milliseconds}ms"


def _shortened(rule: Rule, seconds_per_minute: float) -> Rule:
    if seconds_per_minute == 60:
        return rule
    expression = re.sub(
        r"(?<=[\[:])\d+[smhd](?=[\]:])|(?<=offset )\d+[smhd]",
        lambda found: _shorter(found[0], seconds_per_minute),
        rule["expr"],
    )
    durations = {
        key: _shorter(rule[key], seconds_per_minute) for key in ("for", "keep_firing_for") if key in rule
    }
    return rule | durations | {"expr": expression}
