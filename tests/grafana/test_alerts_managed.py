"""The alerts as Grafana manages them."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from grafana.make_alerts import DATASOURCE_UID, TARGET, main, provisioning
from tests.grafana.rule_files import alerts

# Source: AlertRuleGroupV1, AlertRuleV1, QueryV1 in Grafana's pkg/services/provisioning/alerting.
GROUP_FIELDS = {"orgId", "name", "folder", "interval", "rules"}
RULE_FIELDS = {
    "uid",
    "title",
    "condition",
    "data",
    "noDataState",
    "execErrState",
    "for",
    "keepFiringFor",
    "missing_series_evals_to_resolve",
    "annotations",
    "labels",
    "isPaused",
}
QUERY_FIELDS = {"refId", "relativeTimeRange", "datasourceUid", "model"}


@cache
def groups() -> list[dict[str, Any]]:
    """The groups of rules in the file."""
    document = yaml.safe_load(TARGET.read_text())
    assert document["apiVersion"] == 1
    return list(document["groups"])


def managed() -> list[dict[str, Any]]:
    """All rules of the file."""
    return [rule for group in groups() for rule in group["rules"]]


def test_the_file_is_what_the_rules_make() -> None:
    """The file equals the output of `python -m grafana.make_alerts` for alerts.yml."""
    assert TARGET.read_text() == provisioning()


def test_every_alert_is_there_with_its_expression_times_and_labels() -> None:
    """Each Grafana-managed rule has the query, the durations and the labels of its alert."""
    assert [rule["title"] for rule in managed()] == list(alerts())
    for rule in managed():
        source = alerts()[rule["title"]]
        query = rule["data"][0]
        assert query["model"]["expr"] == source["expr"]
        assert query["model"]["instant"] is True
        assert (rule["for"], rule["keepFiringFor"]) == (source["for"], source["keep_firing_for"])
        assert rule["labels"] == source["labels"]


def test_grafana_knows_every_field() -> None:
    """All fields exist in Grafana's provisioning, which ignores unknown fields."""
    for group in groups():
        assert set(group) == GROUP_FIELDS
    uids = [rule["uid"] for rule in managed()]
    assert len(set(uids)) == len(uids)
    for rule in managed():
        assert set(rule) == RULE_FIELDS
        # Source: util.ValidateUID, at most 40 of these.
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", rule["uid"])
        assert rule["noDataState"] in {"NoData", "OK", "Alerting", "KeepLast"}
        assert rule["execErrState"] in {"Error", "OK", "Alerting", "KeepLast"}
        assert all(set(query) == QUERY_FIELDS for query in rule["data"])
        assert all(query["refId"] == query["model"]["refId"] for query in rule["data"])


def test_the_condition_is_true_for_each_series_that_is_there() -> None:
    """The condition is also true for a series with the value 0: C is above 0 if A is any number."""
    for rule in managed():
        query, exists, above = rule["data"]
        assert exists["model"]["expression"].startswith(f"is_number(${query['refId']})")
        assert (exists["model"]["type"], above["model"]["type"]) == ("math", "threshold")
        assert above["model"]["expression"] == exists["refId"]
        assert above["model"]["conditions"] == [{"evaluator": {"type": "gt", "params": [0]}}]
        assert rule["condition"] == above["refId"]


def test_texts_read_the_number_as_grafana_gives_it() -> None:
    """In Grafana, $value is a text, and ${...} is an environment variable."""
    for rule in managed():
        for text in rule["annotations"].values():
            assert not re.search(r"\$value\b", text)
            assert "${" not in text
        assert "$values.A.Value" in rule["annotations"]["description"]


def test_another_datasource(tmp_path: Path, monkeypatch: Any) -> None:
    """`make_alerts UID` uses the datasource with that UID."""
    monkeypatch.setattr("grafana.make_alerts.TARGET", tmp_path / "out" / "alerts.yaml")
    main(["mimir"])
    text = (tmp_path / "out" / "alerts.yaml").read_text()
    assert text == provisioning("mimir")
    assert text.replace("datasourceUid: mimir", f"datasourceUid: {DATASOURCE_UID}") == provisioning()
