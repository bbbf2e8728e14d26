"""Write the alerts as Grafana manages them: `python -m grafana.make_alerts [DATASOURCE_UID]` in the root.

Each alert becomes a query, `A`, that returns the series for which it is true, and two expressions after it:
a series that is there counts, whatever its value (`up` is 0 when it is worst). The recording rules and
thresholds stay in Prometheus. Contact points and policies are left to Grafana.
"""

import hashlib
import re
import sys
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).parent
SOURCE: Final = HERE / "prometheus" / "alerts.yml"
TARGET: Final = HERE / "provisioning" / "alerting" / "llem-alerts.yaml"
FOLDER: Final = "llem"
DATASOURCE_UID: Final = "prometheus"
"""Of the datasource in provisioning/datasources; elsewhere give yours."""

INTERVAL: Final = "30s"
LOOK_BACK_S: Final = 600
"""What the range of an instant query says is of no effect; Grafana wants one."""

HEAD: Final = """\
# Made by grafana.make_alerts out of ../../prometheus/alerts.yml: change that, and run it again.
# It needs thresholds.yml and recording.yml in Prometheus, and in place of alerts.yml, not beside it.
"""

Rule = dict[str, Any]


def provisioning(datasource_uid: str = DATASOURCE_UID) -> str:
    """The provisioning file for the alerts as they are in prometheus/alerts.yml."""
    source = yaml.safe_load(SOURCE.read_text())
    groups = [
        {
            "orgId": 1,
            "name": group["name"],
            "folder": FOLDER,
            "interval": INTERVAL,
            "rules": [_managed(rule, datasource_uid) for rule in group["rules"]],
        }
        for group in source["groups"]
    ]
    document = {"apiVersion": 1, "groups": groups}
    return HEAD + yaml.dump(document, Dumper=_Plain, sort_keys=False, width=110)


class _Plain(yaml.SafeDumper):
    """YAML for readers: expressions as blocks, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the name is PyYAML's)
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _Plain.represent_text)


def _managed(rule: Rule, datasource_uid: str) -> Rule:
    """One alert as Grafana has it. No series is no alert; a query that fails is an error, not silence."""
    return {
        # At most 40 characters, the same at each run.
        "uid": "llem-" + hashlib.sha256(rule["alert"].encode()).hexdigest()[:16],
        "title": rule["alert"],
        "condition": "C",
        "data": [
            _query(rule["expr"], datasource_uid),
            _expression("B", {"type": "math", "expression": "is_number($A) || is_nan($A) || is_inf($A)"}),
            _expression("C", {"type": "threshold", "expression": "B", "conditions": [_ABOVE_0]}),
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule["for"],
        "keepFiringFor": rule["keep_firing_for"],
        # A series that is gone is over at once: keepFiringFor is for series that are there and false, and for
        # the last of a rule. More evaluations would keep a pending alert, too: `for` would run through gaps.
        "missing_series_evals_to_resolve": 1,
        "annotations": {name: _template(text) for name, text in rule["annotations"].items()},
        "labels": dict(rule["labels"]),
        "isPaused": False,
    }


_ABOVE_0: Final = {"evaluator": {"type": "gt", "params": [0]}}


def _query(expression: str, datasource_uid: str) -> Rule:
    return {
        "refId": "A",
        "relativeTimeRange": {"from": LOOK_BACK_S, "to": 0},
        "datasourceUid": datasource_uid,
        "model": {"refId": "A", "expr": expression, "instant": True, "range": False, "editorMode": "code"},
    }


def _expression(ref_id: str, model: Rule) -> Rule:
    datasource = {"type": "__expr__", "uid": "__expr__"}
    return {
        "refId": ref_id,
        "relativeTimeRange": {"from": 0, "to": 0},
        "datasourceUid": "__expr__",
        "model": {"refId": ref_id, "datasource": datasource, **model},
    }


def _template(text: str) -> str:
    """Grafana's $value is a text about all queries; the number is in $values."""
    return re.sub(r"\$value\b", "$values.A.Value", text)


def main(arguments: list[str]) -> None:
    """Write the file."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(provisioning(*arguments[:1]))


if __name__ == "__main__":
    main(sys.argv[1:])
