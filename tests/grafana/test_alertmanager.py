"""Alertmanager's configuration, by amtool and by a real Alertmanager."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
import urllib3
import yaml

from tests.grafana.rule_files import GRAFANA, alerts
from tests.servers import Alertmanager, program, wait_until

CONFIG = GRAFANA / "alertmanager" / "alertmanager.yml"


@pytest.mark.full
def test_alertmanager_takes_its_configuration() -> None:
    """amtool accepts the configuration."""
    checked = subprocess.run(
        [program("amtool", "prometheus-alertmanager"), "check-config", str(CONFIG)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_that_the_configuration_names_exists() -> None:
    """Each name in the patterns of an inhibition rule matches an alert."""
    config = yaml.safe_load(CONFIG.read_text())
    for rule in config["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            pattern = re.fullmatch(r'alertname=~?"(.+)"', matcher)
            assert pattern, matcher
            assert any(re.fullmatch(pattern[1], alert) for alert in alerts()), matcher
            for word in re.findall(r"[A-Z]\w+", pattern[1].replace("Llem", "")):
                assert any(word in alert for alert in alerts()), word


@pytest.mark.full
def test_alertmanager_sends_alerts_where_they_belong() -> None:
    """amtool routes each severity to an existing receiver."""
    for severity in ("critical", "warning", "info"):
        routed = subprocess.run(
            [
                program("amtool", "prometheus-alertmanager"),
                "config",
                "routes",
                "test",
                f"--config.file={CONFIG}",
                "alertname=LlemGpuPowerHigh",
                f"severity={severity}",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert routed.returncode == 0, routed.stderr
        assert routed.stdout.strip() == "nobody"


def inhibitions() -> Iterator[tuple[str, str, str]]:
    """Each pair of alerts of which the first silences the second, and the label that both must share."""
    for rule in yaml.safe_load(CONFIG.read_text())["inhibit_rules"]:
        sources, targets = (
            [
                alert
                for alert in alerts()
                if all(re.fullmatch(re.split("=~?", matcher)[1].strip('"'), alert) for matcher in rule[side])
            ]
            for side in ("source_matchers", "target_matchers")
        )
        assert len(rule["equal"]) == 1
        yield from ((source, target, rule["equal"][0]) for source in sources for target in targets)


@pytest.mark.full
def test_what_follows_from_something_worse_is_silent_on_the_same_node_or_gpu_only(
    servers: ExitStack, tmp_path: Path
) -> None:
    """A real Alertmanager inhibits an alert by its cause, only on the same node or GPU."""
    alertmanager = servers.enter_context(Alertmanager(tmp_path, yaml.safe_load(CONFIG.read_text())))
    pairs = list(inhibitions())
    assert len(pairs) > 15
    names = (f"node or GPU {number}" for number in count())
    posted = []
    for number, (source, target, label) in enumerate(pairs):
        worse = {"alertname": source, "instance": next(names), "uuid": next(names)}
        same = {"alertname": target, "instance": next(names), "uuid": next(names), label: worse[label]}
        other = {"alertname": target, "instance": next(names), "uuid": next(names)}
        posted += [
            {"labels": worse},
            {"labels": same | {"pair": f"{number}", "must": "be inhibited"}},
            {"labels": other | {"pair": f"{number}", "must": "not be inhibited"}},
        ]
    answer = urllib3.request("POST", f"{alertmanager.url}/api/v2/alerts", json=posted, timeout=10.0)
    assert answer.status == 200, answer.data

    def wrong() -> list[dict[str, str]]:
        held = [alert for alert in alertmanager.alerts() if "must" in alert["labels"]]
        assert len(held) == 2 * len(pairs)
        return [
            alert["labels"]
            for alert in held
            if bool(alert["status"]["inhibitedBy"]) is not (alert["labels"]["must"] == "be inhibited")
        ]

    wait_until(lambda: not wrong(), "each alert inhibited, or not, as it must be")


def test_an_alert_silences_none_that_is_worse() -> None:
    """An alert inhibits only alerts of the same or lower severity, and not itself."""
    order = ["info", "warning", "critical"]
    severities = {name: order.index(rule["labels"]["severity"]) for name, rule in alerts().items()}
    assert [
        f"{source} silences {target}"
        for source, target, _ in inhibitions()
        if source == target or severities[source] < severities[target]
    ] == []
